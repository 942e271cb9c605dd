"""Files by name, in a tar that can be seeked or below a directory. Knows nothing of what is in them."""

import os
import stat
from collections.abc import Callable
from typing import Protocol

from daemon.images import tarindex
from pyx import fs
from spec import errors


class Folder(Protocol):
    """Files by name."""

    def open(self, name: str) -> "Part":
        """NotFound."""


class Part:
    """A ports.Source over a stretch of a file. It owns `fd` if it is to be closed."""

    def __init__(self, fd: int, start: int, size: int, closes: bool = False) -> None:
        self.size = size
        self._fd = fd
        self._start = start
        self.rewind()
        self._closes = closes

    def read(self, size: int, /) -> bytes:
        data = os.pread(self._fd, min(size, self._left), self._at)
        self._at += len(data)
        self._left -= len(data)
        return data

    def rewind(self, offset: int = 0) -> None:
        """Read from `offset` on next."""
        offset = min(offset, self.size)
        self._at, self._left = self._start + offset, self.size - offset

    def close(self) -> None:
        if self._closes:
            self._closes = False
            os.close(self._fd)


class Tar:
    """A Folder in a tar that can be seeked. Nothing is looked for anywhere but in it, whatever its names say."""

    def __init__(self, fd: int, check: Callable[[], None]) -> None:
        self._fd = fd
        self._files = tarindex.files(fd, check)

    def open(self, name: str) -> Part:
        """InvalidArgument for what it has twice: two readers could see two images."""
        place = self._files.get(tarindex.clean(name))
        if place is None:
            raise errors.NotFound(f"the archive has no {name[:200]}")
        if place.twice:
            raise errors.InvalidArgument(f"the archive has two of {name[:200]}")
        return Part(self._fd, place.start, place.size)


class Directory:
    """A Folder in a directory, which no link leads out of."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def open(self, name: str) -> Part:
        doing = f"opening {name[:200]} of the archive"
        try:
            fd = fs.openat2(self._fd, name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, 0, fs.RESOLVE_BENEATH)
        except OSError as exc:
            raise errors.from_os(exc, doing) from exc
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode):
            os.close(fd)
            raise errors.InvalidArgument(f"{doing}: it is no file")
        return Part(fd, 0, about.st_size, closes=True)
