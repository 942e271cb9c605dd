"""Verify: an image's blobs hashed again, and its snapshots held against what its layers give. Over ports only.

A snapshot is compared with a passing one, of the same layer on the same parent; nothing of the parents is read again.
Where the snapshotter's mounts name the directory of a snapshot's own changes, only those are read, and can be repaired
in place: path by path, out of the passing snapshot, whose layer was hashed before. Others, of btrfs say, are to be
removed and unpacked again. The differ's comparison would not do: it trusts times, and looks at few attributes.

Containers that stand on a repaired snapshot see the right file from when they open it next; a running one may go on
with what its kernel has cached, and is best started anew.
"""

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, wait
from contextvars import copy_context
from dataclasses import dataclass, field

from daemon.flows import mend
from daemon.flows.compare import DEEP, Difference, Trees
from daemon.flows.progress import Report
from daemon.flows.stored import Stored, document, find
from daemon.kit import mounting
from daemon.kit.cancel import Token
from daemon.kit.keylock import KeyLock
from spec import digest as digests
from spec import errors, names, platforms
from spec.oci import graph
from spec.oci.image import Descriptor
from spec.ports import Applier, Cancel, ContentStore, ProgressSink, Snapshotter
from spec.types import Finding, Mount

CHUNK = 1 << 20

_sequence = itertools.count()


def verify_blob(
    content: ContentStore, digest: str, cancel: Cancel | None, told: Callable[[int], None] = lambda _: None
) -> None:
    """Hash a blob again. DataLoss when it is not what its name says, or its bytes are gone; NotFound without a record.
    `told` hears of each byte's progress."""
    algorithm, _ = digests.split(digest)
    size = content.info(digest).size
    running = digests.hasher(algorithm)
    try:
        with content.reader(digest) as reader:
            offset = 0
            while data := reader.pread(CHUNK, offset):
                if cancel is not None:
                    cancel.check()
                running.update(data)
                offset += len(data)
                told(offset)
    except errors.NotFound as exc:
        raise errors.DataLoss(f"content {digest} is damaged: its bytes are gone") from exc
    if offset != size:
        raise errors.DataLoss(f"content {digest} is damaged: it has {offset} bytes, not {size}")
    if (found := f"{algorithm}:{running.hexdigest()}") != digest:
        raise errors.DataLoss(f"content {digest} is damaged: its {offset} bytes hash to {found}")


@dataclass(frozen=True)
class Place:
    """Where an image is unpacked: `name` is the snapshotter's. `locks` keeps two repairs of one snapshot apart; `scope`
    is the namespace."""

    name: str
    snapshotter: Snapshotter
    applier: Applier
    locks: KeyLock
    scope: str


@dataclass(frozen=True)
class Check:
    """One check of an image, as `matcher` chooses of it.

    `pool` hashes blobs; `found` hears of whatever is not as it should be. With `repair` what differs of a snapshot is
    put right, unless its layer itself is damaged.
    """

    name: str
    target: Descriptor
    content: ContentStore
    place: Place
    matcher: platforms.Matcher
    pool: Executor
    sink: ProgressSink
    found: Callable[[Finding], None]
    cancel: Token
    repair: bool = False
    _blobs: dict[str, Descriptor] = field(default_factory=dict)
    _documents: set[str] = field(default_factory=set)  # that say what the platform's image is
    _bad: set[str] = field(default_factory=set)

    def run(self) -> None:
        report = Report(self.sink, self.name)
        self._gather(self.target, needed=True)
        self._hash(report)
        if self._bad.isdisjoint(self._documents):
            image = find(self.content, self.name, self.target, self.matcher)
            self._snapshots(image, report)
        report.tell("checked", self.target.digest)

    # Blobs.

    def _gather(self, descriptor: Descriptor, needed: bool, depth: int = 0) -> None:
        """All of the image that is here, and what is missing of that which the platform needs."""
        if descriptor.digest in self._blobs or depth > graph.MAX_DEPTH:
            return
        if needed and not graph.is_layer(descriptor.media_type):
            self._documents.add(descriptor.digest)
        try:
            self.content.info(descriptor.digest)
        except errors.NotFound:
            if needed:
                self._bad.add(descriptor.digest)
                self.found(Finding(kind="content", object=descriptor.digest, what=("missing",)))
            return
        self._blobs[descriptor.digest] = descriptor
        if not (graph.is_index(descriptor.media_type) or graph.is_manifest(descriptor.media_type)):
            return
        try:
            verify_blob(self.content, descriptor.digest, self.cancel)
        except errors.DataLoss:
            return  # told when all are hashed; what it points at is not to be trusted
        body = document(self.content, descriptor)
        wanted = {child.digest for child in graph.children(descriptor, body)}
        if graph.is_index(descriptor.media_type):
            wanted = {child.digest for child in graph.choose(graph.index(descriptor, body), self.matcher)[:1]}
        for child in graph.children(descriptor, body):
            self._gather(child, needed and child.digest in wanted, depth + 1)

    def _hash(self, report: Report) -> None:
        """All blobs, side by side; the first failure that is no damage ends them all."""
        token = self.cancel.child()
        work = {
            digest: self.pool.submit(copy_context().run, self._hash_one, descriptor, report, token)
            for digest, descriptor in self._blobs.items()
        }
        try:
            for digest, future in work.items():
                if damage := future.result():
                    self._bad.add(digest)
                    self.found(Finding(kind="content", object=digest, what=("damaged",), detail=damage))
        except BaseException:
            token.cancel("another part of the check failed")
            _end(list(work.values()))
            raise

    def _hash_one(self, descriptor: Descriptor, report: Report, cancel: Token) -> str:
        """What is wrong with it, if anything."""
        name, total = descriptor.digest, descriptor.size
        cancel.check()
        try:
            verify_blob(self.content, name, cancel, lambda done: report.tell_part("verifying", name, done, total))
        except errors.DataLoss as exc:
            return exc.message
        report.tell_part("verified", name, total, total)
        return ""

    # Snapshots.

    def _snapshots(self, image: Stored, report: Report) -> None:
        """Those that there are, lowest first: each is only as right as what it stands on."""
        diff_ids = image.config.rootfs.diff_ids
        chain = digests.chain_ids(diff_ids)
        for position, layer in enumerate(image.manifest.layers):
            self.cancel.check()
            try:
                self.place.snapshotter.stat(chain[position])
            except errors.NotFound:
                return  # nobody unpacked it, nor then what stands on it
            if layer.digest in self._bad:
                why = f"its layer {layer.digest} is damaged or missing"
                self.found(Finding(kind="snapshot", object=chain[position], what=("unchecked",), detail=why))
                continue
            report.tell_part("comparing", chain[position])
            parent = chain[position - 1] if position else ""
            self._layer(_Layer(layer, diff_ids[position], chain[position], parent))
            report.tell_part("compared", chain[position])

    def _layer(self, layer: "_Layer") -> None:
        place = self.place
        key = f"{time.time_ns()}-{next(_sequence)} {layer.chain_id}"
        with contextlib.ExitStack() as stack:
            stack.enter_context(place.locks.held(f"{place.scope}/{place.name}/{layer.chain_id}"))
            labels = {names.DIFF_ID: layer.diff_id}
            mounts = place.snapshotter.prepare(f"check-{key}", layer.parent, labels)
            stack.callback(place.snapshotter.remove, f"check-{key}")
            applied = place.applier.apply(layer.descriptor, mounts, self.cancel)
            if applied.descriptor.digest != layer.diff_id:
                raise errors.InvalidArgument(
                    f"checking layer {layer.descriptor.digest}: its diff id is {applied.descriptor.digest},"
                    f" the image's config says {layer.diff_id}"
                )
            shown = place.snapshotter.view(f"look-{key}", layer.chain_id)
            stack.callback(place.snapshotter.remove, f"look-{key}")
            self._compare(layer.chain_id, mounts, shown)

    def _compare(self, chain_id: str, expected: Sequence[Mount], actual: Sequence[Mount]) -> None:
        """A snapshot with what it should be."""
        own = own_directory(expected), own_directory(actual)
        repaired = False
        try:
            if all(own) and expected[0].type == actual[0].type:
                told, repaired = self._compare_own(own, expected, actual)
            else:
                with _merged(expected, actual, self.cancel) as trees:
                    told = list(trees.differences())
        except OSError as exc:
            raise errors.from_os(exc, f"checking snapshot {chain_id}") from exc
        for path, what, detail, _ in told:
            self.found(
                Finding(kind="snapshot", object=chain_id, path=path, what=what, detail=detail, repaired=repaired)
            )

    def _compare_own(
        self, own: tuple[str, str], expected: Sequence[Mount], actual: Sequence[Mount]
    ) -> tuple[list[Difference], bool]:
        """By the directories of the two snapshots' own changes; whether it was put right, if that is wanted and can
        be."""
        with contextlib.ExitStack() as stack:
            theirs, ours = (stack.enter_context(_directory(path)) for path in own)
            told = raw = list(Trees(theirs, ours, self.cancel).differences())
            if actual[0].type == "overlay" and any(DEEP & set(difference.what) for difference in raw):
                with _merged(expected, actual, self.cancel) as trees:
                    raw, told = _seen(raw, trees)
            if not self.repair or os.fstat(theirs).st_dev != os.fstat(ours).st_dev:
                return told, False
            if raw:
                mend.mend(theirs, ours, raw)
        return told, True


@dataclass(frozen=True)
class _Layer:
    descriptor: Descriptor
    diff_id: str
    chain_id: str
    parent: str


def own_directory(mounts: Sequence[Mount]) -> str:
    """The directory that holds what a snapshot adds to its parents, or all of it, as its mounts tell; "" when they do
    not: a bind mount's source, an overlay's upper or else its first lower directory."""
    if len(mounts) != 1 or mounts[0].target:
        return ""
    (mount,) = mounts
    if mount.type == "bind":
        return mount.source
    options = dict(option.partition("=")[::2] for option in mount.options)
    if mount.type != "overlay" or "\\" in options.get("lowerdir", ""):
        return ""
    return options.get("upperdir") or options.get("lowerdir", "").partition(":")[0]


def _seen(raw: list[Difference], trees: Trees) -> tuple[list[Difference], list[Difference]]:
    """Of the differences between two layers those that can be seen over their parents, and what is seen: a whiteout of
    nothing, say, or a directory that says again what is below, is none."""
    kept, told = [], {}
    for difference in raw:
        deep = DEEP & set(difference.what)
        if deep:
            seen = {found.path: found for found in trees.differences(difference.path)}
            shallow = tuple(word for word in difference.what if word not in DEEP)
            if not seen and not shallow:
                continue
            told.update(seen)
            if shallow and difference.path not in seen:
                told[difference.path] = difference._replace(what=shallow)
        else:
            told.setdefault(difference.path, difference)
        kept.append(difference)
    return kept, list(told.values())


@contextlib.contextmanager
def _merged(expected: Sequence[Mount], actual: Sequence[Mount], cancel: Cancel) -> Iterator[Trees]:
    with mounting.opened(expected) as theirs, mounting.opened(actual) as ours:
        yield Trees(theirs, ours, cancel)


@contextlib.contextmanager
def _directory(path: str) -> Iterator[int]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        raise errors.from_os(exc, f"opening snapshot directory {path}") from exc
    try:
        yield fd
    finally:
        os.close(fd)


def _end(work: Sequence["Future[str]"]) -> None:
    for future in work:
        future.cancel()
    wait(work)
