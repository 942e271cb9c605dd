"""Layers applied to what mounts show: inflate, hash and unpack in one pass."""

import errno
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from daemon.diff import processors, programs, upper
from daemon.diff.bounds import Bounds
from daemon.diff.feeder import Feeder
from daemon.diff.upper import Upper
from daemon.kit import mounting
from pyx import fs, walk
from pyx.unpack import Entangled, Exceeded, Malformed, Truncated, Unpacker
from spec import digest as digests
from spec import errors
from spec.oci.image import OCI_LAYER, Descriptor
from spec.ports import Applied, BlobReader, Cancel, ContentStore, Source, StreamProcessor
from spec.types import Mount, Usage

# What an archive brings about by its entries alone: parents that are files, loops, links to nothing, names, attributes
# or files too long.
ITS_OWN_FAULT = frozenset(
    {errno.ENOTDIR, errno.ELOOP, errno.ENOENT, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.EINVAL,
     errno.ERANGE, errno.EMLINK, errno.E2BIG, errno.EFBIG}
)  # fmt: skip

log = logging.getLogger(__name__)


class AppliedLayer:
    """A ports.Applied. `alike` are those of the implied directories that become as the ones below, and `path` is the
    upper directory that it was written to by itself."""

    def __init__(self, descriptor: Descriptor, usage: Usage, implied: Sequence[tuple[bytes, bool]] = ()) -> None:
        self.descriptor = descriptor
        self.usage = usage
        self.implied: Sequence[bytes] = tuple(path for path, _ in implied)
        self.alike = frozenset(path for path, alike in implied if alike)
        self.path = ""


class ArchiveApplier:
    """A ports.Applier for tar layers, plain, gzip or zstd, whose blobs are in `content`; `programs` make such layers of
    others."""

    def __init__(
        self, content: ContentStore, bounds: Bounds = Bounds(), programs: Sequence[StreamProcessor] = ()
    ) -> None:
        self._content = content
        self._bounds = bounds
        self._programs = programs

    def apply(self, layer: Descriptor, mounts: Sequence[Mount], cancel: Cancel | None = None) -> AppliedLayer:
        target = upper.of(mounts)
        if target is not None and target.lowers:
            applied = self._onto(target, layer, cancel)
            if applied is not None:
                return applied
        with self._content.reader(layer.digest) as blob:
            return self.apply_stream(_BlobSource(blob), layer, mounts, cancel)

    def apply_stream(
        self, source: Source, layer: Descriptor, mounts: Sequence[Mount], cancel: Cancel | None = None
    ) -> AppliedLayer:
        """On top of known layers it goes through the mount: bytes that come once could not be applied again."""
        target = upper.of(mounts)
        if target is not None and not target.lowers:
            return self._apart(target, source, layer, cancel)
        branch = upper.branch(mounts)
        before = _usage(branch)
        with mounting.opened(mounts) as root:
            applied = self._unpack(source, layer, self._unpacker(root), cancel)
        if branch:  # what is hidden, and what is copied up, is in no archive
            after = _usage(branch)
            size, inodes = max(0, after.size - before.size), max(0, after.inodes - before.inodes)
            applied.usage = Usage(size=size, inodes=inodes)
        return applied

    def settle(self, applied: Applied, mounts: Sequence[Mount]) -> bool:
        if not isinstance(applied, AppliedLayer) or not applied.implied:
            return True
        try:
            return upper.settle(applied.path, applied.implied, applied.alike, mounts)
        except OSError as exc:
            raise errors.from_os(exc, f"settling layer {applied.descriptor.digest}") from exc

    def sync(self, mounts: Sequence[Mount]) -> None:
        target = upper.of(mounts)
        if target is None:
            with mounting.opened(mounts) as fd:
                _sync(fd)
            return
        with _directory(target.path, "making layers durable") as fd:
            _sync(fd)

    def _onto(self, target: Upper, layer: Descriptor, cancel: Cancel | None) -> AppliedLayer | None:
        """Straight into the upper directory; None when it takes the mount, and the directory is empty again."""
        if not target.is_empty():
            return None
        try:
            with self._content.reader(layer.digest) as blob:
                applied = self._apart(target, _BlobSource(blob), layer, cancel)
            if self.settle(applied, target.lowers):
                applied.implied = ()
                return applied
        except errors.FailedPrecondition:
            pass
        target.clear()
        return None

    def _apart(self, target: Upper, source: Source, layer: Descriptor, cancel: Cancel | None) -> AppliedLayer:
        with _directory(target.path, f"applying layer {layer.digest}") as root:
            if not target.is_empty():
                raise errors.InvalidArgument(f"applying layer {layer.digest}: {target.path} is not empty")
            applied = self._unpack(source, layer, self._unpacker(root, target.opaque), cancel)
            applied.path = target.path
            return applied

    def _unpacker(self, root: int, opaque: str = "") -> Unpacker:
        return Unpacker(root, opaque, entries=self._bounds.entries, meta=self._bounds.header)

    def _unpack(self, source: Source, layer: Descriptor, unpacker: Unpacker, cancel: Cancel | None) -> AppliedLayer:
        with _doing(f"applying layer {layer.digest}"), unpacker:
            watched = source if cancel is None else _Watched(source, cancel)
            with programs.through(watched, layer.media_type, self._programs, cancel) as (stream, media_type):
                applied = _run(processors.opened(stream, media_type, self._bounds), unpacker, cancel)
            if dropped := unpacker.dropped():
                log.warning("layer %s: %d attributes left out: no place for them here", layer.digest, dropped)
            return applied


def _run(plain: processors.Filling, unpacker: Unpacker, cancel: Cancel | None) -> AppliedLayer:
    running = digests.hasher()
    size = 0
    with Feeder(unpacker) as feeder:
        while got := plain.readinto(room := feeder.room()):
            if cancel is not None:
                cancel.check()
            running.update(room[:got])
            feeder.feed(got)
            size += got
        made, inodes = feeder.finish()
    return AppliedLayer(
        Descriptor(media_type=OCI_LAYER, digest=f"{digests.CANONICAL}:{running.hexdigest()}", size=size),
        Usage(size=made, inodes=inodes),
        unpacker.implied(),
    )


@contextmanager
def _doing(what: str) -> Iterator[None]:
    """Faults of archives and of their processors in the taxonomy's classes."""
    try:
        yield
    except Malformed as exc:
        raise errors.InvalidArgument(f"{what}: {exc}{_at(exc.entry)}") from exc
    except Truncated as exc:
        raise errors.DataLoss(f"{what}: {exc}{_at(exc.entry)}") from exc
    except Exceeded as exc:
        raise errors.ResourceExhausted(f"{what}: {exc}{_at(exc.entry)}") from exc
    except Entangled as exc:
        raise errors.FailedPrecondition(f"{what}: needs the layers below: {exc}{_at(exc.entry)}") from exc
    except errors.Error as exc:
        raise type(exc)(f"{what}: {exc.message}") from exc
    except OSError as exc:
        text = f"{what}{_at(os.fsencode(exc.filename or ''))}"
        if exc.errno in ITS_OWN_FAULT:
            raise errors.InvalidArgument(f"{text}: {exc.strerror}") from exc
        raise errors.from_os(exc, text) from exc


@contextmanager
def _directory(path: str, doing: str) -> Iterator[int]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        raise errors.from_os(exc, f"{doing}: opening {path}") from exc
    try:
        yield fd
    finally:
        os.close(fd)


def _usage(path: str) -> Usage:
    """Of the tree at `path`; none without one."""
    if not path:
        return Usage()
    with _directory(path, "measuring a layer") as fd:
        try:
            size, inodes = walk.usage(fd)
        except OSError as exc:
            raise errors.from_os(exc, f"measuring {path}") from exc
    return Usage(size=size, inodes=inodes)


def _sync(fd: int) -> None:
    try:
        fs.syncfs(fd)
    except OSError as exc:
        raise errors.from_os(exc, "making layers durable") from exc


class _BlobSource:
    def __init__(self, blob: BlobReader) -> None:
        self._blob = blob

    def read(self, size: int, /) -> bytes:
        return self._blob.read(size)

    def close(self) -> None:
        """The blob is closed by whoever opened it."""


class _Watched:
    """A source that ends with a cancellation, also where nothing comes of what is read."""

    def __init__(self, source: Source, cancel: Cancel) -> None:
        self._source = source
        self._into = processors.into(source)
        self._cancel = cancel

    def read(self, size: int, /) -> bytes:
        self._cancel.check()
        return self._source.read(size)

    def readinto(self, buffer: memoryview, /) -> int:
        self._cancel.check()
        return self._into(buffer)

    def close(self) -> None:
        self._source.close()


def _at(entry: bytes) -> str:
    return f" at {os.fsdecode(entry)!r}" if entry else ""
