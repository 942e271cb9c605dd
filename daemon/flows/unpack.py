"""Unpacking: an image's layers become snapshots, each named by its chain id. Over ports only."""

import contextlib
import itertools
import time
from collections.abc import Callable, Sequence
from functools import partial

from daemon.flows.progress import Report
from daemon.kit.keylock import Once
from spec import digest as digests
from spec import errors, names
from spec.oci.image import Descriptor
from spec.ports import Applier, Cancel, Snapshotter
from spec.records import Labels
from spec.types import Usage

_sequence = itertools.count()


class Unpacker:
    """Unpacks into one snapshotter. Whoever wants a chain id that another is making waits for it: `once` is shared, and
    `scope` tells equal chain ids of different namespaces apart."""

    def __init__(self, name: str, snapshotter: Snapshotter, applier: Applier, once: "Once[None]", scope: str) -> None:
        self.name = name
        self._snapshotter = snapshotter
        self._applier = applier
        self._once = once
        self._scope = scope

    def done(self, chain_ids: Sequence[str]) -> int:
        """How many of the layers are unpacked: the deepest chain id that is known ends the work."""
        for count in range(len(chain_ids), 0, -1):
            with contextlib.suppress(errors.NotFound):
                self._snapshotter.stat(chain_ids[count - 1])
                return count
        return 0

    def unpack(
        self,
        layers: Sequence[Descriptor],
        diff_ids: Sequence[str],
        arrived: Callable[[Descriptor], None],
        report: Report,
        cancel: Cancel,
    ) -> str:
        """Unpack what is missing, lowest first; `arrived` waits for a layer's bytes. The chain id of them all."""
        chain = digests.chain_ids(diff_ids)
        for position in range(self.done(chain), len(layers)):
            arrived(layers[position])
            cancel.check()
            step = _Step(layers[position], diff_ids[position], chain[position], chain[position - 1] if position else "")
            flight = f"{self._scope}/{self.name}/{step.chain_id}"
            self._once.do(flight, partial(self._make, step, report, cancel), cancel)
        return chain[-1] if chain else ""

    def _make(self, step: "_Step", report: Report, cancel: Cancel) -> None:
        """One layer's snapshot; nothing is left of one that fails."""
        if self.done([step.chain_id]):
            return
        name = f"layer-{step.layer.digest}"
        report.tell_part("extracting", name, total=step.layer.size)
        key = f"extract-{time.time_ns()}-{next(_sequence)} {step.chain_id}"
        labels = {names.DIFF_ID: step.diff_id}
        if step.parent:
            labels[names.PARENT_CHAIN_ID] = step.parent
        mounts = self._snapshotter.prepare(key, step.parent, labels)
        try:
            applied = self._applier.apply(step.layer, mounts, cancel)
            if applied.descriptor.digest != step.diff_id:
                raise errors.InvalidArgument(
                    f"unpacking layer {step.layer.digest}: its diff id is {applied.descriptor.digest},"
                    f" the image's config says {step.diff_id}"
                )
            self._commit(step, key, labels, applied.usage)
        except BaseException:
            with contextlib.suppress(errors.Error):
                self._snapshotter.remove(key)
            raise
        report.tell_part("extracted", name, step.layer.size, step.layer.size)

    def _commit(self, step: "_Step", key: str, labels: Labels, usage: Usage) -> None:
        """Somebody else's equal snapshot, by another way, is as good. A snapshot's labels are those of its commit."""
        try:
            self._snapshotter.commit(step.chain_id, key, labels, usage if usage.inodes > 0 else None)
        except errors.AlreadyExists:
            self._snapshotter.remove(key)


class _Step:
    def __init__(self, layer: Descriptor, diff_id: str, chain_id: str, parent: str) -> None:
        self.layer = layer
        self.diff_id = diff_id
        self.chain_id = chain_id
        self.parent = parent
