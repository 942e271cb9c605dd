# The end of trees, in C: whole, or but for what somebody spares. Never follows a symbolic link and never enters another
# mount. Depth costs heap, not stack or descriptors: a level is read whole, then its directories are entered one by one,
# and the way back is "..", which must lead to the directory we came from.

from pyx cimport sys
from pyx.folders cimport (
    add_name, entry_t, listing, Listing, LISTING, next_entry, one_more, open_above, open_folder, put_away, set_name,
    Text,
)

cdef enum:
    PATIENCE = 64                  # how often directories that were emptied may be full again

# Whether `name`, in the directory with the inode number `folder`, stays.
ctypedef bint (*spares_t)(void* who, unsigned long folder, const char* name) noexcept nogil
# Told the descriptor of a directory that stays only because something in it does; 0, or -1 and errno.
ctypedef int (*remains_t)(void* who, int fd) noexcept nogil

cdef struct Stage:                 # a directory on the way
    Text names                     # of its directories that are still to be entered
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
    Text path                      # from where we began to what is being removed
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
        put_away(here)
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
    put_away(removal.here)
    for at in range(removal.depth):
        sys.free(removal.stages[at].names.at)
    sys.free(removal.stages)
    sys.free(removal.path.at)
    sys.free(removal.listing)
    sys.errno = number


# The way.

cdef inline int _run(Removal* removal) noexcept nogil:
    cdef Stage* stage
    cdef char* name
    while True:
        stage = &removal.stages[removal.depth - 1]
        if stage.at < stage.names.size:
            name = stage.names.at + stage.at
            stage.at += sys.strlen(name) + 1
            if _enter(removal, name) < 0:
                return -1
        elif removal.depth == 1:
            return 0
        elif _leave(removal) < 0:
            return -1


cdef inline int _list(Removal* removal) noexcept nogil:
    """Visit every entry of the directory that we are in."""
    cdef Listing here = listing(removal.here, removal.listing)
    cdef entry_t* entry = NULL
    cdef int found
    while True:
        found = next_entry(&here, &entry)
        if found <= 0:
            return found
        if _visit(removal, entry.name, entry.type) < 0:
            return -1


cdef inline int _visit(Removal* removal, const char* name, unsigned char type) noexcept nogil:
    """One entry. A directory is noted, to be entered later."""
    cdef Stage* stage = &removal.stages[removal.depth - 1]
    cdef sys.stat_t info
    cdef int number
    if _name(removal, name) < 0:
        return -1
    if type == sys.DT_DIR:
        return add_name(&stage.names, name)
    if removal.spares != NULL or removal.counts:
        if sys.fstatat(removal.here, name, &info, sys.AT_SYMLINK_NOFOLLOW) < 0:
            return 0 if sys.errno == sys.ENOENT else -1
        if sys.S_ISDIR(info.st_mode):
            return add_name(&stage.names, name)
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
    return add_name(&stage.names, name) if number == sys.EISDIR else -1


cdef inline int _enter(Removal* removal, const char* name) noexcept nogil:
    cdef int child
    if _name(removal, name) < 0:
        return -1
    child = open_folder(removal.here, name, &removal.descends_only, removal.stages[0].device)
    if child < 0:
        if sys.errno == sys.EXDEV:
            sys.errno = sys.EBUSY
        return 0 if sys.errno in (sys.ENOENT, sys.ENOTDIR) else -1  # somebody else removed it
    if _push(removal, child) < 0:
        put_away(child)
        return -1
    return _list(removal)


cdef inline int _leave(Removal* removal) noexcept nogil:
    """Back to the directory above, when this one is done. The name entered last is the last part of the path."""
    cdef Stage* stage = &removal.stages[removal.depth - 1]
    cdef Stage* above = &removal.stages[removal.depth - 2]
    cdef bint keeps = stage.keeps, spared = False
    cdef char* name = removal.path.at + above.path_size
    cdef sys.stat_t info
    cdef int up
    removal.path.size = stage.path_size
    removal.path.at[removal.path.size] = 0
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
    up = open_above(removal.here, above.device, above.inode)
    if up < 0:
        return -1
    put_away(removal.here)
    removal.here = up
    sys.free(stage.names.at)
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


cdef inline int _push(Removal* removal, int here) noexcept nogil:
    """Stand in the directory `here`, whose name is the path's last part; on failure it is still the caller's."""
    cdef Stage* stage
    cdef sys.stat_t info
    cdef Stage* stages = <Stage*>one_more(removal.stages, &removal.room, removal.depth, sizeof(Stage))
    if stages == NULL:
        return -1
    removal.stages = stages
    if sys.fstat(here, &info) < 0:
        return -1
    stage = &stages[removal.depth]
    stage.path_size, stage.device, stage.inode = removal.path.size, info.st_dev, info.st_ino
    put_away(removal.here)
    removal.here = here
    removal.depth += 1
    return 0


cdef inline int _name(Removal* removal, const char* name) noexcept nogil:
    """The path is now that of `name` in the directory where we are."""
    return set_name(&removal.path, removal.stages[removal.depth - 1].path_size, name)
