# What walks through directories have in common: listings, names and paths that grow, the way down and the way back up.
# A walk never follows a symbolic link and never enters another mount; every result is 0, or -1 and errno.

from pyx cimport sys
from pyx.err cimport retried

cdef extern from *:
    """
    struct pyx_dirent { unsigned long long inode; long long offset; unsigned short length; unsigned char type;
                        char name[]; };
    """
    struct entry_t "pyx_dirent":
        unsigned short length
        unsigned char type
        char name[1]

cdef enum:
    LISTING = 64 << 10     # bytes of getdents64(2) at once

cdef struct Listing:       # of a directory, under way, in a buffer of LISTING bytes
    int fd
    char* buffer
    long size
    long at

cdef struct Text:          # bytes that grow: names, each with its NUL, or one path and its NUL, which does not count
    char* at
    size_t size
    size_t room


cdef inline Listing listing(int fd, char* buffer) noexcept nogil:
    """From where the descriptor stands."""
    return Listing(fd, buffer, 0, 0)


cdef inline int next_entry(Listing* of, entry_t** entry) noexcept nogil:
    """1 for one more, which is good until the next call; 0 at the end, also of a directory that was removed."""
    while True:
        if of.at == of.size:
            of.at, of.size = 0, retried(sys.SYS_getdents64, of.fd, <long>of.buffer, LISTING, 0, 0)
            if of.size <= 0:
                sys.errno = <int>-of.size
                of.size = 0
                return 0 if sys.errno in (0, sys.ENOENT) else -1
        entry[0] = <entry_t*>(of.buffer + of.at)
        of.at += entry[0].length
        if not _is_dot(entry[0].name):
            return 1


cdef inline bint _is_dot(const char* name) noexcept nogil:
    return name[0] == c"." and (name[1] == 0 or (name[1] == c"." and name[2] == 0))


cdef inline int grow(Text* text, size_t needed) noexcept nogil:
    """Room for `needed` bytes in all."""
    cdef char* grown
    cdef size_t room = text.room if text.room else 256
    if needed <= text.room:
        return 0
    while room < needed:
        room *= 2
    grown = <char*>sys.realloc(text.at, room)
    if grown == NULL:
        return -1
    text.at, text.room = grown, room
    return 0


cdef inline int add_name(Text* names, const char* name) noexcept nogil:
    cdef size_t length = sys.strlen(name) + 1
    if grow(names, names.size + length) < 0:
        return -1
    sys.memcpy(names.at + names.size, name, length)
    names.size += length
    return 0


cdef inline int set_name(Text* path, size_t parent, const char* name) noexcept nogil:
    """The path becomes that of `name` in the directory at its first `parent` bytes."""
    cdef size_t length = sys.strlen(name)
    if grow(path, parent + length + 2) < 0:
        return -1
    if parent:
        path.at[parent] = c"/"
        parent += 1
    sys.memcpy(path.at + parent, name, length + 1)
    path.size = parent + length
    return 0


cdef inline void* one_more(void* items, size_t* room, size_t count, size_t size) noexcept nogil:
    """Where `items`, `count` of `size` bytes each, are now, with `room` for one more, which is zero; NULL, and they are
    where they were."""
    cdef size_t grown = room[0] * 2 if room[0] else 32
    if count == room[0]:
        items = sys.realloc(items, grown * size)
        if items == NULL:
            return NULL
        room[0] = grown
    sys.memset(<char*>items + count * size, 0, size)
    return items


cdef inline int open_folder(int parent, const char* name, bint* descends_only, unsigned long device) noexcept nogil:
    """The directory `name`; EXDEV when something is mounted on it. `descends_only` becomes true where the kernel lacks
    openat2(2): only the device, which is that of the walk's root, tells a mount then."""
    cdef sys.open_how how
    cdef sys.stat_t info
    cdef long result
    cdef int fd
    how.flags = sys.O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW | sys.O_CLOEXEC
    how.mode = 0
    how.resolve = sys.RESOLVE_NO_XDEV | sys.RESOLVE_NO_SYMLINKS | sys.RESOLVE_BENEATH
    if not descends_only[0]:
        while True:
            result = retried(sys.SYS_openat2, parent, <long>name, <long>&how, sizeof(how), 0)
            if result != -sys.EAGAIN:
                break
        if result != -sys.ENOSYS:
            sys.errno = <int>-result if result < 0 else 0
            return <int>result if result >= 0 else -1
        descends_only[0] = True
    fd = sys.openat(parent, name, <int>how.flags)
    if fd >= 0 and (sys.fstat(fd, &info) < 0 or info.st_dev != device):
        put_away(fd)
        sys.errno = sys.EXDEV
        return -1
    return fd


cdef inline int open_above(int folder, unsigned long device, unsigned long inode) noexcept nogil:
    """The directory above, if it is the one we came from; ESTALE when somebody moved `folder` while we were in it."""
    cdef sys.stat_t info
    cdef int above = sys.openat(folder, b"..", sys.O_RDONLY | sys.O_DIRECTORY | sys.O_CLOEXEC)
    if above < 0:
        return -1
    if sys.fstat(above, &info) < 0:
        put_away(above)
        return -1
    if info.st_dev != device or info.st_ino != inode:
        put_away(above)
        sys.errno = sys.ESTALE
        return -1
    return above


cdef inline void put_away(int fd) noexcept nogil:
    """Close it, if it is one, keeping errno."""
    cdef int number = sys.errno
    if fd >= 0:
        sys.close(fd)
    sys.errno = number
