"""Images in an archive, as a registry has them: an import is a pull from here. Knows OCI layouts and what `docker save`
writes, as tar or directory.

(OCI image spec, image layout: `oci-layout`, `index.json`, `blobs/ALGORITHM/HEX`.)
"""

import os
import select
import stat
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import NamedTuple, Protocol

import msgspec

from daemon.images import saved
from daemon.images.folders import Directory, Folder, Part, Tar
from daemon.images.saved import Compressor, Saved
from spec import digest as digests
from spec import errors, wire
from spec.base import to_json
from spec.oci import graph, layout
from spec.oci.image import OCI_INDEX, Descriptor, Index
from spec.ports import Cancel, Source

CHUNK = 1 << 20
POLL_MS = 200  # how often a reader of a pipe looks whether it is still wanted
PACKED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")  # how gzip and zstd begin


class Named(NamedTuple):
    """An image and what the archive calls it: a whole name, a tag, or nothing."""

    name: str
    target: Descriptor


class Plain(Protocol):
    """Bytes that are not compressed."""

    def readinto(self, buffer: memoryview, /) -> int:
        """How many of the next are in `buffer` now; 0 at the end."""


class Archive:
    """A ports.ImageArchive over `fd`, which stays the caller's, and its own Fetcher. A `ref` is a digest.

    What comes out of a pipe, or is compressed, is kept meanwhile in a file without a name below `directory`; `opened`
    undoes compression. With `compressor` the layers of a docker archive that are not compressed are, to gzip.
    InvalidArgument when it is no image archive that is known.
    """

    def __init__(
        self,
        fd: int,
        directory: str,
        cancel: Cancel,
        opened: Callable[[Source], Plain],
        compressor: Callable[[], Compressor] | None = None,
    ) -> None:
        self._closed = threading.Event()
        self._parts: dict[str, Callable[[], Part] | bytes] = {}
        with ExitStack() as held:
            try:
                self._folder = _folder(fd, directory, cancel, opened, held)
                entries, self.index = self._read(directory, cancel, held, compressor)
            except OSError as exc:
                raise errors.from_os(exc, "reading an archive") from exc
            self._named = [Named(layout.called(entry), entry) for entry in entries]
            self._held = held.pop_all()

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, *exc: object) -> None:
        self._held.close()

    def images(self) -> Sequence[Named]:
        """What its index names, in order."""
        return self._named

    def resolve(self, ref: str) -> Descriptor:
        for _, target in self._named:
            if target.digest == ref:
                return target
        raise errors.NotFound(f"resolving {ref}: the archive's index does not name it")

    def fetcher(self, ref: str) -> "Archive":
        return self

    def fetch(self, descriptor: Descriptor, offset: int = 0) -> "Watched":
        name = layout.blob(descriptor.digest)
        found = self._parts.get(descriptor.digest)
        part = self._folder.open(name) if found is None else _Held(found) if isinstance(found, bytes) else found()
        part.rewind(offset)
        return Watched(part, self._closed, descriptor.digest)

    def sender(self, digest: str) -> str:
        return ""

    def close(self) -> None:
        """Ends what is being read, with Canceled."""
        self._closed.set()

    def _read(
        self, directory: str, cancel: Cancel, held: ExitStack, compressor: Callable[[], Compressor] | None
    ) -> tuple[Sequence[Descriptor], Descriptor]:
        """The index's entries, and the index, whose bytes are a part. What has both layouts is read as OCI's."""
        mark, listing = self._document(layout.MARK), None
        if mark is not None:
            entries, body = self._oci(mark)
        elif (listing := self._document(layout.SAVED)) is not None:
            docker = Saved(self._folder, listing, directory, cancel, held, compressor)
            self._parts |= docker.parts
            entries = docker.entries
            body = to_json(Index(schema_version=2, media_type=OCI_INDEX, manifests=entries))
        else:
            older = ", only that of docker before 1.10" if self._document(layout.LEGACY) is not None else ""
            raise errors.InvalidArgument(
                f"reading an archive: unrecognized image format: it has no {layout.MARK} and no {layout.SAVED}{older}"
            )
        index = Descriptor(media_type=OCI_INDEX, digest=digests.of(body), size=len(body))
        self._parts[index.digest] = body
        return entries, index

    def _oci(self, mark: bytes) -> tuple[Sequence[Descriptor], bytes]:
        try:
            version = msgspec.json.decode(mark, type=layout.Layout).image_layout_version
        except wire.UNREADABLE as exc:
            raise errors.InvalidArgument(f"reading an archive: its {layout.MARK}: {exc}") from exc
        if version != layout.VERSION:
            raise errors.InvalidArgument(
                f"reading an archive: its layout version {version!r} is not {layout.VERSION}"
            )
        body = self._document(layout.INDEX)
        if body is None:
            raise errors.InvalidArgument(f"reading an archive: unrecognized image format: it has no {layout.INDEX}")
        descriptor = Descriptor(media_type=OCI_INDEX, digest=digests.of(body), size=len(body))
        return graph.index(descriptor, body).manifests, body

    def _document(self, name: str) -> bytes | None:
        """None when there is none."""
        try:
            return saved.document(self._folder, name)
        except errors.NotFound:
            return None


class _Held:
    """A Part of what is in memory."""

    def __init__(self, data: bytes) -> None:
        self.size = len(data)
        self._data = data
        self._at = 0

    def read(self, size: int, /) -> bytes:
        data = self._data[self._at : self._at + size]
        self._at += len(data)
        return data

    def rewind(self, offset: int = 0) -> None:
        self._at = offset

    def close(self) -> None: ...


class Watched:
    """A ports.Source that ends when the archive is closed."""

    def __init__(self, part: "Part | _Held", closed: threading.Event, digest: str) -> None:
        self._part = part
        self._closed = closed
        self._digest = digest

    def read(self, size: int, /) -> bytes:
        doing = f"reading {self._digest} of an archive"
        if self._closed.is_set():
            raise errors.Canceled(f"{doing}: it was closed")
        try:
            return self._part.read(size)
        except OSError as exc:
            raise errors.from_os(exc, doing) from exc

    def close(self) -> None:
        self._part.close()


class _Piped:
    """A Source over what is no file, which may be silent."""

    def __init__(self, fd: int, cancel: Cancel) -> None:
        self._fd = fd
        self._cancel = cancel
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)

    def read(self, size: int, /) -> bytes:
        while True:
            self._cancel.check()
            if self._poll.poll(POLL_MS):
                return os.read(self._fd, size)

    def close(self) -> None: ...


def _folder(
    fd: int, directory: str, cancel: Cancel, opened: Callable[[Source], Plain], held: ExitStack
) -> Folder:
    about = os.fstat(fd)
    if stat.S_ISDIR(about.st_mode):
        return Directory(fd)
    if not stat.S_ISREG(about.st_mode):
        fd = _spooled(opened(_Piped(fd, cancel)), directory, cancel, held)
    elif os.pread(fd, 4, 0).startswith(PACKED):
        fd = _spooled(opened(Part(fd, 0, about.st_size)), directory, cancel, held)
    return Tar(fd, cancel.check)


def _spooled(plain: Plain, directory: str, cancel: Cancel, held: ExitStack) -> int:
    """A descriptor of all that comes of it."""
    spool = saved.unnamed(directory)
    held.callback(os.close, spool)
    buffer = memoryview(bytearray(CHUNK))
    while size := plain.readinto(buffer):
        cancel.check()
        saved.append(spool, buffer[:size])
    return spool
