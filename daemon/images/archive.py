"""Images in an archive, as a registry has them: an import is a pull from here. Knows OCI layouts, as tar or directory.

(OCI image spec, image layout: `oci-layout`, `index.json`, `blobs/ALGORITHM/HEX`.)
"""

import os
import select
import stat
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple, Protocol

import msgspec

from daemon.images import tarindex
from pyx import fs
from spec import digest as digests
from spec import errors
from spec.base import Doc
from spec.oci import graph
from spec.oci.image import OCI_INDEX, Descriptor, Index
from spec.ports import Cancel

CHUNK = 1 << 20
POLL_MS = 200  # how often a reader of a pipe looks whether it is still wanted
LAYOUT_VERSION = "1.0.0"
FULL_NAME = "io.containerd.image.name"
REF_NAME = "org.opencontainers.image.ref.name"


class Layout(Doc, frozen=True):
    """Image spec, image layout: the file `oci-layout`."""

    image_layout_version: str = ""


class Named(NamedTuple):
    """An image and what the archive calls it: a whole name, a tag, or nothing."""

    name: str
    target: Descriptor


class Folder(Protocol):
    """Files by name."""

    def open(self, name: str) -> "Part":
        """NotFound."""


class Part:
    """A ports.Source over a stretch of a file. It owns `fd` if it is to be closed."""

    def __init__(self, fd: int, start: int, size: int, closes: bool) -> None:
        self._fd = fd
        self._at = start
        self._left = size
        self._closes = closes

    def read(self, size: int, /) -> bytes:
        data = os.pread(self._fd, min(size, self._left), self._at)
        self._at += len(data)
        self._left -= len(data)
        return data

    def skip(self, size: int) -> None:
        size = min(size, self._left)
        self._at += size
        self._left -= size

    def close(self) -> None:
        if self._closes:
            self._closes = False
            os.close(self._fd)


class Tar:
    """A Folder in a tar that can be seeked."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._index = tarindex.files(fd)

    def open(self, name: str) -> Part:
        try:
            start, size = self._index[name]
        except KeyError:
            raise errors.NotFound(f"the archive has no {name}") from None
        return Part(self._fd, start, size, closes=False)


class Directory:
    """A Folder in a directory, which no link leads out of."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def open(self, name: str) -> Part:
        resolve = fs.RESOLVE_BENEATH | fs.RESOLVE_NO_SYMLINKS
        try:
            fd = fs.openat2(self._fd, name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, 0, resolve)
        except OSError as exc:
            raise errors.from_os(exc, f"opening {name} of the archive") from exc
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode):
            os.close(fd)
            raise errors.InvalidArgument(f"opening {name} of the archive: it is no file")
        return Part(fd, 0, about.st_size, closes=True)


class Archive:
    """A ports.ImageArchive over `fd`, which stays the caller's, and its own Fetcher. A `ref` is a digest.

    What comes out of a pipe is kept meanwhile in a file without a name below `directory`. InvalidArgument when it is no
    image archive that is known.
    """

    def __init__(self, fd: int, directory: str, cancel: Cancel) -> None:
        self._closed = threading.Event()
        with ExitStack() as held:
            mode = os.fstat(fd).st_mode
            if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
                fd = _spooled(fd, directory, cancel)
                held.callback(os.close, fd)
            self._folder: Folder = Directory(fd) if stat.S_ISDIR(mode) else Tar(fd)
            self._index = self._read_index()
            self._held = held.pop_all()

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, *exc: object) -> None:
        self._held.close()

    def images(self) -> Sequence[Named]:
        """What its index names, in order."""
        return [Named(_name(manifest), manifest) for manifest in self._index.manifests]

    def resolve(self, ref: str) -> Descriptor:
        for manifest in self._index.manifests:
            if manifest.digest == ref:
                return manifest
        raise errors.NotFound(f"resolving {ref}: the archive's index does not name it")

    def fetcher(self, ref: str) -> "Archive":
        return self

    def fetch(self, descriptor: Descriptor, offset: int = 0) -> "Watched":
        algorithm, name = digests.split(descriptor.digest)
        part = self._folder.open(f"blobs/{algorithm}/{name}")
        part.skip(offset)
        return Watched(part, self._closed, descriptor.digest)

    def close(self) -> None:
        """Ends what is being read, with Canceled."""
        self._closed.set()

    def _read_index(self) -> Index:
        try:
            layout = msgspec.json.decode(self._document("oci-layout"), type=Layout)
            body = self._document("index.json")
        except errors.NotFound as exc:
            raise errors.InvalidArgument(f"reading an archive: unrecognized image format: {exc.message}") from None
        except msgspec.DecodeError as exc:
            raise errors.InvalidArgument(f"reading an archive: its oci-layout: {exc}") from exc
        if layout.image_layout_version != LAYOUT_VERSION:
            raise errors.InvalidArgument(
                f"reading an archive: its layout version {layout.image_layout_version!r} is not {LAYOUT_VERSION}"
            )
        return graph.index(Descriptor(media_type=OCI_INDEX, digest=digests.of(body), size=len(body)), body)

    def _document(self, name: str) -> bytes:
        part = self._folder.open(name)
        try:
            body = part.read(graph.MAX_DOCUMENT + 1)
        finally:
            part.close()
        if len(body) > graph.MAX_DOCUMENT:
            raise errors.InvalidArgument(f"reading an archive: {name} has more than {graph.MAX_DOCUMENT} bytes")
        return body


class Watched:
    """A ports.Source that ends when the archive is closed."""

    def __init__(self, part: Part, closed: threading.Event, digest: str) -> None:
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


def _spooled(fd: int, directory: str, cancel: Cancel) -> int:
    """A descriptor of all that comes out of a pipe."""
    try:
        spool = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            while True:
                cancel.check()
                if not poll.poll(POLL_MS):
                    continue
                data = memoryview(os.read(fd, CHUNK))
                if not data:
                    return spool
                while data:
                    data = data[os.write(spool, data) :]
        except BaseException:
            os.close(spool)
            raise
    except OSError as exc:
        raise errors.from_os(exc, "reading an archive from a pipe") from exc


def _name(manifest: Descriptor) -> str:
    return manifest.annotations.get(FULL_NAME) or manifest.annotations.get(REF_NAME, "")
