"""One layer on its way to become a snapshot: unpacked, settled on what is below it, synced, committed. Over ports only.

A layer is unpacked on top of its parent, or *apart* from it, where the snapshotter can put it there afterwards
(capability "rebase"): then layers need not wait for each other. What is unpacked apart goes into the upper directory of
an overlay without lower ones, in overlay's own form. It may turn out that this cannot be: a hard link to a file of
another layer, a directory that it only implies and that is none below. Such a layer is unpacked again, in order.
"""

import contextlib
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from spec import errors, names
from spec.oci.image import Descriptor
from spec.ports import Applied, Applier, Cancel, Snapshotter, Source
from spec.records import Labels
from spec.types import Mount

_sequence = itertools.count()


@dataclass(frozen=True)
class Step:
    """A layer and its place in the chain; `parent` is the chain id below, "" for the lowest; `more` are labels."""

    layer: Descriptor
    diff_id: str
    chain_id: str
    parent: str
    more: Labels = field(default_factory=dict)

    @property
    def labels(self) -> Labels:
        """Of its snapshot, active and committed."""
        labels = {**self.more, names.DIFF_ID: self.diff_id}
        if self.parent:
            labels[names.PARENT_CHAIN_ID] = self.parent
        return labels


@dataclass(frozen=True)
class Made:
    """A layer that is unpacked into the active snapshot `key`; `apart` from its parent, if it has one."""

    step: Step
    key: str
    mounts: Sequence[Mount]
    applied: Applied
    apart: bool


class Layers:
    """Snapshots of layers in one snapshotter. Nothing is left of one that fails. From any thread.

    With `sync` a layer's data is durable before its commit is. `keep` makes a snapshot that of the call's lease.
    """

    def __init__(self, snapshotter: Snapshotter, applier: Applier, sync: bool, keep: Callable[[str], None]) -> None:
        self._snapshotter = snapshotter
        self._applier = applier
        self._sync = sync
        self._keep = keep
        self._written: Sequence[Mount] = ()
        self.rebases = "rebase" in snapshotter.capabilities

    def has(self, chain_id: str) -> bool:
        """Whether it is there, and stays: no collection took it before it was kept."""
        if not self._is_there(chain_id):
            return False
        self._keep(chain_id)
        return self._is_there(chain_id)

    def apart(self, step: Step, source: Source | None, cancel: Cancel) -> Made | None:
        """Unpack it, from the store without a `source`, apart from its parent; None when that cannot be.
        InvalidArgument when its diff id is another."""
        key, mounts = self._prepare(step, "")
        try:
            target = _upper_alone(mounts) if step.parent else mounts
            return Made(step, key, target, self._apply(step, source, target, cancel), apart=True)
        except errors.FailedPrecondition:
            self._remove(key)
            if not step.parent:
                raise
            return None
        except BaseException:
            self._remove(key)
            raise

    def on_parent(self, step: Step, source: Source | None, cancel: Cancel) -> Made:
        """Unpack it likewise on top of its parent, which is committed."""
        key, mounts = self._prepare(step, step.parent)
        try:
            return Made(step, key, mounts, self._apply(step, source, mounts, cancel), apart=False)
        except BaseException:
            self._remove(key)
            raise

    def settle(self, made: Made, beneath: Sequence[Made]) -> bool:
        """Fit what it only implied to what is below; whether that could be. `beneath` are those below it that are not
        committed, lowest first; what they stand on is."""
        if not (made.apart and made.step.parent and made.applied.implied):
            return True
        base = beneath[0].step.parent if beneath else made.step.parent
        if not base:
            return self._applier.settle(made.applied, _stacked(beneath, ()))
        key = _key("settle", made.step.chain_id)
        shown = self._snapshotter.view(key, base)
        try:
            return self._applier.settle(made.applied, _stacked(beneath, shown))
        finally:
            self._remove(key)

    def sync(self, made: Made) -> None:
        """Make durable what has been written to its filesystem, by other layers too."""
        if self._sync:
            self._applier.sync(made.mounts)

    def write_back(self) -> None:
        """Let the disk work on what is being unpacked, for there will be the less to wait for."""
        if self._sync and self._written:
            with contextlib.suppress(errors.NotFound):  # it failed since; what the disk says is told once, and must be
                self._applier.sync(self._written)

    def commit(self, made: Made) -> None:
        """Somebody else's equal snapshot, by another way, is as good."""
        usage = made.applied.usage if made.applied.usage.inodes > 0 else None
        parent = made.step.parent if made.apart else ""
        try:
            self._snapshotter.commit(made.step.chain_id, made.key, made.step.labels, usage, parent)
        except errors.AlreadyExists:
            self._remove(made.key)

    def drop(self, made: Made) -> None:
        """It is not wanted, or not right."""
        self._remove(made.key)

    def _is_there(self, chain_id: str) -> bool:
        try:
            self._snapshotter.stat(chain_id)
        except errors.NotFound:
            return False
        return True

    def _prepare(self, step: Step, parent: str) -> tuple[str, Sequence[Mount]]:
        key = _key("extract", step.chain_id)
        return key, self._snapshotter.prepare(key, parent, step.labels)

    def _apply(self, step: Step, source: Source | None, mounts: Sequence[Mount], cancel: Cancel) -> Applied:
        self._written = mounts
        if source is None:
            applied = self._applier.apply(step.layer, mounts, cancel)
        else:
            applied = self._applier.apply_stream(source, step.layer, mounts, cancel)
        if applied.descriptor.digest != step.diff_id:
            raise errors.InvalidArgument(
                f"its diff id is {applied.descriptor.digest}, the image's config says {step.diff_id}"
            )
        return applied

    def _remove(self, key: str) -> None:
        with contextlib.suppress(errors.Error):
            self._snapshotter.remove(key)


def _key(purpose: str, chain_id: str) -> str:
    return f"{purpose}-{time.time_ns()}-{next(_sequence)} {chain_id}"


def _upper_alone(mounts: Sequence[Mount]) -> Sequence[Mount]:
    """The directory that an active snapshot without a parent binds, as what it will be: an overlay's upper one."""
    if len(mounts) != 1 or mounts[0].type != "bind":
        return mounts
    return (Mount(type="overlay", source="overlay", options=(f"upperdir={mounts[0].source}",)),)


def _stacked(beneath: Sequence[Made], shown: Sequence[Mount]) -> Sequence[Mount]:
    """What layers that are not committed show on top of the view of those that are."""
    if not beneath:
        return shown
    lowers, others = [_own(made.mounts[0]) for made in reversed(beneath)], ["ro"]
    for mount in shown:
        options = [option for option in mount.options if not option.startswith("lowerdir=")]
        lowers += [option.partition("=")[2] for option in mount.options if option not in options]
        if mount.type == "bind":
            lowers.append(_escaped(mount.source))
        else:
            others += options
    if len(lowers) == 1:
        return (Mount(type="bind", source=beneath[0].mounts[0].source, options=("ro", "rbind")),)
    return (Mount(type="overlay", source="overlay", options=(f"lowerdir={':'.join(lowers)}", *others)),)


def _own(mount: Mount) -> str:
    """The directory that a layer was unpacked into, as one of an overlay's lower ones."""
    uppers = [option.partition("=")[2] for option in mount.options if option.startswith("upperdir=")]
    return _escaped(uppers[0] if uppers else mount.source)


def _escaped(path: str) -> str:
    return path.replace("\\", "\\\\").replace(":", "\\:")
