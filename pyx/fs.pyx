"""File calls that Python's os lacks: openat2, renameat2, linkat of a file without a name, reflink, syncfs, and statx's
answer to whether something is the root of a mount.

What os has is not here: O_TMPFILE, copy_file_range, and extended attributes by descriptor (for one of O_PATH: by its
path below /proc/self/fd).
"""

from pyx cimport sys
from pyx.err cimport failed, retried, text
from pyx.folders cimport entry_t

# openat2(2)
RESOLVE_NO_XDEV = sys.RESOLVE_NO_XDEV
RESOLVE_NO_MAGICLINKS = sys.RESOLVE_NO_MAGICLINKS
RESOLVE_NO_SYMLINKS = sys.RESOLVE_NO_SYMLINKS
RESOLVE_BENEATH = sys.RESOLVE_BENEATH
RESOLVE_IN_ROOT = sys.RESOLVE_IN_ROOT
# rename(2)
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2

cdef int TRIES = 32


def openat2(int folder, path, unsigned long long flags, unsigned long long mode=0, unsigned long long resolve=0):
    """openat2(2): open `path` below `folder` with restrictions on how it may be resolved; a new descriptor."""
    cdef bytes path_b = text(path)
    cdef const char* path_p = path_b
    cdef sys.open_how how
    cdef long result = -sys.EAGAIN
    cdef int _tries
    how.flags, how.mode, how.resolve = flags | sys.O_CLOEXEC, mode, resolve
    for _tries in range(TRIES):
        with nogil:
            result = retried(sys.SYS_openat2, folder, <long>path_p, <long>&how, sizeof(how), 0)
        # EAGAIN: a rename elsewhere raced with a resolution that must stay inside (openat2(2), RESOLVE_IN_ROOT).
        # Who renames without end must not hold us without end.
        if result != -sys.EAGAIN:
            break
    if result < 0:
        raise failed(-result, path)
    return result


def renameat2(int folder, path, int to_folder, to, unsigned int flags=0):
    """rename(2) with flags."""
    cdef bytes path_b = text(path), to_b = text(to)
    cdef const char* path_p = path_b
    cdef const char* to_p = to_b
    cdef long result
    with nogil:
        result = retried(sys.SYS_renameat2, folder, <long>path_p, to_folder, <long>to_p, flags)
    if result < 0:
        raise failed(-result, path)


def linkat(int fd, int folder, path):
    """Give the file that `fd` is (of O_TMPFILE, say) the name `path` below `folder` (open(2), O_TMPFILE)."""
    cdef bytes from_b = b"/proc/self/fd/%d" % fd, path_b = text(path)
    cdef const char* from_p = from_b
    cdef const char* path_p = path_b
    cdef int result, number
    with nogil:
        result = sys.linkat(sys.AT_FDCWD, from_p, folder, path_p, sys.AT_SYMLINK_FOLLOW)
        number = sys.errno
    if result < 0:
        raise failed(number, path)


def reflink(int source, int target):
    """Make `target` share all of `source`'s blocks (ioctl_ficlone(2)); whether the filesystem can."""
    cdef int result, number
    while True:
        with nogil:
            result = sys.ioctl(target, sys.FICLONE, source)
            number = sys.errno
        if result == 0:
            return True
        if number in (sys.EOPNOTSUPP, sys.EXDEV, sys.EINVAL, sys.ENOTTY):
            return False
        if number != sys.EINTR:
            raise failed(number, None)


def syncfs(int fd):
    """Write out the filesystem that `fd` is on (syncfs(2))."""
    cdef int result, number
    while True:
        with nogil:
            result = sys.syncfs(fd)
            number = sys.errno
        if result == 0:
            return
        if number != sys.EINTR:
            raise failed(number, None)


def is_mount_root(int folder, path):
    """Whether `path` below `folder` (a link is not followed; "" is `folder` itself) is the root of a mount, or None
    when the kernel does not say (statx(2), STATX_ATTR_MOUNT_ROOT, Linux 5.8)."""
    cdef bytes path_b = text(path)
    cdef const char* path_p = path_b
    cdef sys.statx_t info
    cdef int result, number
    with nogil:
        result = sys.statx(folder, path_p, sys.AT_SYMLINK_NOFOLLOW | sys.AT_EMPTY_PATH, 0, &info)
        number = sys.errno
    if result < 0:
        raise failed(number, path)
    if not info.stx_attributes_mask & sys.STATX_ATTR_MOUNT_ROOT:
        return None
    return info.stx_attributes & sys.STATX_ATTR_MOUNT_ROOT != 0


def names_types(int folder):
    """Whether the entries that a directory's first listing has all tell of which type they are (getdents64(2), d_type:
    overlay needs it)."""
    cdef char[4096] listing
    cdef entry_t* entry
    cdef long got, at = 0
    with nogil:
        got = retried(sys.SYS_getdents64, folder, <long>&listing[0], sizeof(listing), 0, 0)
    if got < 0:
        raise failed(-got, None)
    while at < got:
        entry = <entry_t*>(<char*>listing + at)
        if entry.type == sys.DT_UNKNOWN:
            return False
        at += entry.length
    return True
