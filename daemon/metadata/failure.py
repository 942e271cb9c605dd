"""What LMDB says of a write that failed: whether the next one may be tried.

After a sync that failed it may not. The kernel tells each descriptor once (fsync(2)), and takes the pages for written:
they are read from memory as if they were on disk, and ext4 leaves an extent that was allocated ahead and could not be
written for unwritten, whatever is written to it later (measured: rows that were acknowledged then are zeros at the next
mount).
"""

import contextlib
import os

import lmdb

from spec import errors

_NO_ROOM = ("No space left", "quota exceeded")
_BROKEN = (lmdb.PanicError, lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError, lmdb.ReadonlyError)


def no_room(exc: lmdb.Error) -> bool:
    return isinstance(exc, (lmdb.DiskError, lmdb.MapFullError)) or any(word in str(exc) for word in _NO_ROOM)


def lasting(exc: lmdb.Error, data_fd: int, need: int, sync: bool) -> str:
    """Why nothing may be written after `exc`, which a commit of about `need` bytes ended with; empty: all may be.
    `data_fd` was opened before whatever failed, and synced never since."""
    if isinstance(exc, _BROKEN):
        return str(exc)
    if type(exc) is not lmdb.Error and not isinstance(exc, lmdb.DiskError):
        return ""
    try:
        if sync:
            os.fdatasync(data_fd)  # no room to write is one thing, none to write back another
        room = os.fstatvfs(data_fd)
    except OSError as failed:
        return str(failed)
    # To LMDB a write of which a full disk took a part is EIO.
    return "" if no_room(exc) or room.f_bavail * room.f_frsize < need else str(exc)


def translate(exc: lmdb.Error) -> errors.Error:
    if no_room(exc):
        return errors.ResourceExhausted(f"writing metadata: {exc}")
    return errors.DataLoss(f"writing metadata: {exc}")


def uncache(path: str) -> None:
    """Have the file read from its disk from now on, where nobody has it mapped."""
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)
