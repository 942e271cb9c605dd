"""Layers applied to what mounts show: inflate, hash and unpack in one pass."""

import errno
import os
from collections.abc import Sequence

from daemon.diff import processors
from daemon.diff.processors import Bounds
from daemon.kit import mounting
from pyx.unpack import Malformed, Truncated, Unpacker
from spec import digest as digests
from spec import errors
from spec.base import Record
from spec.oci.image import OCI_LAYER, Descriptor
from spec.ports import BlobReader, Cancel, ContentStore, Source
from spec.types import Mount, Usage

CHUNK = 1 << 20  # bytes of plain tar at once

# What an archive brings about by its entries alone: parents that are files, loops, links to nothing, names, attributes
# or files too long.
ITS_OWN_FAULT = frozenset(
    {errno.ENOTDIR, errno.ELOOP, errno.ENOENT, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.EINVAL,
     errno.ERANGE, errno.EMLINK, errno.E2BIG, errno.EFBIG}
)  # fmt: skip


class AppliedLayer(Record, frozen=True):
    """A ports.Applied."""

    descriptor: Descriptor
    usage: Usage


class ArchiveApplier:
    """A ports.Applier for tar layers, plain, gzip or zstd, whose blobs are in `content`."""

    def __init__(self, content: ContentStore, bounds: Bounds = Bounds()) -> None:
        self._content = content
        self._bounds = bounds

    def apply(self, layer: Descriptor, mounts: Sequence[Mount], cancel: Cancel | None = None) -> AppliedLayer:
        with self._content.reader(layer.digest) as blob:
            return self.apply_stream(_BlobSource(blob), layer, mounts, cancel)

    def apply_stream(
        self, source: Source, layer: Descriptor, mounts: Sequence[Mount], cancel: Cancel | None = None
    ) -> AppliedLayer:
        """As `apply`, of bytes from anywhere: they may still be arriving."""
        doing = f"applying layer {layer.digest}"
        with mounting.opened(mounts) as root:
            try:
                watched = source if cancel is None else _Watched(source, cancel)
                return _unpack(processors.opened(watched, layer.media_type, self._bounds), root, cancel)
            except Malformed as exc:
                raise errors.InvalidArgument(f"{doing}: {exc}{_at(exc.entry)}") from exc
            except Truncated as exc:
                raise errors.DataLoss(f"{doing}: {exc}{_at(exc.entry)}") from exc
            except errors.Error as exc:
                raise type(exc)(f"{doing}: {exc.message}") from exc
            except OSError as exc:
                text = f"{doing}{_at(os.fsencode(exc.filename or ''))}"
                if exc.errno in ITS_OWN_FAULT:
                    raise errors.InvalidArgument(f"{text}: {exc.strerror}") from exc
                raise errors.from_os(exc, text) from exc


def _unpack(plain: Source, root: int, cancel: Cancel | None) -> AppliedLayer:
    running = digests.hasher()
    size = 0
    with Unpacker(root) as unpacker:
        while data := plain.read(CHUNK):
            if cancel is not None:
                cancel.check()
            running.update(data)
            unpacker.feed(data)
            size += len(data)
        made, inodes = unpacker.finish()
    diff_id = f"{digests.CANONICAL}:{running.hexdigest()}"
    return AppliedLayer(
        descriptor=Descriptor(media_type=OCI_LAYER, digest=diff_id, size=size),
        usage=Usage(size=made, inodes=inodes),
    )


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
        self._cancel = cancel

    def read(self, size: int, /) -> bytes:
        self._cancel.check()
        return self._source.read(size)

    def close(self) -> None:
        self._source.close()


def _at(entry: bytes) -> str:
    return f" at {os.fsdecode(entry)!r}" if entry else ""
