"""What differs between two trees, by descriptors of their roots.

Both are read as they lie: a whiteout is an entry, too. Times count for all but directories,
whose own time is that of their last change. Of overlay's own attributes only opacity counts: the others say where a
layer's entries come from, not what they are.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from pyx import fs
from spec import errors
from spec.ports import Cancel

CHUNK = 1 << 20
OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")
OVERLAY = ("trusted.overlay.", "user.overlay.")
# What makes all that is below a path another tree.
DEEP = frozenset({"missing", "extra", "type", "opaque"})
_ASIDE = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
_BENEATH = fs.RESOLVE_BENEATH | fs.RESOLVE_NO_SYMLINKS | fs.RESOLVE_NO_MAGICLINKS


class Difference(NamedTuple):
    """`path` is relative to the roots, `.` for them; `what`: missing, extra, type, content, mode, owner, xattr, opaque,
    target, device, link, time; `detail` is for people. `first` is what else the file should be named, for a `link`."""

    path: bytes
    what: tuple[str, ...]
    detail: str = ""
    first: bytes = b""


class Trees:
    """Two trees: what one should be and what it is. Descriptors stay the caller's."""

    def __init__(self, expected: int, actual: int, cancel: Cancel) -> None:
        self._expected = expected
        self._actual = actual
        self._cancel = cancel
        self._links: dict[tuple[int, int, int], bytes] = {}  # first names of inodes that have several

    def differences(self, start: bytes = b".") -> Iterator[Difference]:
        """Of `start` and all below it: parents before children, in order of names. What is missing or too much is told
        once, not with all that is below it."""
        yield from self.at(start)
        ahead = [start]
        while ahead:
            path = ahead.pop()
            with contextlib.ExitStack() as stack:
                try:
                    expected, actual = (stack.enter_context(opened(root, path)) for root in self._roots)
                except OSError as exc:
                    if exc.errno in (errno.ENOTDIR, errno.ELOOP, errno.ENOENT):
                        continue  # not a directory on both sides, and told already
                    raise
                for name in sorted({*_names(expected), *_names(actual)}):
                    self._cancel.check()
                    below = name if path == b"." else path + b"/" + name
                    difference, is_folder = self._entry(expected, actual, name, below)
                    if difference:
                        yield difference
                    if is_folder:
                        ahead.append(below)

    def at(self, path: bytes) -> list[Difference]:
        """What differs of one entry itself."""
        folder, _, name = path.rpartition(b"/")
        with contextlib.ExitStack() as stack:
            sides = []
            for root in self._roots:
                try:
                    sides.append(stack.enter_context(opened(root, folder or b".")))
                except OSError as exc:
                    if exc.errno not in (errno.ENOTDIR, errno.ELOOP, errno.ENOENT):
                        raise
                    sides.append(-1)
            difference, _ = self._entry(sides[0], sides[1], name, path)
            return [difference] if difference else []

    @property
    def _roots(self) -> tuple[int, int]:
        return self._expected, self._actual

    def _entry(self, expected: int, actual: int, name: bytes, path: bytes) -> tuple[Difference | None, bool]:
        """What differs of `name` in two open directories, -1 for one that is not there; whether it is a directory in
        both."""
        theirs, ours = _stat(expected, name), _stat(actual, name)
        if (theirs is None and ours is None) or (_is_whiteout(theirs) and _is_whiteout(ours)):
            return None, False
        if ours is None:
            return Difference(path, ("missing",)), False
        if theirs is None:
            return Difference(path, ("extra",)), False
        if stat.S_IFMT(theirs.st_mode) != stat.S_IFMT(ours.st_mode):
            return Difference(path, ("type",), f"{_kind(ours)}, not {_kind(theirs)}"), False
        is_folder = stat.S_ISDIR(theirs.st_mode)
        found = [*_attributes(theirs, ours), *_xattrs(expected, actual, name)]
        first = b""
        if not is_folder:
            found += self._body(expected, actual, name, theirs, ours)
            first, is_linked = self._link(path, theirs, ours)
            found += [("link", "")] if is_linked else []
        if not found:
            return None, is_folder
        what = tuple(word for word, _ in found)
        return Difference(path, what, "; ".join(detail for _, detail in found if detail), first), is_folder

    def _body(
        self, expected: int, actual: int, name: bytes, theirs: os.stat_result, ours: os.stat_result
    ) -> Iterator[tuple[str, str]]:
        kind = stat.S_IFMT(theirs.st_mode)
        if kind == stat.S_IFREG:
            if theirs.st_size != ours.st_size:
                yield "content", f"{ours.st_size} bytes, not {theirs.st_size}"
            elif self._same_bytes(expected, actual, name) is False:
                yield "content", ""
        elif kind == stat.S_IFLNK:
            if os.readlink(name, dir_fd=expected) != os.readlink(name, dir_fd=actual):
                yield "target", ""
        elif kind in (stat.S_IFCHR, stat.S_IFBLK) and theirs.st_rdev != ours.st_rdev:
            yield "device", ""

    def _same_bytes(self, expected: int, actual: int, name: bytes) -> bool:
        """A file that cannot be read is not the same."""
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        with contextlib.ExitStack() as stack:
            sides = []
            for folder in (expected, actual):
                sides.append(os.open(name, flags, dir_fd=folder))
                stack.callback(os.close, sides[-1])
            offset = 0
            while True:
                self._cancel.check()
                theirs = os.pread(sides[0], CHUNK, offset)
                try:
                    ours = os.pread(sides[1], CHUNK, offset)
                except OSError as exc:
                    if exc.errno != errno.EIO:
                        raise
                    return False
                if theirs != ours:
                    return False
                if not theirs:
                    return True
                offset += len(theirs)

    def _link(self, path: bytes, theirs: os.stat_result, ours: os.stat_result) -> tuple[bytes, bool]:
        """Names of one file must be names of one file on the other side, too: the first one that it should have, if
        that is another, and whether it has a different one."""
        if theirs.st_nlink == 1 and ours.st_nlink == 1:
            return b"", False
        wanted, held = (
            self._links.setdefault((side, info.st_dev, info.st_ino), path) for side, info in enumerate((theirs, ours))
        )
        return wanted if wanted != path else b"", wanted != held


@contextlib.contextmanager
def opened(root: int, path: bytes) -> Iterator[int]:
    """The directory `path` below `root`, found without following any link. OSError."""
    fd = fs.openat2(root, path, _ASIDE, 0, _BENEATH)
    try:
        yield fd
    finally:
        os.close(fd)


def printable(path: bytes) -> str:
    return path.decode(errors="backslashreplace")


def _names(folder: int) -> list[bytes]:
    return [os.fsencode(name) for name in os.listdir(folder)]


def _stat(folder: int, name: bytes) -> os.stat_result | None:
    if folder < 0:
        return None
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _is_whiteout(info: os.stat_result | None) -> bool:
    """They are all alike, whoever made them and when."""
    return info is not None and stat.S_ISCHR(info.st_mode) and info.st_rdev == 0


def _attributes(theirs: os.stat_result, ours: os.stat_result) -> Iterator[tuple[str, str]]:
    modes = [stat.S_IMODE(info.st_mode) for info in (ours, theirs)]
    if modes[0] != modes[1]:
        yield "mode", f"mode {modes[0]:04o}, not {modes[1]:04o}"
    if (theirs.st_uid, theirs.st_gid) != (ours.st_uid, ours.st_gid):
        yield "owner", f"owner {ours.st_uid}:{ours.st_gid}, not {theirs.st_uid}:{theirs.st_gid}"
    if not stat.S_ISDIR(theirs.st_mode) and theirs.st_mtime_ns != ours.st_mtime_ns:
        yield "time", ""


def _xattrs(expected: int, actual: int, name: bytes) -> Iterator[tuple[str, str]]:
    theirs, ours = (attributes(folder, name) for folder in (expected, actual))
    if any(theirs.get(key) != ours.get(key) for key in OPAQUE):
        yield "opaque", ""
    differing = sorted(key for key in {*theirs, *ours} if theirs.get(key) != ours.get(key) and key not in OPAQUE)
    if differing:
        yield "xattr", f"attributes {', '.join(differing)}"


def attributes(folder: int, name: bytes) -> dict[str, bytes]:
    """Extended attributes of an entry, without those of overlay that do not count."""
    path = b"/proc/self/fd/%d/%s" % (folder, name)
    try:
        keys = os.listxattr(path, follow_symlinks=False)
        return {
            key: os.getxattr(path, key, follow_symlinks=False)
            for key in keys
            if key in OPAQUE or not key.startswith(OVERLAY)
        }
    except OSError as exc:
        if exc.errno == errno.EOPNOTSUPP:
            return {}
        raise errors.from_os(exc, f"reading the attributes of {printable(name)}") from exc


def _kind(info: os.stat_result) -> str:
    names = {
        stat.S_IFREG: "a file", stat.S_IFDIR: "a directory", stat.S_IFLNK: "a symbolic link", stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device", stat.S_IFIFO: "a fifo", stat.S_IFSOCK: "a socket",
    }  # fmt: skip
    return names.get(stat.S_IFMT(info.st_mode), "unknown")
