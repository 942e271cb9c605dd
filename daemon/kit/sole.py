"""A directory for one process at a time, by flock(2) on the directory itself: no file is made for it, and the kernel
lets go when the process ends, however it does."""

import contextlib
import fcntl
import os
from collections.abc import Iterator

from spec import errors

LOCKS = "/proc/locks"


@contextlib.contextmanager
def held(directory: str, name: str) -> Iterator[None]:
    """While the block runs `directory`, which `name` says the use of, is ours. FailedPrecondition when it is another's,
    with its pid."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        raise errors.from_os(exc, f"opening {name} {directory}") from exc
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise errors.FailedPrecondition(f"{name} {directory}: another daemon has it (pid {_holder(fd)})") from exc
        except OSError as exc:
            raise errors.from_os(exc, f"locking {name} {directory}") from exc
        yield
    finally:
        os.close(fd)


def _holder(fd: int) -> str:
    """Who has the lock of an open file: proc_locks(5) lists pid and MAJOR:MINOR:INODE of each."""
    info = os.fstat(fd)
    place = f"{os.major(info.st_dev):02x}:{os.minor(info.st_dev):02x}:{info.st_ino}"
    with contextlib.suppress(OSError), open(LOCKS) as locks:
        for line in locks:
            fields = line.split()
            if fields[1:2] == ["FLOCK"] and fields[5:6] == [place]:
                return fields[4]
    return "unknown"
