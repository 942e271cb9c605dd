"""Resolves a process's user below a root filesystem it does not trust. Knows no task."""

import errno
import os
import stat
from collections.abc import Sequence

from pyx.fs import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, openat2
from spec import errors
from spec.oci import users

SIZE_MAX = 10 << 20  # bytes of passwd and group


def identify(root: int, user: str, extra: Sequence[int] = ()) -> users.Ids:
    """Ids of `user` ("name|uid[:name|gid]") by /etc/passwd and /etc/group below the directory descriptor `root`.

    InvalidArgument for a user that is malformed or not there, and for a file that is not regular or above 10 MiB.
    """
    return users.resolve(user, _read(root, "etc/passwd"), _read(root, "etc/group"), extra)


def _read(root: int, path: str) -> bytes:
    """The file's bytes, none when there is no such file. Links lead nowhere outside of `root`.

    It is opened for reading only once it is known to be regular: opening a device may do things, and a FIFO blocks.
    """
    doing = f"read /{path} of the root filesystem"
    try:
        found = openat2(root, path, os.O_PATH | os.O_CLOEXEC, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
    except OSError as exc:
        if exc.errno in (errno.ENOENT, errno.ENOTDIR):
            return b""
        raise errors.InvalidArgument(f"{doing}: {exc.strerror}") from exc
    try:
        status = os.fstat(found)
        if not stat.S_ISREG(status.st_mode):
            raise errors.InvalidArgument(f"{doing}: not a regular file")
        if status.st_size > SIZE_MAX:
            raise errors.InvalidArgument(f"{doing}: it exceeds {SIZE_MAX} bytes")
        with open(os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            data = file.read(SIZE_MAX + 1)
    finally:
        os.close(found)
    if len(data) > SIZE_MAX:
        raise errors.InvalidArgument(f"{doing}: it exceeds {SIZE_MAX} bytes")
    return data
