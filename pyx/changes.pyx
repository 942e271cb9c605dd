"""What makes one tree differ from another, in C, without the GIL: by a walk of both in one order, or of the upper
directory of an overlay alone.

Two entries of one name are the same when type, mode, owner, device, security.capability and, but for directories, size
and time are; a time whose nanoseconds are zero may have been cut off, and then contents are compared. Names are in
order of their bytes, a directory before what is in it. A directory of both trees is held at a time, and what is left of
those above; depth costs no descriptors.
"""

import os

from pyx cimport sys
from pyx.err cimport failed, retried
from pyx.folders cimport add_name, entry_t, listing, Listing, LISTING, next_entry, one_more, put_away, Text

cdef enum:
    PATH = 4096           # bytes of a path, NUL included (PATH_MAX)
    RECORDS = 64 << 10    # bytes of records at once, about
    BLOCK = 128 << 10     # bytes of two files' contents compared at once
    CAPABILITY = 1 << 10  # more than security.capability takes
    XATTRS = 64 << 10     # XATTR_LIST_MAX

cdef struct Names:        # of a directory's entries, sorted
    Text text
    const char** sorted
    size_t count
    size_t at

cdef struct Level:        # a directory on the way from the root to where the walk is
    Names upper
    Names lower           # listed only when `whole`
    bint whole            # what the lower tree has here shows only where the upper has it too
    bint below            # the lower tree has the directory
    size_t path_size

cdef struct Walk:
    int upper_root
    int lower_root        # -1: there is none
    int upper             # the directory that the walk is in; -1 until it is needed
    int lower
    const char* prefix    # of an overlay's own extended attributes; NULL: not the upper directory of one
    size_t prefix_size
    bint unclear          # only the overlay itself can tell
    Level* levels
    size_t depth
    size_t room
    char path[PATH]       # of what it is about
    size_t path_size
    char* listing
    char* blocks
    char* out
    size_t out_size
    size_t out_room


class Unclear(Exception):
    """The upper directory has what only its overlay can show: moved directories, files without their contents."""


cdef class Changes:
    """Between the directories `lower`, -1 for none, and `upper`; both stay the caller's.

    With `overlay`, `upper` is the upper directory of an overlay over what `lower` shows, and `overlay` is the prefix of
    its extended attributes ("trusted.overlay." or "user.overlay."): only `upper` is listed.
    """

    cdef Walk* walk
    cdef bytes overlay
    cdef bint begun

    def __cinit__(self, int lower, int upper, overlay=""):
        self.walk = <Walk*>sys.calloc(1, sizeof(Walk))
        if self.walk == NULL:
            raise MemoryError
        self.walk.upper_root, self.walk.lower_root, self.walk.upper, self.walk.lower = upper, lower, -1, -1
        self.overlay = os.fsencode(overlay)
        if self.overlay:
            self.walk.prefix, self.walk.prefix_size = self.overlay, len(self.overlay)

    def __dealloc__(self):
        self.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def read(self):
        """Some changes, in order; empty at the end. Each is a byte, the path from the root, and a NUL: A (added), M
        (other than in the lower tree), D (gone, and all in it) or U (a name, the same in both, of a file that has
        several). Unclear; OSError, whose filename is the path."""
        cdef Walk* walk = self.walk
        cdef int result = 0, number
        if walk == NULL:
            raise ValueError("the comparison is closed")
        with nogil:
            if not self.begun:
                result = _begin(walk)
                self.begun = True
            walk.out_size = 0
            while result == 0 and walk.depth and walk.out_size < RECORDS:
                result = _step(walk)
            number = sys.errno
        if result == 0:
            return walk.out[:walk.out_size]
        about = os.fsdecode(<bytes>walk.path)
        if walk.unclear:
            raise Unclear(about)
        raise failed(number, about)

    def close(self):
        cdef Walk* walk = self.walk
        if walk == NULL:
            return
        put_away(walk.upper)
        put_away(walk.lower)
        while walk.depth:
            _pop(walk)
        sys.free(walk.levels)
        sys.free(walk.listing)
        sys.free(walk.blocks)
        sys.free(walk.out)
        sys.free(walk)
        self.walk = NULL


# The way

cdef int _begin(Walk* walk) noexcept nogil:
    cdef bint below = walk.lower_root >= 0
    cdef bint whole = walk.prefix == NULL or not below
    walk.out_room = RECORDS + PATH + 2
    walk.listing = <char*>sys.malloc(LISTING)
    walk.out = <char*>sys.malloc(walk.out_room)
    if walk.listing == NULL or walk.out == NULL or _reopen(walk, below) < 0:
        return -1
    return _push(walk, whole, below)


cdef int _step(Walk* walk) noexcept nogil:
    """One name of the directory that the walk is in; out of it when there is none left."""
    cdef Level* level = &walk.levels[walk.depth - 1]
    cdef const char* upper = _first(&level.upper)
    cdef const char* lower = _first(&level.lower)
    cdef int order
    if upper == NULL and lower == NULL:
        _pop(walk)
        return 0
    if walk.upper < 0 and (_name(walk, NULL) < 0 or _reopen(walk, level.below) < 0):
        return -1
    order = 1 if lower == NULL else -1 if upper == NULL else sys.strcmp(lower, upper)
    if order <= 0:
        level.lower.at += 1
    if order < 0:
        return -1 if _name(walk, lower) < 0 else _tell(walk, c"D")
    level.upper.at += 1
    return -1 if _name(walk, upper) < 0 else _visit(walk, level, upper, order == 0)


cdef int _visit(Walk* walk, Level* level, const char* name, bint in_both) noexcept nogil:
    """A name that the upper directory has; `in_both` counts where both directories were listed."""
    cdef sys.stat_t upper, lower
    cdef bint below = level.below and (in_both or not level.whole)
    cdef bint above = True, whole = level.whole
    cdef int same
    if sys.fstatat(walk.upper, name, &upper, sys.AT_SYMLINK_NOFOLLOW) < 0:
        if sys.errno != sys.ENOENT:
            return -1
        above = False  # removed while we walk
    elif walk.prefix != NULL and sys.S_ISCHR(upper.st_mode) and upper.st_rdev == 0:
        above = False  # a whiteout (kernel documentation, overlayfs)
    elif walk.prefix != NULL and _marks(walk, name, &upper, &whole) < 0:
        return -1
    if below and sys.fstatat(walk.lower, name, &lower, sys.AT_SYMLINK_NOFOLLOW) < 0:
        if sys.errno != sys.ENOENT:
            return -1
        below = False
    if not above:
        return _tell(walk, c"D") if below else 0
    same = _same(walk, name, &lower, &upper) if below else 0
    if same < 0:
        return -1
    if not same:
        if _tell(walk, c"M" if below else c"A") < 0:
            return -1
    elif upper.st_nlink > 1 and not sys.S_ISDIR(upper.st_mode) and _tell(walk, c"U") < 0:
        return -1
    if not sys.S_ISDIR(upper.st_mode):
        return 0
    below = below and sys.S_ISDIR(lower.st_mode)
    return _enter(walk, name, whole or not below, below)


cdef int _enter(Walk* walk, const char* name, bint whole, bint below) noexcept nogil:
    cdef int upper, lower = -1
    cdef int flags = sys.O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW | sys.O_CLOEXEC
    upper = sys.openat(walk.upper, name, flags)
    if upper < 0:
        return 0 if sys.errno == sys.ENOENT else -1  # removed while we walk
    if below:
        lower = sys.openat(walk.lower, name, flags)
        if lower < 0:
            put_away(upper)
            return -1
    put_away(walk.upper)
    put_away(walk.lower)
    walk.upper, walk.lower = upper, lower
    return _push(walk, whole, below)


cdef int _push(Walk* walk, bint whole, bint below) noexcept nogil:
    """Stand in the directories that are open, which the path names."""
    cdef Level* level
    cdef Level* levels = <Level*>one_more(walk.levels, &walk.room, walk.depth, sizeof(Level))
    if levels == NULL:
        return -1
    walk.levels = levels
    level = &levels[walk.depth]
    level.whole, level.below, level.path_size = whole, below, walk.path_size
    walk.depth += 1
    if _list(walk, walk.upper, &level.upper) < 0:
        return -1
    return _list(walk, walk.lower, &level.lower) if whole and below else 0


cdef void _pop(Walk* walk) noexcept nogil:
    cdef Level* level = &walk.levels[walk.depth - 1]
    _forget(&level.upper)
    _forget(&level.lower)
    put_away(walk.upper)
    put_away(walk.lower)
    walk.upper, walk.lower = -1, -1
    walk.depth -= 1


cdef int _reopen(Walk* walk, bint below) noexcept nogil:
    """Open the directories that the path names."""
    walk.upper = _open(walk, walk.upper_root)
    if walk.upper < 0:
        return -1
    if below:
        walk.lower = _open(walk, walk.lower_root)
    return -1 if below and walk.lower < 0 else 0


cdef int _open(Walk* walk, int root) noexcept nogil:
    cdef sys.open_how how
    cdef const char* path = b"."
    cdef long result
    if walk.path_size:
        path = walk.path
    how.flags = sys.O_RDONLY | sys.O_DIRECTORY | sys.O_CLOEXEC
    how.mode = 0
    how.resolve = sys.RESOLVE_BENEATH | sys.RESOLVE_NO_SYMLINKS | sys.RESOLVE_NO_MAGICLINKS
    while True:
        result = retried(sys.SYS_openat2, root, <long>path, <long>&how, sizeof(how), 0)
        if result != -sys.EAGAIN:
            break
    if result < 0:
        sys.errno = <int>-result
        return -1
    return <int>result


cdef int _name(Walk* walk, const char* name) noexcept nogil:
    """The path is now that of `name` in the directory where the walk is; of that directory itself without one."""
    cdef size_t at = walk.levels[walk.depth - 1].path_size
    cdef size_t length = sys.strlen(name) if name != NULL else 0
    if at + length + 2 > PATH:
        sys.errno = sys.ENAMETOOLONG  # as for whoever would name it to the kernel, now or when the layer is unpacked
        return -1
    if at and length:
        walk.path[at] = c"/"
        at += 1
    if length:
        sys.memcpy(walk.path + at, name, length)
    walk.path_size = at + length
    walk.path[walk.path_size] = 0
    return 0


cdef int _tell(Walk* walk, char kind) noexcept nogil:
    """There is room: a block of records is handed out before it may lack some for one more."""
    walk.out[walk.out_size] = kind
    sys.memcpy(walk.out + walk.out_size + 1, walk.path, walk.path_size + 1)
    walk.out_size += walk.path_size + 2
    return 0


# What is in a directory

cdef int _list(Walk* walk, int folder, Names* names) noexcept nogil:
    cdef Listing here = listing(folder, walk.listing)
    cdef entry_t* entry = NULL
    cdef int found
    while True:
        found = next_entry(&here, &entry)
        if found <= 0:
            return found if found < 0 else _sort(names)
        if add_name(&names.text, entry.name) < 0:
            return -1
        names.count += 1


cdef int _sort(Names* names) noexcept nogil:
    cdef const char* text = names.text.at
    cdef size_t at
    if not names.count:
        return 0
    names.sorted = <const char**>sys.malloc(names.count * sizeof(char*))
    if names.sorted == NULL:
        return -1
    for at in range(names.count):
        names.sorted[at] = text
        text += sys.strlen(text) + 1
    sys.qsort(names.sorted, names.count, sizeof(char*), _order)
    return 0


cdef int _order(const void* a, const void* b) noexcept nogil:
    return sys.strcmp((<const char**>a)[0], (<const char**>b)[0])


cdef const char* _first(Names* names) noexcept nogil:
    return names.sorted[names.at] if names.at < names.count else NULL


cdef void _forget(Names* names) noexcept nogil:
    sys.free(names.sorted)
    sys.free(names.text.at)


# What an overlay keeps about an entry of its upper directory, in extended attributes

cdef int _marks(Walk* walk, const char* name, sys.stat_t* info, bint* whole) noexcept nogil:
    """`whole` becomes true for a directory that hides the lower one. -1, and `unclear`, for what the entry alone does
    not tell."""
    cdef char path[300]  # "/proc/self/fd/", a number, "/", NAME_MAX
    cdef char value[8]
    cdef const char* mark
    cdef char* names
    cdef ssize_t size, at = 0, length
    if not sys.S_ISDIR(info.st_mode) and not sys.S_ISREG(info.st_mode):
        return 0
    if _blocks(walk) < 0:
        return -1
    names = walk.blocks
    sys.snprintf(path, sizeof(path), b"/proc/self/fd/%d/%s", walk.upper, name)
    size = sys.llistxattr(path, names, XATTRS)
    if size < 0:
        return 0 if sys.errno in (sys.ENOTSUP, sys.ENODATA, sys.ENOENT) else -1
    while at < size:
        mark = names + at
        at += sys.strlen(mark) + 1
        if sys.strncmp(mark, walk.prefix, walk.prefix_size) != 0:
            continue
        if sys.strcmp(mark + walk.prefix_size, b"opaque") == 0:
            length = sys.lgetxattr(path, mark, value, sizeof(value))
            if length == 1 and value[0] == c"y":
                whole[0] = True
                continue
        elif not _decides(mark + walk.prefix_size):
            continue
        walk.unclear = True
        return -1
    return 0


cdef bint _decides(const char* mark) noexcept nogil:
    """Whether it changes what is seen: a directory that came from elsewhere, a file of attributes only, a whiteout that
    is none to other overlays."""
    return (sys.strcmp(mark, b"redirect") == 0 or sys.strcmp(mark, b"metacopy") == 0
            or sys.strcmp(mark, b"whiteout") == 0 or sys.strcmp(mark, b"whiteouts") == 0)


# Whether two entries are the same

cdef int _same(Walk* walk, const char* name, sys.stat_t* lower, sys.stat_t* upper) noexcept nogil:
    """1 when they are, 0 when not, -1 on failure."""
    cdef int same
    if lower.st_dev == upper.st_dev and lower.st_ino == upper.st_ino:
        return 1
    if lower.st_mode != upper.st_mode or lower.st_uid != upper.st_uid or lower.st_gid != upper.st_gid:
        return 0
    if sys.S_ISDIR(upper.st_mode):
        return 1
    if (sys.S_ISCHR(upper.st_mode) or sys.S_ISBLK(upper.st_mode)) and lower.st_rdev != upper.st_rdev:
        return 0
    if lower.st_size != upper.st_size or lower.st_mtim.tv_sec != upper.st_mtim.tv_sec:
        return 0
    if lower.st_mtim.tv_nsec != upper.st_mtim.tv_nsec and lower.st_mtim.tv_nsec and upper.st_mtim.tv_nsec:
        return 0
    if sys.S_ISLNK(upper.st_mode):
        return _same_target(walk, name)
    if not sys.S_ISREG(upper.st_mode):
        return 1
    same = _same_capability(walk, name)
    if same == 1 and upper.st_size and not (lower.st_mtim.tv_nsec and upper.st_mtim.tv_nsec):
        return _same_content(walk, name, upper.st_size)
    return same


cdef int _same_target(Walk* walk, const char* name) noexcept nogil:
    cdef char lower[PATH]
    cdef char upper[PATH]
    cdef ssize_t lower_size = sys.readlinkat(walk.lower, name, lower, PATH)
    cdef ssize_t upper_size = sys.readlinkat(walk.upper, name, upper, PATH)
    if lower_size < 0 or upper_size < 0:
        return -1
    return lower_size == upper_size and sys.memcmp(lower, upper, lower_size) == 0


cdef int _same_capability(Walk* walk, const char* name) noexcept nogil:
    cdef char lower[CAPABILITY]
    cdef char upper[CAPABILITY]
    cdef ssize_t lower_size = _capability(walk.lower, name, lower)
    cdef ssize_t upper_size = _capability(walk.upper, name, upper)
    if lower_size < 0 or upper_size < 0:
        return -1
    return lower_size == upper_size and sys.memcmp(lower, upper, lower_size) == 0


cdef ssize_t _capability(int folder, const char* name, char* value) noexcept nogil:
    """Its size, 0 without one."""
    cdef char path[300]
    cdef ssize_t size
    sys.snprintf(path, sizeof(path), b"/proc/self/fd/%d/%s", folder, name)
    size = sys.lgetxattr(path, b"security.capability", value, CAPABILITY)
    return 0 if size < 0 and sys.errno in (sys.ENODATA, sys.ENOTSUP) else size


cdef int _same_content(Walk* walk, const char* name, long long size) noexcept nogil:
    # O_NONBLOCK: should a fifo have taken the file's place, that would wait for its writer
    cdef int flags = sys.O_RDONLY | sys.O_NOFOLLOW | sys.O_NONBLOCK | sys.O_CLOEXEC
    cdef int lower, upper, same = -1
    if _blocks(walk) < 0:
        return -1
    lower = sys.openat(walk.lower, name, flags)
    if lower < 0:
        return -1
    upper = sys.openat(walk.upper, name, flags)
    if upper >= 0:
        same = _same_bytes(walk, lower, upper, size)
    put_away(lower)
    put_away(upper)
    return same


cdef int _same_bytes(Walk* walk, int lower, int upper, long long size) noexcept nogil:
    cdef ssize_t here, there
    cdef long long at = 0
    while at < size:
        there = _read(lower, walk.blocks, at)
        here = _read(upper, walk.blocks + BLOCK, at)
        if here < 0 or there < 0:
            return -1
        if here != there or sys.memcmp(walk.blocks, walk.blocks + BLOCK, here) != 0:
            return 0
        if here == 0:
            return 1
        at += here
    return 1


cdef ssize_t _read(int fd, char* to, long long at) noexcept nogil:
    """A whole block, but for the last: two files may be read in different pieces."""
    cdef ssize_t got, done = 0
    while done < BLOCK:
        got = sys.pread(fd, to + done, BLOCK - done, at + done)
        if got == 0:
            break
        if got > 0:
            done += got
        elif sys.errno != sys.EINTR:
            return -1
    return done


cdef int _blocks(Walk* walk) noexcept nogil:
    if walk.blocks == NULL:
        walk.blocks = <char*>sys.malloc(2 * BLOCK)
    return -1 if walk.blocks == NULL else 0
