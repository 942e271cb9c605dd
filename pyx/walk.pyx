"""Walks of whole trees in C, without the GIL: what one takes, a copy of one, the end of one, one given to others.

All start at a directory's descriptor, never follow a symbolic link and never enter another mount. Depth costs heap, not
stack or descriptors: what a container nested a million times is walked like anything else. A level is read whole, then
its directories are entered one by one, and the way back is "..", which must lead to the directory we came from.
"""

import os

from pyx cimport sys
from pyx cimport treeremove
from pyx.err cimport failed, text
from pyx.folders cimport (
    add_name, entry_t, listing, Listing, LISTING, next_entry, one_more, open_above, open_folder, put_away, set_name,
    Text,
)
from pyx.treeremove cimport Removal

cdef enum:
    USAGE, COPY, SHIFT             # what a walk is for
    BLOCK = 256 << 10              # bytes that are read and written at once where the kernel cannot copy
    XATTR_MAX = 64 << 10           # XATTR_SIZE_MAX
    CAPS_2 = 20                    # sizes of security.capability (linux/capability.h: vfs_cap_data, vfs_ns_cap_data)
    CAPS_3 = 24

cdef struct Level:                 # a directory on the way from the root to where the walk is
    Text names                     # of its directories that are still to be entered
    size_t at
    size_t path_length             # of the walk's path, when the walk is here
    sys.stat_t info
    sys.stat_t copied              # of its copy

cdef struct Link:
    unsigned long device
    unsigned long inode            # 0: an empty slot
    char* path                     # where its first name was copied to; NULL when only counting

cdef struct Links:                 # inodes of more than one name that were met: an open-addressed hash
    Link* slots
    size_t size
    size_t used

cdef struct Range:                 # of an id map
    unsigned long long inside, outside, length

cdef struct Walk:
    int job
    Range* users                   # closed by one of no length
    Range* groups
    int here                       # the directory that the walk is in
    int there                      # its copy
    int target                     # the root of the copy, which is not ours to close
    bint descends_only             # the kernel lacks openat2(2): only the device tells a mount
    bint cannot_share              # the target's filesystem has no reflinks
    unsigned long long bytes_
    unsigned long long inodes
    Links links
    Level* levels
    size_t depth                   # of levels in use; the last one is where the walk is
    size_t room
    Text path                      # from the root to where the walk is, then to what it is about
    char* listing
    char* block


def usage(int root):
    """Allocated bytes and inodes of the tree at the directory descriptor `root`; a hard link counts once, what is
    removed meanwhile may not."""
    cdef Walk walk
    cdef int result, number
    with nogil:
        result = _begin(&walk, USAGE, root, -1)
        if result == 0:
            _count(&walk, &walk.levels[0].info)
            result = _list(&walk)
        if result == 0:
            result = _run(&walk)
        number = sys.errno
    try:
        if result < 0:
            raise failed(number, _about(&walk))
        return walk.bytes_, walk.inodes
    finally:
        _end(&walk)


def copy(int source, int target):
    """Copy what is in directory `source` into directory `target`: owners, modes, times, extended attributes, hard
    links, devices, symbolic links, holes; blocks are shared where the filesystem can. `target` itself takes `source`'s
    attributes. A directory that something is mounted on is copied without what is in it."""
    cdef Walk walk
    cdef int result, number
    with nogil:
        result = _begin(&walk, COPY, source, target)
        if result == 0:
            result = _list(&walk)
        if result == 0:
            result = _run(&walk)
        if result == 0:
            result = _attributes(walk.here, walk.there, &walk.levels[0].info)
        number = sys.errno
    try:
        if result < 0:
            raise failed(number, _about(&walk))
    finally:
        _end(&walk)


def remove(int folder, name):
    """Remove the tree `name` in directory `folder`, whatever it is; not there is fine. A mount inside is EBUSY."""
    cdef bytes name_b = text(name)
    cdef const char* name_p = name_b
    cdef Removal removal
    cdef int result, number
    if not name_b or b"/" in name_b or name_b in (b".", b".."):
        raise failed(sys.EINVAL, name)
    with nogil:
        result = treeremove.begin(&removal, folder, NULL, NULL, NULL)
        if result == 0:
            result = treeremove.remove(&removal, name_p)
        number = sys.errno
    try:
        if result < 0:
            raise failed(number, None if removal.path.at == NULL else os.fsdecode(<bytes>removal.path.at))
    finally:
        treeremove.end(&removal)


def shift(int root, users, groups):
    """Give each inode of the tree at the directory descriptor `root` to the user and group that its own are outside, by
    maps: sequences of (inside, outside, length). setuid and setgid stay; a file's capabilities become those of the root
    of these maps. EOVERFLOW for an owner that a map does not have."""
    cdef Walk walk
    cdef Range* maps = <Range*>sys.calloc(len(users) + len(groups) + 2, sizeof(Range))
    cdef size_t at = 0
    cdef int result, number
    if maps == NULL:
        raise MemoryError
    try:
        for inside, outside, length in (*users, (0, 0, 0), *groups):
            maps[at].inside, maps[at].outside, maps[at].length = inside, outside, length
            at += 1
        with nogil:
            result = _begin(&walk, SHIFT, root, -1)
            if result == 0:
                walk.users, walk.groups = maps, maps + _ranges(maps) + 1
                result = _shift(&walk, b".", &walk.levels[0].info)
            if result == 0:
                result = _list(&walk)
            if result == 0:
                result = _run(&walk)
            number = sys.errno
        try:
            if result < 0:
                raise failed(number, _about(&walk))
        finally:
            _end(&walk)
    finally:
        sys.free(maps)


cdef object _about(Walk* walk):
    return None if walk.path.at == NULL else os.fsdecode(<bytes>walk.path.at)


# The walk itself: enter what is to be entered, leave what is done.

cdef int _run(Walk* walk) noexcept nogil:
    cdef Level* level
    cdef char* name
    while True:
        level = &walk.levels[walk.depth - 1]
        if level.at < level.names.size:
            name = level.names.at + level.at
            level.at += sys.strlen(name) + 1
            if _enter(walk, name) < 0:
                return -1
        elif walk.depth == 1:
            return 0
        elif _leave(walk) < 0:
            return -1


cdef int _enter(Walk* walk, const char* name) noexcept nogil:
    cdef int child, copied = -1
    if _name(walk, name) < 0:
        return -1
    child = open_folder(walk.here, name, &walk.descends_only, walk.levels[0].info.st_dev)
    if child < 0:
        if sys.errno == sys.EXDEV:
            return _pass_by(walk, name)
        return 0 if sys.errno in (sys.ENOENT, sys.ENOTDIR) and walk.job != COPY else -1  # removed while we walk
    if walk.job == COPY:
        copied = sys.openat(walk.there, name, sys.O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW | sys.O_CLOEXEC)
        if copied < 0:
            put_away(child)
            return -1
    if _push(walk, child, copied) < 0:
        put_away(child)
        put_away(copied)
        return -1
    return _list(walk)


cdef int _pass_by(Walk* walk, const char* name) noexcept nogil:
    """Something is mounted there."""
    cdef sys.stat_t info
    if walk.job != COPY:
        return 0
    if sys.fstatat(walk.here, name, &info, sys.AT_SYMLINK_NOFOLLOW) < 0:
        return -1
    return _dress(walk, name, &info)


cdef int _leave(Walk* walk) noexcept nogil:
    """Back to the directory above, when this one is done."""
    cdef Level* level = &walk.levels[walk.depth - 1]
    cdef Level* above = &walk.levels[walk.depth - 2]
    cdef int up, up_there = -1
    walk.path.at[level.path_length] = 0
    if walk.job == COPY and _attributes(walk.here, walk.there, &level.info) < 0:
        return -1
    up = open_above(walk.here, above.info.st_dev, above.info.st_ino)
    if up >= 0 and walk.job == COPY:
        up_there = open_above(walk.there, above.copied.st_dev, above.copied.st_ino)
    if up < 0 or (walk.job == COPY and up_there < 0):
        put_away(up)
        return -1
    put_away(walk.here)
    put_away(walk.there)
    walk.here, walk.there = up, up_there
    sys.free(level.names.at)
    walk.depth -= 1
    return 0


cdef int _list(Walk* walk) noexcept nogil:
    """Visit every entry of the directory that the walk is in."""
    cdef Listing here = listing(walk.here, walk.listing)
    cdef entry_t* entry = NULL
    cdef int found
    while True:
        found = next_entry(&here, &entry)
        if found <= 0:
            return found
        if _visit(walk, entry.name) < 0:
            return -1


cdef int _visit(Walk* walk, const char* name) noexcept nogil:
    """One entry. A directory is noted, to be entered later."""
    cdef sys.stat_t info
    if _name(walk, name) < 0:
        return -1
    if sys.fstatat(walk.here, name, &info, sys.AT_SYMLINK_NOFOLLOW) < 0:
        return 0 if sys.errno == sys.ENOENT and walk.job == USAGE else -1  # removed while we walk
    if walk.job == COPY:
        return _copy(walk, name, &info)
    if walk.job == SHIFT:
        if _shift(walk, name, &info) < 0:
            return -1
        return _note(walk, name) if sys.S_ISDIR(info.st_mode) else 0
    if sys.S_ISDIR(info.st_mode):
        _count(walk, &info)
        return _note(walk, name)
    if info.st_nlink > 1:
        if _met(&walk.links, &info) != NULL:
            return 0
        if _remember(&walk.links, &info, NULL) < 0:
            return -1
    _count(walk, &info)
    return 0


cdef void _count(Walk* walk, sys.stat_t* info) noexcept nogil:
    walk.bytes_ += info.st_blocks * 512
    walk.inodes += 1


# Other owners

cdef int _shift(Walk* walk, const char* name, sys.stat_t* info) noexcept nogil:
    cdef char path[300]
    cdef char caps[CAPS_3]
    cdef ssize_t size = -1
    cdef long long user = _outside(walk.users, info.st_uid), group = _outside(walk.groups, info.st_gid)
    cdef bint linked = info.st_nlink > 1 and not sys.S_ISDIR(info.st_mode)
    cdef const char* given = _met(&walk.links, info) if linked else NULL  # to whom, by another name
    sys.snprintf(path, sizeof(path), b"%u:%u", info.st_uid, info.st_gid)
    if given != NULL and sys.strcmp(given, path) == 0:
        return 0  # else it is an overlay's, where another owner makes a file of each name
    if user < 0 or group < 0:
        sys.errno = sys.EOVERFLOW
        return -1
    sys.snprintf(path, sizeof(path), b"%u:%u", <unsigned int>user, <unsigned int>group)
    if linked and given == NULL and _remember(&walk.links, info, path) < 0:
        return -1
    sys.snprintf(path, sizeof(path), b"/proc/self/fd/%d/%s", walk.here, name)
    if sys.S_ISREG(info.st_mode):
        size = sys.lgetxattr(path, b"security.capability", caps, CAPS_3)
    if sys.fchownat(walk.here, name, <unsigned int>user, <unsigned int>group, sys.AT_SYMLINK_NOFOLLOW) < 0:
        return -1
    # The change of owner took these away (chown(2)).
    if info.st_mode & 0o6000 and not sys.S_ISLNK(info.st_mode):
        if sys.fchmodat(walk.here, name, info.st_mode & 0o7777, 0) < 0:
            return -1
    if size == CAPS_2:
        caps[3] = 3  # the revision: the last byte of the first little-endian word
        user = _outside(walk.users, 0)
        for size in range(4):
            caps[CAPS_2 + size] = <char>(user >> 8 * size & 0xFF)
        size = CAPS_3
    return sys.lsetxattr(path, b"security.capability", caps, size, 0) if size > 0 else 0


cdef long long _outside(Range* ranges, unsigned long long id) noexcept nogil:
    cdef size_t at = 0
    while ranges[at].length:
        if ranges[at].inside <= id < ranges[at].inside + ranges[at].length:
            return ranges[at].outside + (id - ranges[at].inside)
        at += 1
    return -1


cdef size_t _ranges(Range* ranges) noexcept nogil:
    cdef size_t count = 0
    while ranges[count].length:
        count += 1
    return count


# Copies

cdef int _copy(Walk* walk, const char* name, sys.stat_t* info) noexcept nogil:
    cdef char* first
    if info.st_nlink > 1 and not sys.S_ISDIR(info.st_mode):
        first = _met(&walk.links, info)
        if first != NULL:
            if sys.linkat(walk.target, first, walk.there, name, 0) == 0:
                return 0
            if sys.errno not in (sys.EMLINK, sys.ENAMETOOLONG):
                return -1
            # the filesystem or the way there is at its limit: a file of its own
        elif _remember(&walk.links, info, walk.path.at) < 0:
            return -1
    if sys.S_ISDIR(info.st_mode):
        return -1 if sys.mkdirat(walk.there, name, 0o700) < 0 else _note(walk, name)
    if sys.S_ISREG(info.st_mode):
        return _copy_file(walk, name)
    if sys.S_ISLNK(info.st_mode):
        if _copy_link(walk, name) < 0:
            return -1
    elif sys.mknodat(walk.there, name, info.st_mode, info.st_rdev) < 0:
        return -1
    return _dress(walk, name, info)


cdef int _copy_file(Walk* walk, const char* name) noexcept nogil:
    cdef sys.stat_t info
    cdef int there = -1, result = -1
    # O_NONBLOCK: should a fifo have taken the file's place, that would wait for its writer
    cdef int here = sys.openat(walk.here, name, sys.O_RDONLY | sys.O_NOFOLLOW | sys.O_NONBLOCK | sys.O_CLOEXEC)
    if here >= 0 and sys.fstat(here, &info) == 0:
        there = sys.openat(walk.there, name, sys.O_WRONLY | sys.O_CREAT | sys.O_EXCL | sys.O_CLOEXEC, 0o600)
    if there >= 0:
        result = _copy_bytes(walk, here, there, &info)
        if result == 0:
            result = _attributes(here, there, &info)
    put_away(there)
    put_away(here)
    return result


cdef int _copy_bytes(Walk* walk, int here, int there, sys.stat_t* info) noexcept nogil:
    """All at once by sharing blocks; else what is between holes."""
    cdef long long at = 0, end
    if info.st_size == 0:
        return 0
    if not walk.cannot_share:
        if sys.ioctl(there, sys.FICLONE, here) == 0:
            return 0
        walk.cannot_share = sys.errno in (sys.EOPNOTSUPP, sys.ENOTTY, sys.EXDEV)
    if info.st_blocks * 512 >= info.st_size:
        return _copy_range(walk, here, there, 0, info.st_size)
    if sys.ftruncate(there, info.st_size) < 0:
        return -1
    while at < info.st_size:
        at = sys.lseek(here, at, sys.SEEK_DATA)
        if at < 0:
            return 0 if sys.errno == sys.ENXIO else -1  # no data from here to the end
        end = sys.lseek(here, at, sys.SEEK_HOLE)
        if end < 0:
            return 0 if sys.errno == sys.ENXIO else -1  # it became shorter
        if end > info.st_size:
            end = info.st_size
        if at < end and _copy_range(walk, here, there, at, end - at) < 0:
            return -1
        at = end
    return 0


cdef int _copy_range(Walk* walk, int here, int there, long long at, long long left) noexcept nogil:
    """By copy_file_range(2); by reading and writing where it cannot."""
    cdef sys.off_t source_at = at, target_at = at
    cdef ssize_t got
    while left > 0:
        got = sys.copy_file_range(here, &source_at, there, &target_at, left, 0)
        if got > 0:
            left -= got
        elif got == 0:
            return 0  # it became shorter
        elif sys.errno in (sys.EXDEV, sys.ENOSYS, sys.EINVAL, sys.EOPNOTSUPP):
            break
        elif sys.errno != sys.EINTR:
            return -1
    at = source_at
    while left > 0:
        got = _copy_block(walk, here, there, at, left)
        if got <= 0:
            return <int>got
        at += got
        left -= got
    return 0


cdef ssize_t _copy_block(Walk* walk, int here, int there, long long at, long long left) noexcept nogil:
    cdef ssize_t got, put, done = 0
    if walk.block == NULL:
        walk.block = <char*>sys.malloc(BLOCK)
        if walk.block == NULL:
            return -1
    while True:
        got = sys.pread(here, walk.block, left if left < BLOCK else BLOCK, at)
        if got >= 0 or sys.errno != sys.EINTR:
            break
    while done < got:
        put = sys.pwrite(there, walk.block + done, got - done, at + done)
        if put < 0 and sys.errno != sys.EINTR:
            return -1
        done += put if put > 0 else 0
    return got


cdef int _copy_link(Walk* walk, const char* name) noexcept nogil:
    cdef char link[4097]  # PATH_MAX, and the NUL that readlink(2) does not write
    cdef ssize_t size = sys.readlinkat(walk.here, name, link, 4096)
    if size < 0:
        return -1
    link[size] = 0
    return sys.symlinkat(link, walk.there, name)


cdef int _attributes(int here, int there, sys.stat_t* info) noexcept nogil:
    """Owner, mode (after the owner, whose change clears setuid), extended attributes and times, by descriptors."""
    cdef sys.timespec times[2]
    if sys.fchownat(there, b"", info.st_uid, info.st_gid, sys.AT_EMPTY_PATH) < 0:
        return -1
    if sys.fchmod(there, info.st_mode & 0o7777) < 0 or _xattrs(here, NULL, there, NULL) < 0:
        return -1
    times[0], times[1] = info.st_atim, info.st_mtim
    return sys.futimens(there, times)


cdef int _dress(Walk* walk, const char* name, sys.stat_t* info) noexcept nogil:
    """The same of what cannot be opened: links, devices, fifos, sockets, directories under a mount."""
    cdef sys.timespec times[2]
    cdef char source[300]  # "/proc/self/fd/", a number, "/", NAME_MAX
    cdef char copied[300]
    if sys.fchownat(walk.there, name, info.st_uid, info.st_gid, sys.AT_SYMLINK_NOFOLLOW) < 0:
        return -1
    if not sys.S_ISLNK(info.st_mode) and sys.fchmodat(walk.there, name, info.st_mode & 0o7777, 0) < 0:
        return -1
    sys.snprintf(source, sizeof(source), b"/proc/self/fd/%d/%s", walk.here, name)
    sys.snprintf(copied, sizeof(copied), b"/proc/self/fd/%d/%s", walk.there, name)
    if _xattrs(-1, source, -1, copied) < 0:
        return -1
    times[0], times[1] = info.st_atim, info.st_mtim
    return sys.utimensat(walk.there, name, times, sys.AT_SYMLINK_NOFOLLOW)


cdef int _xattrs(int here, const char* source, int there, const char* copied) noexcept nogil:
    """Extended attributes that the target's filesystem takes; by descriptors, or by paths where these are given."""
    cdef ssize_t size = _xattr_names(here, source, NULL, 0)
    cdef char* names
    cdef char* value
    cdef int result = -1
    if size == 0 or (size < 0 and sys.errno in (sys.ENOTSUP, sys.ENODATA)):
        return 0
    if size < 0:
        return -1
    names = <char*>sys.malloc(size)
    value = <char*>sys.malloc(XATTR_MAX)
    if names != NULL and value != NULL:
        size = _xattr_names(here, source, names, size)
        if size >= 0:
            result = _copy_xattrs(here, source, there, copied, names, size, value)
    sys.free(names)
    sys.free(value)
    return result


cdef ssize_t _xattr_names(int fd, const char* path, char* names, size_t room) noexcept nogil:
    return sys.flistxattr(fd, names, room) if path == NULL else sys.llistxattr(path, names, room)


cdef int _copy_xattrs(int here, const char* source, int there, const char* copied, const char* names, size_t size,
                      char* value) noexcept nogil:
    cdef const char* name
    cdef ssize_t length
    cdef size_t at = 0
    cdef int put
    while at < size:
        name = names + at
        at += sys.strlen(name) + 1
        if source == NULL:
            length = sys.fgetxattr(here, name, value, XATTR_MAX)
        else:
            length = sys.lgetxattr(source, name, value, XATTR_MAX)
        if length < 0:
            if sys.errno in (sys.ENODATA, sys.ENOTSUP):
                continue
            return -1
        if copied == NULL:
            put = sys.fsetxattr(there, name, value, length, 0)
        else:
            put = sys.lsetxattr(copied, name, value, length, 0)
        if put < 0 and sys.errno not in (sys.ENOTSUP, sys.EPERM):
            return -1
    return 0


# The way

cdef int _begin(Walk* walk, int job, int root, int target) noexcept nogil:
    """The walk stands in `root` (in descriptors of its own) with nothing visited yet."""
    cdef int here, there = -1
    sys.memset(walk, 0, sizeof(Walk))
    walk.job, walk.here, walk.there, walk.target = job, -1, -1, target
    walk.listing = <char*>sys.malloc(LISTING)
    if walk.listing == NULL:
        return -1
    here = sys.openat(root, b".", sys.O_RDONLY | sys.O_DIRECTORY | sys.O_CLOEXEC)
    if here < 0:
        return -1
    if job == COPY:
        there = sys.openat(target, b".", sys.O_RDONLY | sys.O_DIRECTORY | sys.O_CLOEXEC)
        if there < 0:
            put_away(here)
            return -1
    if _push(walk, here, there) < 0:
        put_away(here)
        put_away(there)
        return -1
    return 0


cdef void _end(Walk* walk) noexcept nogil:
    cdef size_t at
    put_away(walk.here)
    put_away(walk.there)
    for at in range(walk.depth):
        sys.free(walk.levels[at].names.at)
    for at in range(walk.links.size):
        sys.free(walk.links.slots[at].path)
    sys.free(walk.links.slots)
    sys.free(walk.levels)
    sys.free(walk.path.at)
    sys.free(walk.listing)
    sys.free(walk.block)


cdef int _push(Walk* walk, int here, int there) noexcept nogil:
    """Stand in the directory `here`, and its copy `there`, whose name is the path's last part; on failure they are
    still the caller's."""
    cdef Level* level
    cdef Level* levels = <Level*>one_more(walk.levels, &walk.room, walk.depth, sizeof(Level))
    if levels == NULL:
        return -1
    walk.levels = levels
    level = &levels[walk.depth]
    level.path_length = walk.path.size
    if sys.fstat(here, &level.info) < 0 or (there >= 0 and sys.fstat(there, &level.copied) < 0):
        return -1
    put_away(walk.here)
    put_away(walk.there)
    walk.here, walk.there = here, there
    walk.depth += 1
    return 0


cdef int _note(Walk* walk, const char* name) noexcept nogil:
    """`name` is a directory, to be entered when this one is read."""
    return add_name(&walk.levels[walk.depth - 1].names, name)


cdef int _name(Walk* walk, const char* name) noexcept nogil:
    """The path is now that of `name` in the directory where the walk is."""
    return set_name(&walk.path, walk.levels[walk.depth - 1].path_length, name)


# Hard links

cdef char NOWHERE = 0


cdef char* _met(Links* links, sys.stat_t* info) noexcept nogil:
    """Where the inode was copied to ("" when only counted); NULL when it was not met."""
    cdef Link* slot
    if links.size == 0:
        return NULL
    slot = _slot(links, info.st_dev, info.st_ino)
    if slot.inode == 0:
        return NULL
    return slot.path if slot.path != NULL else &NOWHERE


cdef int _remember(Links* links, sys.stat_t* info, const char* path) noexcept nogil:
    cdef Link* slot
    cdef char* copied = NULL
    if links.used * 2 >= links.size and _rehash(links) < 0:
        return -1
    if path != NULL:
        copied = <char*>sys.malloc(sys.strlen(path) + 1)
        if copied == NULL:
            return -1
        sys.memcpy(copied, path, sys.strlen(path) + 1)
    slot = _slot(links, info.st_dev, info.st_ino)
    slot.device, slot.inode, slot.path = info.st_dev, info.st_ino, copied
    links.used += 1
    return 0


cdef int _rehash(Links* links) noexcept nogil:
    cdef Links grown
    cdef size_t at
    grown.size, grown.used = 64 if links.size == 0 else links.size * 2, links.used
    grown.slots = <Link*>sys.calloc(grown.size, sizeof(Link))
    if grown.slots == NULL:
        return -1
    for at in range(links.size):
        if links.slots[at].inode:
            _slot(&grown, links.slots[at].device, links.slots[at].inode)[0] = links.slots[at]
    sys.free(links.slots)
    links[0] = grown
    return 0


cdef Link* _slot(Links* links, unsigned long device, unsigned long inode) noexcept nogil:
    """The inode's, or the empty one where it belongs."""
    cdef size_t at = ((inode ^ device << 20) * 0x9E3779B97F4A7C15UL >> 20) % links.size
    while links.slots[at].inode and (links.slots[at].inode != inode or links.slots[at].device != device):
        at = (at + 1) % links.size
    return &links.slots[at]
