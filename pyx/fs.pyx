"""File calls that Python's os lacks: openat2, renameat2, reflink, syncfs."""

import os

from pyx cimport sys
from pyx.err cimport failed

cdef extern from *:
    """
    #include <linux/fs.h>
    struct pyx_open_how { unsigned long long flags, mode, resolve; };
    """
    struct open_how "pyx_open_how":
        unsigned long long flags
        unsigned long long mode
        unsigned long long resolve
    const unsigned long FICLONE

# openat2(2)
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10
# rename(2)
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2


def openat2(int folder, path, unsigned long long flags, unsigned long long mode=0, unsigned long long resolve=0):
    """openat2(2): open `path` below `folder` with restrictions on how it may be resolved; a new descriptor."""
    cdef bytes path_b = os.fsencode(path)
    cdef const char* path_p = path_b
    cdef open_how how
    cdef long result
    cdef int number
    how.flags, how.mode, how.resolve = flags | sys.O_CLOEXEC, mode, resolve
    while True:
        with nogil:
            result = sys.syscall(sys.SYS_openat2, folder, path_p, &how, sizeof(how))
            number = sys.errno
        if result >= 0:
            return result
        # EAGAIN: a rename elsewhere raced with a resolution that must stay inside (openat2(2), RESOLVE_IN_ROOT)
        if number not in (sys.EINTR, sys.EAGAIN):
            raise failed(number, path)


def renameat2(int folder, path, int to_folder, to, unsigned int flags=0):
    """rename(2) with flags."""
    cdef bytes path_b = os.fsencode(path), to_b = os.fsencode(to)
    cdef const char* path_p = path_b
    cdef const char* to_p = to_b
    cdef long result
    cdef int number
    with nogil:
        result = sys.syscall(sys.SYS_renameat2, folder, path_p, to_folder, to_p, flags)
        number = sys.errno
    if result < 0:
        raise failed(number, path)


def reflink(int source, int target):
    """Make `target` share all of `source`'s blocks (ioctl_ficlone(2)); whether the filesystem can."""
    cdef int result, number
    with nogil:
        result = sys.ioctl(target, FICLONE, source)
        number = sys.errno
    if result == 0:
        return True
    if number in (sys.EOPNOTSUPP, sys.EXDEV, sys.EINVAL, 25):  # 25 is ENOTTY: no such ioctl there
        return False
    raise failed(number, None)


def syncfs(int fd):
    """Write out the filesystem that `fd` is on (syncfs(2))."""
    cdef int result, number
    with nogil:
        result = sys.syncfs(fd)
        number = sys.errno
    if result < 0:
        raise failed(number, None)
