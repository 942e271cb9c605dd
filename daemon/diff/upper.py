"""An overlay's upper directory written without mounting it: when that can be done, and what the layers below add.

Not known here: archives.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Sequence
from functools import cache

from daemon.kit import mounting
from pyx import fs, walk
from spec.types import Mount

OWN_OPTIONS = ("upperdir", "workdir")  # an overlay's, that make it one to be written to
WHITEOUT = (stat.S_IFCHR, 0)


class Upper:
    """The upper directory of one overlay mount; `lowers` shows the layers below, and is empty when they are unknown."""

    def __init__(self, mount: Mount) -> None:
        options = [option.partition("=") for option in mount.options]
        self.path = next(value for key, _, value in options if key == "upperdir")
        self.opaque = f"{'user' if ('userxattr', '', '') in options else 'trusted'}.overlay.opaque"
        self.lowers: Sequence[Mount] = ()
        below = next((value for key, _, value in options if key == "lowerdir"), "")
        if below:
            self.lowers = (_look(below, mount),)

    def is_empty(self) -> bool:
        with os.scandir(self.path) as listing:
            return next(listing, None) is None

    def clear(self) -> None:
        """Remove all that is in it."""
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name in os.listdir(fd):
                walk.remove(fd, name)
        finally:
            os.close(fd)


def of(mounts: Sequence[Mount]) -> Upper | None:
    """The upper directory that the mounts come to; None when they have to be mounted to be written to."""
    if len(mounts) != 1 or mounts[0].type != "overlay" or not owns_ids():
        return None
    keys = [option.partition("=")[0] for option in mounts[0].options]
    if "upperdir" not in keys or not {"ro", "uidmap", "gidmap"}.isdisjoint(keys):
        return None
    return Upper(mounts[0])


def branch(mounts: Sequence[Mount]) -> str:
    """The directory where a lone overlay, or aufs, keeps what is written through it; "" for other mounts."""
    if len(mounts) != 1:
        return ""
    for option in mounts[0].options:
        key, _, value = option.partition("=")
        if mounts[0].type == "overlay" and key == "upperdir":
            return value
        if mounts[0].type == "aufs" and option.startswith("br:"):
            first, _, rights = option[3:].split(":", 1)[0].rpartition("=")
            return first if rights.startswith("rw") else ""
    return ""


@cache
def owns_ids() -> bool:
    """Whether we are in the host's user namespace: only there are ids and attributes what they seem."""
    with open("/proc/self/uid_map") as file:
        return file.read().split() == ["0", "0", "4294967295"]


def _look(below: str, mount: Mount) -> Mount:
    """A read-only mount of the lower layers. A lone one is no overlay."""
    if ":" not in below.replace("\\:", ""):
        return Mount(type="bind", source=below.replace("\\:", ":").replace("\\\\", "\\"), options=("ro", "rbind"))
    kept = tuple(option for option in mount.options if option.partition("=")[0] not in OWN_OPTIONS)
    return Mount(type="overlay", source=mount.source, options=("ro", *kept))


def settle(upper: str, implied: Sequence[bytes], alike: frozenset[bytes], mounts: Sequence[Mount]) -> bool:
    """Fit the `implied` directories in `upper` to what `mounts` show below; see ports.Applier.

    Those in `alike` become as the ones below; the others are the layer's own, but have whiteouts in them, or had
    entries in them before they had one.
    """
    with contextlib.ExitStack() as stack:
        below = _Below(stack.enter_context(mounting.opened(mounts)), stack)
        root = os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, root)
        return all(_settle(root, below, path, path in alike) for path in implied)


def _settle(root: int, below: "_Below", path: bytes, alike: bool) -> bool:
    fd = fs.openat2(root, path, os.O_RDONLY | os.O_DIRECTORY, 0, fs.RESOLVE_BENEATH | fs.RESOLVE_NO_SYMLINKS)
    try:
        kind = below.kind(path)
        if kind == below.FOLDER:
            if alike:
                _take(fd, below, path)
            return True
        if kind == below.OTHER or (alike and not _holds_anything(fd)):
            return False
        _bare(fd)
        return True
    finally:
        os.close(fd)


class _Below:
    """What the layers below have at a path that no symbolic link is on."""

    FOLDER, OTHER, NOTHING = "folder", "other", "nothing"

    def __init__(self, root: int, stack: contextlib.ExitStack) -> None:
        self.root = root
        self._kinds: dict[bytes, str] = {}

    def kind(self, path: bytes) -> str:
        for end in (*(at for at, byte in enumerate(path) if byte == ord("/")), len(path)):
            part = path[:end]
            kind = self._kinds.get(part) or self._kinds.setdefault(part, self._look(part))
            if kind != self.FOLDER:
                return kind if end == len(path) else self.NOTHING
        return self.FOLDER

    def _look(self, path: bytes) -> str:
        """Of a path whose directory is one."""
        try:
            os.close(self.open(path))
        except FileNotFoundError:
            return self.NOTHING
        except OSError as exc:
            if exc.errno in (errno.ENOTDIR, errno.ELOOP):
                return self.OTHER
            raise
        return self.FOLDER

    def open(self, path: bytes) -> int:
        how = fs.RESOLVE_BENEATH | fs.RESOLVE_NO_SYMLINKS
        return fs.openat2(self.root, path, os.O_RDONLY | os.O_DIRECTORY, 0, how)


def _take(fd: int, below: _Below, path: bytes) -> None:
    """Owner, mode, attributes and times of the directory below."""
    source = below.open(path)
    try:
        info = os.fstat(source)
        os.fchown(fd, info.st_uid, info.st_gid)
        os.fchmod(fd, stat.S_IMODE(info.st_mode))
        for name in os.listxattr(source):
            if not name.startswith(("trusted.", "user.overlay.")):
                with contextlib.suppress(OSError):  # a filesystem without such attributes
                    os.setxattr(fd, name, os.getxattr(source, name))
        os.utime(fd, ns=(info.st_atime_ns, info.st_mtime_ns))
    finally:
        os.close(source)


def _is_whiteout(info: os.stat_result) -> bool:
    return (stat.S_IFMT(info.st_mode), info.st_rdev) == WHITEOUT


def _holds_anything(fd: int) -> bool:
    """Whether anything but whiteouts is in the directory."""
    return any(not _is_whiteout(os.stat(name, dir_fd=fd, follow_symlinks=False)) for name in os.listdir(fd))


def _bare(fd: int) -> None:
    """Remove the whiteouts in a directory that has nothing below: overlayfs looks for them only where it merges."""
    info = os.fstat(fd)
    for name in os.listdir(fd):
        if _is_whiteout(os.stat(name, dir_fd=fd, follow_symlinks=False)):
            os.unlink(name, dir_fd=fd)
    os.utime(fd, ns=(info.st_atime_ns, info.st_mtime_ns))
