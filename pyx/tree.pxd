# The tree that a layer is unpacked into: its directories by path, and what the layer has made of it so far.
#
# What is below the layer is shown in one of three ways. By deletion: the root shows the layers below, merged or copied,
# and what the layer hides is removed. As an overlay: the root is an upper directory that holds nothing but this layer,
# and what it hides is written down in overlayfs's own form. Or nothing is below.
#
# Paths are resolved below the root by openat2(2). By deletion links are followed, inside the root (RESOLVE_IN_ROOT). In
# an overlay's upper directory none is: where one leads is for the layers below to say as well. So every path there is a
# directory's true one. Descriptors of directories are kept from entry to entry, until anything is removed: to make what
# was not there changes no path that could be resolved.

from pyx cimport sys
from pyx.fault cimport ENTANGLED, EXCEEDED, fail, Fault, SYSTEM, system
from pyx.tarentry cimport PATH

cdef extern from *:
    """
    #define PYX_SPREAD 0x9E3779B97F4A7C15UL
    #define PYX_FNV 0x100000001B3UL
    """
    const unsigned long SPREAD "PYX_SPREAD"  # 2**64 over the golden ratio
    const unsigned long FNV "PYX_FNV"        # the prime of FNV-1a, 64 bits

cdef enum:
    KEPT = 8             # directories whose descriptors are kept
    DEPTH = 1024         # directories on the way to an entry
    LINKS = 8            # symbolic links to nowhere followed while making missing parents
    NOTES = 10000        # directories with something to remember of, in an overlay
    NOTE_SLOTS = 32768   # a power of two, well above NOTES
    MOMENTS = 64 << 20   # bytes of directories' names and times kept until the end

cdef enum Form:
    BY_DELETION
    AS_OVERLAY
    NOTHING_BELOW

cdef enum:               # flags of a directory in an overlay
    IMPLIED = 1          # it has no entry: it is to be as the one below is
    HIDING = 2           # there are whiteouts in it
    CLOSED = 4           # nothing of what is below it shows
    EARLY = 8            # it was implied first: were there a link or a file below, all would be otherwise

cdef struct Folder:      # a directory that is open, O_PATH or better
    int fd
    unsigned long inode  # by deletion only
    unsigned long used   # when: the least recently used one goes
    size_t size          # of the path
    char path[PATH]

cdef struct Moment:      # a directory's times, to be set when nothing is written into it any more
    unsigned long inode
    sys.timespec times[2]
    size_t size          # of all of it, with the path that follows

cdef struct Names:       # an open-addressed set: what this layer made, as hashes of directories' inodes and names
    unsigned long* slots
    size_t size
    size_t used

cdef struct Note:
    char* path
    size_t size
    int flags

cdef struct Tree:
    int root
    Form form
    const char* opaque   # the attribute that closes a directory of an overlay
    unsigned long seed   # of hashes, unknown to whoever chose the names: nobody can make them collide
    Fault fault
    Folder kept[KEPT]
    Folder passing       # while `stale`
    unsigned long clock
    bint stale           # something was removed: what is kept may not be what its path leads to
    char* moments        # Moment after Moment
    size_t moments_size, moments_room, last_moment
    Names made
    Note* notes
    unsigned int* note_slots  # of indices into `notes`, plus one
    unsigned int note_count
    unsigned int closed_count
    unsigned long long bytes_, inodes
    unsigned long long dropped  # extended attributes that the filesystem does not take


cdef inline void tree_begin(Tree* tree, int root) noexcept nogil:
    """In memory that is zero."""
    cdef int at
    tree.root = root
    for at in range(KEPT):
        tree.kept[at].fd = -1
    tree.passing.fd = -1


cdef inline void tree_end(Tree* tree) noexcept nogil:
    cdef unsigned int at
    let_go(tree)
    for at in range(tree.note_count):
        sys.free(tree.notes[at].path)
    sys.free(tree.notes)
    sys.free(tree.note_slots)
    sys.free(tree.made.slots)
    sys.free(tree.moments)


# Directories by path.

cdef inline int open_below(Tree* tree, const char* path, size_t size, int flags) noexcept nogil:
    """openat2(2) of the first `size` bytes of `path`; -1 and errno."""
    cdef char copied[PATH]
    cdef sys.open_how how
    cdef long fd
    if size == 0:
        copied[0], copied[1] = c".", 0
    else:
        sys.memcpy(copied, path, size)
        copied[size] = 0
    how.flags, how.mode = flags | sys.O_CLOEXEC, 0
    if tree.form == AS_OVERLAY:
        how.resolve = sys.RESOLVE_BENEATH | sys.RESOLVE_NO_SYMLINKS
    else:
        how.resolve = sys.RESOLVE_IN_ROOT | sys.RESOLVE_NO_MAGICLINKS
    while True:
        fd = sys.syscall(sys.SYS_openat2, tree.root, copied, &how, sizeof(how))
        if fd >= 0 or (sys.errno != sys.EAGAIN and sys.errno != sys.EINTR):
            return <int>fd


cdef inline Folder* folder(Tree* tree, const char* path, size_t size, bint create) noexcept nogil:
    """The directory at the first `size` bytes of `path`, its missing parts made if so asked; NULL and errno, or a
    fault. It is good until the next but KEPT is asked for."""
    cdef int at, fd
    if not tree.stale:
        for at in range(KEPT):
            if tree.kept[at].fd >= 0 and tree.kept[at].size == size and _same(tree.kept[at].path, path, size):
                tree.clock += 1
                tree.kept[at].used = tree.clock
                return &tree.kept[at]
    fd = open_below(tree, path, size, sys.O_PATH | sys.O_DIRECTORY)
    if fd < 0 and create and (sys.errno == sys.ENOENT or (tree.form == AS_OVERLAY and sys.errno == sys.ENOTDIR)):
        if _make_folders(tree, path, size, 0) < 0:
            return NULL
        fd = open_below(tree, path, size, sys.O_PATH | sys.O_DIRECTORY)
    return NULL if fd < 0 else keep(tree, fd, path, size)


cdef inline bint _same(const char* a, const char* b, size_t size) noexcept nogil:
    return sys.memcmp(a, b, size) == 0


cdef inline Folder* keep(Tree* tree, int fd, const char* path, size_t size) noexcept nogil:
    """The directory open as `fd`, which is taken over."""
    cdef Folder* kept = &tree.passing
    cdef sys.stat_t info
    cdef int at
    if not tree.stale:
        kept = &tree.kept[0]
        for at in range(1, KEPT):
            if tree.kept[at].used < kept.used:
                kept = &tree.kept[at]
    shut(&kept.fd)
    if tree.form == BY_DELETION:
        if sys.fstat(fd, &info) < 0:
            shut(&fd)
            return NULL
        kept.inode = info.st_ino
    tree.clock += 1
    kept.fd, kept.used, kept.size = fd, tree.clock, size
    sys.memcpy(kept.path, path, size)
    return kept


cdef inline void let_go(Tree* tree) noexcept nogil:
    cdef int at
    for at in range(KEPT):
        shut(&tree.kept[at].fd)
    shut(&tree.passing.fd)
    tree.stale = False


cdef inline int _make_folders(Tree* tree, const char* path, size_t size, int depth) noexcept nogil:
    """Make every directory on the way to `path` and itself, 0755. A symbolic link to nowhere gets its target made,
    inside the root."""
    cdef size_t ends[DEPTH]  # where each part of the path ends
    cdef size_t starts[DEPTH]
    cdef int parts, known, low = 0, high, middle, fd
    if depth > LINKS:
        sys.errno = sys.ELOOP
        return -1
    parts = _split(path, size, starts, ends)
    if parts < 0:
        return -1
    high = parts  # what is there is a beginning of the path: find its end by halving
    while low < high:
        middle = (low + high + 1) // 2
        fd = open_below(tree, path, ends[middle - 1], sys.O_PATH | sys.O_DIRECTORY)
        if fd >= 0:
            shut(&fd)
            low = middle
        elif sys.errno == sys.ENOENT or (tree.form == AS_OVERLAY and sys.errno == sys.ENOTDIR):
            high = middle - 1
        else:
            return -1
    known = low
    while known < parts:
        fd = open_below(tree, path, ends[known - 1] if known else 0, sys.O_PATH | sys.O_DIRECTORY)
        if fd < 0:
            return -1
        known = _make_parts(tree, fd, path, starts, ends, known, parts, depth)
        if known < 0:
            return -1
    return 0


cdef inline int _split(const char* path, size_t size, size_t* starts, size_t* ends) noexcept nogil:
    cdef size_t at = 0
    cdef int parts = 0
    while True:
        while at < size and path[at] == c"/":
            at += 1
        if at >= size:
            return parts
        if parts == DEPTH:
            sys.errno = sys.ENAMETOOLONG
            return -1
        starts[parts] = at
        while at < size and path[at] != c"/":
            at += 1
        ends[parts] = at
        parts += 1


cdef inline int _make_parts(Tree* tree, int parent, const char* path, const size_t* starts, const size_t* ends,
                            int known, int parts, int depth) noexcept nogil:
    """Make parts `known` to `parts` below `parent`, which is closed: what is new has nothing in it that could lead
    elsewhere. How many parts are there afterwards (fewer, when the rest must be looked up again); -1 and errno."""
    cdef char name[PATH]
    cdef int made, child
    while known < parts:
        sys.memcpy(name, path + starts[known], ends[known] - starts[known])
        name[ends[known] - starts[known]] = 0
        made = sys.mkdirat(parent, name, 0o755)
        if made < 0 and sys.errno == sys.EEXIST:
            if tree.form != AS_OVERLAY:
                made = _follow(tree, parent, path, starts[known], name, depth)
                if made == 0:
                    known += 1
                    break
            else:
                made = make_instead(tree, parent, name, path, ends[known])
        elif made == 0:
            made = _imply(tree, parent, name, path, ends[known])
        child = -1
        if made == 0:
            child = sys.openat(parent, name, sys.O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW | sys.O_CLOEXEC)
        shut(&parent)
        if child < 0:
            return -1
        if plain(child) < 0 or account(tree, child) < 0:
            shut(&child)
            return -1
        parent = child
        known += 1
    shut(&parent)
    return known


cdef inline int _imply(Tree* tree, int parent, const char* name, const char* path, size_t size) noexcept nogil:
    """`name` in `parent`, which is the first `size` bytes of `path`, was made without an entry."""
    cdef sys.stat_t info
    if tree.form == AS_OVERLAY:
        return 0 if is_closed(tree, path, size) else note(tree, path, size, IMPLIED)
    if tree.form == NOTHING_BELOW:
        return 0
    return -1 if sys.fstat(parent, &info) < 0 else mark(tree, info.st_ino, name)


cdef inline int make_instead(Tree* tree, int parent, const char* name, const char* path, size_t size) noexcept nogil:
    """In an overlay, make the directory `name` where there is a whiteout: nothing below it shows. -1 and errno where
    something else is."""
    cdef sys.stat_t info
    cdef int fd, result
    if sys.fstatat(parent, name, &info, sys.AT_SYMLINK_NOFOLLOW) < 0:
        return -1
    if sys.S_ISLNK(info.st_mode):
        sys.errno = sys.ELOOP
        return -1
    if not is_whiteout(&info):
        sys.errno = sys.ENOTDIR
        return -1
    if sys.unlinkat(parent, name, 0) < 0 or sys.mkdirat(parent, name, 0o755) < 0:
        return -1
    discount(tree, &info)
    fd = sys.openat(parent, name, sys.O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW | sys.O_CLOEXEC)
    if fd < 0:
        return -1
    result = close_off(tree, fd, path, size)
    shut(&fd)
    return result


cdef inline int _follow(Tree* tree, int parent, const char* path, size_t start, const char* name,
                        int depth) noexcept nogil:
    """`name` in `parent`, which begins at `start` of `path`, is a symbolic link that leads nowhere, or `.` or `..`:
    make what it leads to."""
    cdef char target[PATH]
    cdef char whole[PATH]
    cdef ssize_t size
    if name[0] == c"." and (name[1] == 0 or (name[1] == c"." and name[2] == 0)):
        return 0
    size = sys.readlinkat(parent, name, target, PATH - 1)
    if size < 0:
        if sys.errno == sys.EINVAL:
            sys.errno = sys.ENOTDIR
        return -1
    if size and target[0] == c"/":
        return _make_folders(tree, target, size, depth + 1)
    if start + size + 1 > PATH:
        sys.errno = sys.ENAMETOOLONG
        return -1
    sys.memcpy(whole, path, start)
    sys.memcpy(whole + start, target, size)
    return _make_folders(tree, whole, start + size, depth + 1)


cdef inline int plain(int fd) noexcept nogil:
    """0755, whatever the umask."""
    cdef sys.stat_t info
    if sys.fstat(fd, &info) < 0:
        return -1
    return 0 if info.st_mode & 0o7777 == 0o755 else sys.fchmod(fd, 0o755)


cdef inline int strip(int fd) noexcept nogil:
    """Take away the extended attributes that an image could have given."""
    cdef char names[4096]
    cdef ssize_t size = sys.flistxattr(fd, names, sizeof(names)), at = 0
    while at < size:
        if _is_an_images(names + at) and sys.fremovexattr(fd, names + at) < 0 and sys.errno != sys.ENODATA:
            return -1
        at += sys.strlen(names + at) + 1
    return -1 if size < 0 and sys.errno not in (sys.ENOTSUP, sys.ERANGE) else 0


cdef inline bint _is_an_images(const char* name) noexcept nogil:
    if sys.strncmp(name, b"user.overlay.", 13) == 0:
        return False  # that is ours
    if sys.strncmp(name, b"user.", 5) == 0 or sys.strncmp(name, b"system.posix_acl_", 17) == 0:
        return True
    return sys.strcmp(name, b"security.capability") == 0


# What this layer made, by deletion: what hides spares it.

cdef inline int mark(Tree* tree, unsigned long inode, const char* name) noexcept nogil:
    """This layer has made `name` in the directory of that inode number."""
    cdef Names grown
    cdef size_t at
    if tree.made.used * 2 >= tree.made.size:
        grown.size = tree.made.size * 2 if tree.made.size else 256
        grown.used = 0
        grown.slots = <unsigned long*>sys.calloc(grown.size, sizeof(unsigned long))
        if grown.slots == NULL:
            return -1
        for at in range(tree.made.size):
            if tree.made.slots[at]:
                _put(&grown, tree.made.slots[at])
        sys.free(tree.made.slots)
        tree.made = grown
    _put(&tree.made, _hash(tree.seed ^ inode, name, sys.strlen(name)))
    return 0


cdef inline bint is_marked(Tree* tree, unsigned long inode, const char* name) noexcept nogil:
    cdef unsigned long key = _hash(tree.seed ^ inode, name, sys.strlen(name))
    cdef size_t at
    if tree.made.size == 0:
        return False
    at = _home(key) % tree.made.size
    while tree.made.slots[at]:
        if tree.made.slots[at] == key:
            return True
        at = (at + 1) % tree.made.size
    return False


cdef inline void _put(Names* names, unsigned long key) noexcept nogil:
    cdef size_t at = _home(key) % names.size
    while names.slots[at]:
        if names.slots[at] == key:
            return
        at = (at + 1) % names.size
    names.slots[at] = key
    names.used += 1


cdef inline size_t _home(unsigned long key) noexcept nogil:
    """Where the search for `key` begins: the product's high bits, the only ones all of the key reaches."""
    return key * SPREAD >> 32


cdef inline unsigned long _hash(unsigned long seed, const char* name, size_t size) noexcept nogil:
    """FNV-1a's step over the name; never 0. One collision in 2**64 keeps a file of the image's own that should have
    gone: no harm to anyone."""
    cdef unsigned long key = seed * SPREAD
    cdef size_t at
    for at in range(size):
        key = (key ^ <unsigned char>name[at]) * FNV
    return key | 1


# What there is to remember of directories in an overlay, by their paths.

cdef inline bint is_whiteout(const sys.stat_t* info) noexcept nogil:
    return info.st_mode & 0o170000 == 0o020000 and info.st_rdev == 0


cdef inline Note* noted(Tree* tree, const char* path, size_t size) noexcept nogil:
    cdef unsigned int* slot
    if tree.note_count == 0:
        return NULL
    slot = _note_slot(tree, path, size)
    return NULL if slot[0] == 0 else &tree.notes[slot[0] - 1]


cdef inline unsigned int* _note_slot(Tree* tree, const char* path, size_t size) noexcept nogil:
    """The path's, or the empty one where it belongs."""
    cdef size_t at = _home(_hash(tree.seed, path, size)) % NOTE_SLOTS
    cdef Note* found
    while tree.note_slots[at]:
        found = &tree.notes[tree.note_slots[at] - 1]
        if found.size == size and _same(found.path, path, size):
            break
        at = (at + 1) % NOTE_SLOTS
    return &tree.note_slots[at]


cdef inline int note(Tree* tree, const char* path, size_t size, int flag) noexcept nogil:
    """Set a flag of the directory at the first `size` bytes of `path`; -1 and errno, or a fault."""
    cdef unsigned int* slot
    cdef Note* new
    if tree.notes == NULL:
        tree.notes = <Note*>sys.malloc(NOTES * sizeof(Note))
        tree.note_slots = <unsigned int*>sys.calloc(NOTE_SLOTS, sizeof(unsigned int))
        if tree.notes == NULL or tree.note_slots == NULL:
            return -1
    slot = _note_slot(tree, path, size)
    if slot[0] == 0:
        if tree.note_count == NOTES:
            fail(&tree.fault, ENTANGLED, b"it leaves too many directories to them")
            return -1
        new = &tree.notes[tree.note_count]
        new.path = <char*>sys.malloc(size + 1)
        if new.path == NULL:
            return -1
        sys.memcpy(new.path, path, size)
        new.path[size] = 0
        new.size, new.flags = size, 0
        tree.note_count += 1
        slot[0] = tree.note_count
    if flag == CLOSED and not tree.notes[slot[0] - 1].flags & CLOSED:
        tree.closed_count += 1
    tree.notes[slot[0] - 1].flags |= flag
    return 0


cdef inline bint is_closed(Tree* tree, const char* path, size_t size) noexcept nogil:
    """Whether nothing that is below the directory shows, for it or one on the way to it is closed."""
    cdef Note* found
    if tree.closed_count == 0:
        return False
    while size:
        found = noted(tree, path, size)
        if found != NULL and found.flags & CLOSED:
            return True
        while size and path[size - 1] != c"/":
            size -= 1
        if size:
            size -= 1
    return False


cdef inline bint is_within(const Note* of, const char* path, size_t size) noexcept nogil:
    return of.size > size and of.path[size] == c"/" and _same(of.path, path, size)


cdef inline int close_off(Tree* tree, int fd, const char* path, size_t size) noexcept nogil:
    """Nothing that is below the directory `fd` shows any more. Whiteouts in it would be seen: overlayfs looks for them
    only where it merges."""
    cdef Note* each
    cdef unsigned int at
    if is_closed(tree, path, size):
        return 0
    if sys.fsetxattr(fd, tree.opaque, b"y", 1, 0) < 0 or note(tree, path, size, CLOSED) < 0:
        return -1
    for at in range(tree.note_count):
        each = &tree.notes[at]
        if each.size != size and not is_within(each, path, size):
            continue
        if each.size == size and not _same(each.path, path, size):
            continue
        if each.flags & HIDING and _bare(tree, each) < 0:
            return -1
        if each.flags & IMPLIED and each.size != size:
            fail(&tree.fault, ENTANGLED, b"it hides what is below a directory that it only implied")
            return -1
        each.flags &= ~HIDING
    return 0


cdef inline void no_longer_implied(Note* of) noexcept nogil:
    if of.flags & IMPLIED:
        of.flags = of.flags & ~IMPLIED | EARLY


cdef inline int _bare(Tree* tree, const Note* of) noexcept nogil:
    """Remove all whiteouts in the directory."""
    cdef sys.stat_t info
    cdef sys.dirent* entry
    cdef sys.DIR* listing
    cdef int result = 0
    cdef int fd = open_below(tree, of.path, of.size, sys.O_RDONLY | sys.O_DIRECTORY)
    if fd < 0:
        return -1
    listing = sys.fdopendir(fd)
    if listing == NULL:
        shut(&fd)
        return -1
    while result == 0:
        entry = sys.readdir(listing)
        if entry == NULL:
            break
        result = sys.fstatat(fd, entry.d_name, &info, sys.AT_SYMLINK_NOFOLLOW)
        if result == 0 and is_whiteout(&info):
            discount(tree, &info)
            result = sys.unlinkat(fd, entry.d_name, 0)
    sys.closedir(listing)
    return result


cdef inline bint forget_folder(Tree* tree, const char* path, size_t size) noexcept nogil:
    """It is to be removed, with all in it; False, and a fault, when there was something to ask those below."""
    cdef Note* each
    cdef unsigned int at
    for at in range(tree.note_count):
        each = &tree.notes[at]
        if is_within(each, path, size) or (each.size == size and _same(each.path, path, size)):
            if each.flags & (IMPLIED | EARLY):
                return fail(&tree.fault, ENTANGLED, b"it replaces a directory that it only implied")
            if each.flags & CLOSED:
                tree.closed_count -= 1
            each.flags = 0
    return True


# What it comes to.

cdef inline int account(Tree* tree, int fd) noexcept nogil:
    cdef sys.stat_t info
    if sys.fstat(fd, &info) < 0:
        return -1
    count(tree, &info)
    return 0


cdef inline void count(Tree* tree, const sys.stat_t* info) noexcept nogil:
    tree.inodes += 1
    tree.bytes_ += info.st_blocks * 512


cdef inline void discount(Tree* tree, const sys.stat_t* info) noexcept nogil:
    """What was removed again, when it was this layer's."""
    if tree.form != BY_DELETION and info.st_nlink == 1:
        tree.inodes -= 1
        tree.bytes_ -= info.st_blocks * 512


cdef inline int remember_times(Tree* tree, unsigned long inode, const sys.timespec* times, const char* path,
                               size_t size) noexcept nogil:
    """A directory's, for the end; -1 and errno, or a fault."""
    cdef size_t whole = (sizeof(Moment) + size + 1 + 7) & ~<size_t>7
    cdef size_t room
    cdef char* grown
    cdef Moment* moment
    if tree.moments_size:
        moment = <Moment*>(tree.moments + tree.last_moment)
        if moment.inode == inode and sys.strcmp(<char*>(moment + 1), path) == 0:
            moment.times[0], moment.times[1] = times[0], times[1]
            return 0
    if tree.moments_size + whole > MOMENTS:
        fail(&tree.fault, EXCEEDED, b"more directories than we keep in mind")
        return -1
    if tree.moments_size + whole > tree.moments_room:
        room = tree.moments_room * 2 if tree.moments_room else 16384
        grown = <char*>sys.realloc(tree.moments, room)
        if grown == NULL:
            return -1
        tree.moments, tree.moments_room = grown, room
    moment = <Moment*>(tree.moments + tree.moments_size)
    moment.inode, moment.size = inode, whole
    moment.times[0], moment.times[1] = times[0], times[1]
    sys.memcpy(moment + 1, path, size + 1)
    tree.last_moment = tree.moments_size
    tree.moments_size += whole
    return 0


cdef inline void set_times(Tree* tree) noexcept nogil:
    """Of every directory that is still the one it was; a later entry of one comes later, and so counts."""
    cdef sys.stat_t info
    cdef Moment* moment
    cdef const char* path
    cdef size_t at = 0
    cdef int fd
    while at < tree.moments_size:
        moment = <Moment*>(tree.moments + at)
        path = <char*>(moment + 1)
        at += moment.size
        fd = open_below(tree, path, sys.strlen(path), sys.O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW)
        if fd < 0:
            continue
        if sys.fstat(fd, &info) == 0 and info.st_ino == moment.inode and sys.futimens(fd, moment.times) < 0:
            system(&tree.fault)
        shut(&fd)


cdef inline void stumble(Tree* tree) noexcept nogil:
    """A fault, by errno; in an overlay links are the layers' below as well as ours."""
    if tree.form == AS_OVERLAY and sys.errno == sys.ELOOP:
        fail(&tree.fault, ENTANGLED, b"a symbolic link on its way")
    else:
        system(&tree.fault)


cdef inline void shut(int* fd) noexcept nogil:
    """Keeping errno."""
    cdef int number = sys.errno
    if fd[0] >= 0:
        sys.close(fd[0])
    fd[0] = -1
    sys.errno = number
