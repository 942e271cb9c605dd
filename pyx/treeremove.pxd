# The end of trees, in C: whole, or but for what somebody spares. Never follows a symbolic link and never enters another
# mount. Depth costs heap, not stack or descriptors: a level is read whole, then its directories are entered one by one,
# and the way back is "..", which must lead to the directory we came from.

from pyx cimport sys
from pyx.err cimport retried

cdef extern from *:
    """
    struct pyx_removal_dirent { unsigned long long inode; long long offset; unsigned short length; unsigned char type;
                                char name[]; };
    """
    struct entry_t "pyx_removal_dirent":
        unsigned short length
        unsigned char type
        char name[1]

cdef enum:
    LISTING = 32 << 10             # bytes of getdents64(2) at once
    PATIENCE = 64                  # how often directories that were emptied may be full again

# Whether `name`, in the directory with the inode number `folder`, stays.
ctypedef bint (*spares_t)(void* who, unsigned long folder, const char* name) noexcept nogil
# Told the descriptor of a directory that stays only because something in it does; 0, or -1 and errno.
ctypedef int (*remains_t)(void* who, int fd) noexcept nogil

cdef struct Stage:                 # a directory on the way
    char* names                    # of its directories that are still to be entered, each with its NUL
    size_t size
    size_t room
    size_t at                      # of the next one
    size_t path_size               # of the path to here
    unsigned long device
    unsigned long inode
    bint keeps                     # something in it stays

cdef struct Removal:
    int here                       # the directory that we are in
    spares_t spares                # or NULL
    remains_t remains
    void* who
    bint counts                    # what goes, in:
    unsigned long long bytes_
    unsigned long long inodes
    bint descends_only             # the kernel lacks openat2(2): only the device tells a mount
    int patience
    Stage* stages
    size_t depth                   # of stages in use; the last one is where we are
    size_t room
    char* path                     # from where we began to what is being removed; ends with NUL
    size_t path_size
    size_t path_room
    char* listing


cdef inline int begin(Removal* removal, int folder, spares_t spares, remains_t remains, void* who) noexcept nogil:
    """Stand in `folder`, which stays; 0, or -1 and errno. `end` in any case."""
    cdef int here
    sys.memset(removal, 0, sizeof(Removal))
    removal.here, removal.patience = -1, PATIENCE
    removal.spares, removal.remains, removal.who = spares, remains, who
    removal.listing = <char*>sys.malloc(LISTING)
    if removal.listing == NULL:
        return -1
    here = sys.openat(folder, b".", sys.O_RDONLY | sys.O_DIRECTORY | sys.O_CLOEXEC)
    if here < 0 or _push(removal, here) < 0:
        _close(here)
        return -1
    return 0


cdef inline int remove(Removal* removal, const char* name) noexcept nogil:
    """Remove `name`, whatever it is; not there is fine."""
    if _visit(removal, name, sys.DT_UNKNOWN) < 0:
        return -1
    return _run(removal)


cdef inline int empty(Removal* removal) noexcept nogil:
    """Remove all that is in the directory."""
    return -1 if _list(removal) < 0 else _run(removal)


cdef inline void end(Removal* removal) noexcept nogil:
    """Keeping errno."""
    cdef int number = sys.errno
    cdef size_t at
    _close(removal.here)
    for at in range(removal.depth):
        sys.free(removal.stages[at].names)
    sys.free(removal.stages)
    sys.free(removal.path)
    sys.free(removal.listing)
    sys.errno = number


# The way.

cdef inline int _run(Removal* removal) noexcept nogil:
    cdef Stage* stage
    cdef char* name
    while True:
        stage = &removal.stages[removal.depth - 1]
        if stage.at < stage.size:
            name = stage.names + stage.at
            stage.at += sys.strlen(name) + 1
            if _enter(removal, name) < 0:
                return -1
        elif removal.depth == 1:
            return 0
        elif _leave(removal) < 0:
            return -1


cdef inline int _list(Removal* removal) noexcept nogil:
    """Visit every entry of the directory that we are in."""
    cdef entry_t* entry
    cdef long got, at
    while True:
        got = retried(sys.SYS_getdents64, removal.here, <long>removal.listing, LISTING, 0, 0)
        if got <= 0:
            sys.errno = -got
            return 0 if got == 0 or -got == sys.ENOENT else -1
        at = 0
        while at < got:
            entry = <entry_t*>(removal.listing + at)
            at += entry.length
            if not _is_dot(entry.name) and _visit(removal, entry.name, entry.type) < 0:
                return -1


cdef inline int _visit(Removal* removal, const char* name, unsigned char type) noexcept nogil:
    """One entry. A directory is noted, to be entered later."""
    cdef Stage* stage = &removal.stages[removal.depth - 1]
    cdef sys.stat_t info
    cdef int number
    if _name(removal, name) < 0:
        return -1
    if type == sys.DT_DIR:
        return _note(stage, name)
    if removal.spares != NULL or removal.counts:
        if sys.fstatat(removal.here, name, &info, sys.AT_SYMLINK_NOFOLLOW) < 0:
            return 0 if sys.errno == sys.ENOENT else -1
        if sys.S_ISDIR(info.st_mode):
            return _note(stage, name)
        if removal.spares != NULL and removal.spares(removal.who, stage.inode, name):
            stage.keeps = True
            return 0
        if info.st_nlink == 1:
            _count(removal, &info)
    if sys.unlinkat(removal.here, name, 0) == 0 or sys.errno == sys.ENOENT:
        return 0
    number = sys.errno
    if number == sys.EPERM:  # what unlink(2) says of directories in POSIX
        if sys.fstatat(removal.here, name, &info, sys.AT_SYMLINK_NOFOLLOW) == 0 and sys.S_ISDIR(info.st_mode):
            number = sys.EISDIR
    sys.errno = number
    return _note(stage, name) if number == sys.EISDIR else -1


cdef inline int _enter(Removal* removal, const char* name) noexcept nogil:
    cdef int child
    if _name(removal, name) < 0:
        return -1
    child = _open(removal, name)
    if child < 0:
        if sys.errno == sys.EXDEV:
            sys.errno = sys.EBUSY
        return 0 if sys.errno in (sys.ENOENT, sys.ENOTDIR) else -1  # somebody else removed it
    if _push(removal, child) < 0:
        _close(child)
        return -1
    return _list(removal)


cdef inline int _leave(Removal* removal) noexcept nogil:
    """Back to the directory above, when this one is done. The name entered last is the last part of the path."""
    cdef Stage* stage = &removal.stages[removal.depth - 1]
    cdef Stage* above = &removal.stages[removal.depth - 2]
    cdef bint keeps = stage.keeps, spared = False
    cdef char* name = removal.path + above.path_size
    cdef sys.stat_t info
    cdef int up
    removal.path_size = stage.path_size
    removal.path[removal.path_size] = 0
    if name[0] == c"/":
        name += 1
    if removal.spares != NULL:
        spared = removal.spares(removal.who, above.inode, name)
        if keeps and not spared and removal.remains(removal.who, removal.here) < 0:
            return -1
    if removal.counts:
        if sys.fstat(removal.here, &info) < 0:
            return -1
        _count(removal, &info)
    up = _up(removal.here, above)
    if up < 0:
        return -1
    _close(removal.here)
    removal.here = up
    sys.free(stage.names)
    removal.depth -= 1
    if keeps or spared:
        above.keeps = True
        return 0
    return _remove_emptied(removal, above, name)


cdef inline void _count(Removal* removal, const sys.stat_t* info) noexcept nogil:
    removal.inodes += 1
    removal.bytes_ += info.st_blocks * 512


cdef inline int _remove_emptied(Removal* removal, Stage* stage, const char* name) noexcept nogil:
    if sys.unlinkat(removal.here, name, sys.AT_REMOVEDIR) == 0 or sys.errno == sys.ENOENT:
        return 0
    if sys.errno == sys.ENOTEMPTY and removal.patience > 0:  # somebody added to it, or the listing missed some
        removal.patience -= 1
        stage.at -= sys.strlen(name) + 1
        return 0
    return -1


cdef inline int _up(int here, const Stage* expected) noexcept nogil:
    cdef sys.stat_t info
    cdef int up = sys.openat(here, b"..", sys.O_RDONLY | sys.O_DIRECTORY | sys.O_CLOEXEC)
    if up < 0:
        return -1
    if sys.fstat(up, &info) < 0:
        _close(up)
        return -1
    if info.st_dev != expected.device or info.st_ino != expected.inode:
        _close(up)
        sys.errno = sys.ESTALE  # somebody moved the directory while we were in it
        return -1
    return up


cdef inline int _push(Removal* removal, int here) noexcept nogil:
    """Stand in the directory `here`, whose name is the path's last part; on failure it is still the caller's."""
    cdef Stage* stages
    cdef Stage* stage
    cdef sys.stat_t info
    cdef size_t room
    if removal.depth == removal.room:
        room = removal.room * 2 if removal.room else 16
        stages = <Stage*>sys.realloc(removal.stages, room * sizeof(Stage))
        if stages == NULL:
            return -1
        removal.stages, removal.room = stages, room
    if sys.fstat(here, &info) < 0:
        return -1
    stage = &removal.stages[removal.depth]
    sys.memset(stage, 0, sizeof(Stage))
    stage.path_size, stage.device, stage.inode = removal.path_size, info.st_dev, info.st_ino
    _close(removal.here)
    removal.here = here
    removal.depth += 1
    return 0


cdef inline int _note(Stage* stage, const char* name) noexcept nogil:
    """`name` is a directory, to be entered when this one is read."""
    cdef size_t length = sys.strlen(name) + 1
    if _grow(&stage.names, &stage.room, stage.size + length) < 0:
        return -1
    sys.memcpy(stage.names + stage.size, name, length)
    stage.size += length
    return 0


cdef inline int _name(Removal* removal, const char* name) noexcept nogil:
    """The path is now that of `name` in the directory where we are."""
    cdef size_t at = removal.stages[removal.depth - 1].path_size, length = sys.strlen(name) + 1
    if _grow(&removal.path, &removal.path_room, at + length + 1) < 0:
        return -1
    if at:
        removal.path[at] = c"/"
        at += 1
    sys.memcpy(removal.path + at, name, length)
    removal.path_size = at + length - 1
    return 0


cdef inline int _grow(char** at, size_t* room, size_t needed) noexcept nogil:
    cdef char* grown
    cdef size_t size = room[0] if room[0] else 256
    if needed <= room[0]:
        return 0
    while size < needed:
        size *= 2
    grown = <char*>sys.realloc(at[0], size)
    if grown == NULL:
        return -1
    at[0], room[0] = grown, size
    return 0


cdef inline int _open(Removal* removal, const char* name) noexcept nogil:
    """Of a directory in the one where we are; EXDEV when something is mounted on it."""
    cdef sys.open_how how
    cdef sys.stat_t info
    cdef long result
    cdef int fd
    how.flags = sys.O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW | sys.O_CLOEXEC
    how.mode = 0
    how.resolve = sys.RESOLVE_NO_XDEV | sys.RESOLVE_NO_SYMLINKS | sys.RESOLVE_BENEATH
    if not removal.descends_only:
        while True:
            result = retried(sys.SYS_openat2, removal.here, <long>name, <long>&how, sizeof(how), 0)
            if result != -sys.EAGAIN:
                break
        if result != -sys.ENOSYS:
            sys.errno = <int>-result if result < 0 else 0
            return <int>result if result >= 0 else -1
        removal.descends_only = True
    fd = sys.openat(removal.here, name, <int>how.flags)
    if fd >= 0 and (sys.fstat(fd, &info) < 0 or info.st_dev != removal.stages[0].device):
        _close(fd)
        sys.errno = sys.EXDEV
        return -1
    return fd


cdef inline bint _is_dot(const char* name) noexcept nogil:
    return name[0] == c"." and (name[1] == 0 or (name[1] == c"." and name[2] == 0))


cdef inline void _close(int fd) noexcept nogil:
    """Keeping errno."""
    cdef int number = sys.errno
    if fd >= 0:
        sys.close(fd)
    sys.errno = number
