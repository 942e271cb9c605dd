# Entries made in the tree: files, directories, links, devices, with owner, mode, attributes and times.
#
# A file of root's with the usual mode costs five system calls: openat, write, fstat, futimens, close. What is there
# already is found out only when the kernel says so.

from pyx cimport sys
from pyx cimport treeremove
from pyx.fault cimport ENTANGLED, fail, MALFORMED, NO_FAULT, system
from pyx.tarentry cimport base_at, clean, Entry, PATH
from pyx.tree cimport (
    AS_OVERLAY, BY_DELETION, close_off, count, discount, Folder, folder, forget_folder, is_whiteout, keep,
    let_go, mark, no_longer_implied, Note, noted, remember_times, shut, strip, stumble, Tree,
)
from pyx.treeremove cimport Removal
from pyx.whiteout cimport hide, names_whiteout


cdef inline int make(Tree* tree, const Entry* entry) noexcept nogil:
    """Make the entry. The descriptor of a regular file, to be written and then `finish_file`d; else -1."""
    cdef char path[PATH]
    cdef size_t base
    cdef Folder* parent
    cdef int file = -1
    if tree.stale:
        let_go(tree)
    clean(entry.name, path)
    if path[0] == 0:
        return -1  # the root is not the layer's
    base = base_at(path)
    if names_whiteout(path + base):
        hide(tree, entry, path, base)
        return -1
    parent = folder(tree, path, base - 1 if base else 0, True)
    if parent == NULL:
        stumble(tree)
        return -1
    if entry.type == c"0":
        file = _make_file(tree, entry, parent, path, base)
    elif entry.type == c"5":
        _make_folder(tree, entry, parent, path, base)
    elif entry.type == c"1":
        _make_link(tree, entry, parent, path, base)
    else:
        _make_node(tree, entry, parent, path, base)
    return file


cdef inline bint _made(Tree* tree, const Folder* parent, const char* name) noexcept nogil:
    if tree.form == BY_DELETION and mark(tree, parent.inode, name) < 0:
        return system(&tree.fault)
    return True


cdef inline bint _clear(Tree* tree, const Folder* parent, const char* path, size_t base) noexcept nogil:
    """Remove what is where an entry is to be; False and a fault."""
    cdef const char* name = path + base
    cdef sys.stat_t info
    if sys.fstatat(parent.fd, name, &info, sys.AT_SYMLINK_NOFOLLOW) < 0:
        return system(&tree.fault)
    tree.stale = True
    if sys.S_ISDIR(info.st_mode):
        if not forget_folder(tree, path, sys.strlen(path)):
            return False
        return True if _clear_tree(tree, parent, name) == 0 else system(&tree.fault)
    discount(tree, &info)
    return True if sys.unlinkat(parent.fd, name, 0) == 0 else system(&tree.fault)


cdef inline int _clear_tree(Tree* tree, const Folder* parent, const char* name) noexcept nogil:
    cdef Removal removal
    cdef int result = treeremove.begin(&removal, parent.fd, NULL, NULL, NULL)
    removal.counts = tree.form != BY_DELETION
    if result == 0:
        result = treeremove.remove(&removal, name)
    tree.inodes -= removal.inodes
    tree.bytes_ -= removal.bytes_
    treeremove.end(&removal)
    return result


# Regular files.

cdef inline int _make_file(Tree* tree, const Entry* entry, Folder* parent, const char* path,
                           size_t base) noexcept nogil:
    cdef int flags = sys.O_WRONLY | sys.O_CREAT | sys.O_EXCL | sys.O_NOFOLLOW | sys.O_CLOEXEC
    cdef int mode = entry.mode & 0o777
    cdef int fd = sys.openat(parent.fd, path + base, flags, mode)
    if fd < 0 and sys.errno == sys.EEXIST:
        if not _clear(tree, parent, path, base):
            return -1
        fd = sys.openat(parent.fd, path + base, flags, mode)
    if fd < 0:
        system(&tree.fault)
    elif not _made(tree, parent, path + base):
        shut(&fd)
    return fd


cdef inline void finish_file(Tree* tree, const Entry* entry, int fd) noexcept nogil:
    """Its content is written; `fd` stays open."""
    cdef sys.stat_t info
    if _dress(tree, entry, fd, &info):
        count(tree, &info)
        if sys.futimens(fd, entry.times) < 0:
            system(&tree.fault)


# Directories.

cdef inline void _make_folder(Tree* tree, const Entry* entry, Folder* parent, const char* path,
                              size_t base) noexcept nogil:
    cdef const char* name = path + base
    cdef size_t size = base + sys.strlen(name)
    cdef sys.stat_t info
    cdef bint new = True, instead = False
    cdef int fd = -1
    if sys.mkdirat(parent.fd, name, entry.mode & 0o1777) < 0:
        if sys.errno == sys.EEXIST:
            fd = sys.openat(parent.fd, name, sys.O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW | sys.O_CLOEXEC)
        new = fd < 0
        if fd < 0 and sys.errno in (sys.ENOTDIR, sys.ELOOP):  # something else is there
            instead = True
            if not _clear(tree, parent, path, base):
                return
            if sys.mkdirat(parent.fd, name, entry.mode & 0o1777) < 0:
                system(&tree.fault)
                return
        elif fd < 0:
            system(&tree.fault)
            return
    if fd < 0:
        fd = sys.openat(parent.fd, name, sys.O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW | sys.O_CLOEXEC)
    if fd < 0:
        system(&tree.fault)
        return
    if tree.form == AS_OVERLAY:
        _state(tree, fd, path, size, instead)
    if not new and strip(fd) < 0:
        system(&tree.fault)
    if _made(tree, parent, name) and _dress(tree, entry, fd, &info):
        if new:
            count(tree, &info)
        if remember_times(tree, info.st_ino, entry.times, path, size) < 0:
            system(&tree.fault)
    if tree.fault.kind != NO_FAULT:
        shut(&fd)
    else:
        keep(tree, fd, path, size)


cdef inline void _state(Tree* tree, int fd, const char* path, size_t size, bint instead) noexcept nogil:
    """In an overlay: the directory has an entry now; in the place of something else it shows nothing of what is
    below."""
    cdef Note* found = noted(tree, path, size)
    if found != NULL:
        no_longer_implied(found)
    if instead and close_off(tree, fd, path, size) < 0:
        system(&tree.fault)


# Hard links.

cdef inline void _make_link(Tree* tree, const Entry* entry, Folder* parent, const char* path,
                            size_t base) noexcept nogil:
    """Its target's directory is resolved inside the root, the last part is not followed."""
    cdef char target[PATH]
    cdef sys.stat_t there, here
    cdef Folder* home
    cdef const char* name = _target(tree, entry, target)
    if name == NULL:
        return
    home = folder(tree, target, name - target - 1 if name != target else 0, False)
    if home == NULL or sys.fstatat(home.fd, name, &there, sys.AT_SYMLINK_NOFOLLOW) < 0:
        _no_target(tree)
        return
    if tree.form == AS_OVERLAY and (is_whiteout(&there) or sys.S_ISDIR(there.st_mode)):
        _no_target(tree)
        return
    if sys.linkat(home.fd, name, parent.fd, path + base, 0) < 0:
        if sys.errno == sys.EEXIST:
            if sys.fstatat(parent.fd, path + base, &here, sys.AT_SYMLINK_NOFOLLOW) == 0:
                if here.st_ino == there.st_ino and here.st_dev == there.st_dev:
                    return  # a link to itself: removing it would remove what it is to be
            if not _clear(tree, parent, path, base):
                return
            if sys.linkat(home.fd, name, parent.fd, path + base, 0) == 0:
                _made(tree, parent, path + base)
                return
        if sys.errno == sys.EPERM:
            fail(&tree.fault, MALFORMED, b"a hard link to what cannot be linked")
        else:
            _no_target(tree)
        return
    _made(tree, parent, path + base)


cdef inline const char* _target(Tree* tree, const Entry* entry, char* target) noexcept nogil:
    """The last part of the link's target, whose copy `target` is without trailing slashes; NULL and a fault."""
    cdef const char* name
    cdef size_t length = sys.strlen(entry.link)
    sys.memcpy(target, entry.link, length + 1)
    while length and target[length - 1] == c"/":
        length -= 1
        target[length] = 0
    name = target + base_at(target)
    if name[0] == 0 or sys.strcmp(name, b".") == 0 or sys.strcmp(name, b"..") == 0:
        fail(&tree.fault, MALFORMED, b"a hard link to nothing that can be linked")
        return NULL
    return name


cdef inline void _no_target(Tree* tree) noexcept nogil:
    if tree.form == AS_OVERLAY:
        fail(&tree.fault, ENTANGLED, b"a hard link to what it does not hold")
    else:
        system(&tree.fault)


# Symbolic links, devices and fifos: nothing that could be opened to be dressed.

cdef inline void _make_node(Tree* tree, const Entry* entry, Folder* parent, const char* path,
                            size_t base) noexcept nogil:
    cdef sys.stat_t info
    cdef int result
    if tree.form == AS_OVERLAY and entry.type == c"3" and entry.major == 0 and entry.minor == 0:
        sys.errno = sys.EPERM  # as overlayfs says: it would be a whiteout
        system(&tree.fault)
        return
    result = _node(entry, parent.fd, path + base)
    if result < 0 and sys.errno == sys.EEXIST:
        if not _clear(tree, parent, path, base):
            return
        result = _node(entry, parent.fd, path + base)
    if result < 0 or _dress_node(tree, entry, parent.fd, path + base, &info) < 0:
        system(&tree.fault)
        return
    count(tree, &info)
    _made(tree, parent, path + base)


cdef inline int _node(const Entry* entry, int parent, const char* name) noexcept nogil:
    cdef unsigned int kind
    if entry.type == c"2":
        return sys.symlinkat(entry.link, parent, name)
    kind = 0o020000 if entry.type == c"3" else 0o060000 if entry.type == c"4" else 0o010000
    return sys.mknodat(parent, name, kind | <unsigned int>entry.mode, sys.makedev(entry.major, entry.minor))


cdef inline int _dress_node(Tree* tree, const Entry* entry, int parent, const char* name,
                            sys.stat_t* info) noexcept nogil:
    if sys.fstatat(parent, name, info, sys.AT_SYMLINK_NOFOLLOW) < 0:
        return -1
    if info.st_uid != entry.uid or info.st_gid != entry.gid:
        if sys.fchownat(parent, name, entry.uid, entry.gid, sys.AT_SYMLINK_NOFOLLOW) < 0:
            return -1
    if entry.type != c"2" and (info.st_mode & 0o7777 != entry.mode or entry.mode & 0o6000):
        if sys.fchmodat(parent, name, entry.mode, sys.AT_SYMLINK_NOFOLLOW) < 0:
            return -1
    if entry.xattr_count and _node_xattrs(tree, entry, parent, name) < 0:
        return -1
    return sys.utimensat(parent, name, entry.times, sys.AT_SYMLINK_NOFOLLOW)


# Owner, mode, extended attributes.

cdef inline bint _dress(Tree* tree, const Entry* entry, int fd, sys.stat_t* info) noexcept nogil:
    """Owner, then mode (chown clears setuid), then extended attributes (chown clears capabilities too): what differs.
    `info` is as it was found, but for what attributes take; False and a fault."""
    cdef bint owned = False
    if sys.fstat(fd, info) < 0:
        return system(&tree.fault)
    if info.st_uid != entry.uid or info.st_gid != entry.gid:
        owned = True
        if sys.fchown(fd, entry.uid, entry.gid) < 0:
            return system(&tree.fault)
    if info.st_mode & 0o7777 != entry.mode or (owned and entry.mode & 0o6000):
        if sys.fchmod(fd, entry.mode) < 0:
            return system(&tree.fault)
    if entry.xattr_count and not _xattrs(tree, entry, fd, info):
        return False
    return True


cdef inline bint _xattrs(Tree* tree, const Entry* entry, int fd, sys.stat_t* info) noexcept nogil:
    cdef int at
    for at in range(entry.xattr_count):
        if not _is_settable(entry.xattrs[at].name):
            continue
        if sys.fsetxattr(fd, entry.xattrs[at].name, entry.xattrs[at].value, entry.xattrs[at].size, 0) < 0:
            if sys.errno != sys.ENOTSUP:
                return system(&tree.fault)
            tree.dropped += 1
    return True if sys.fstat(fd, info) == 0 else system(&tree.fault)


cdef inline int _node_xattrs(Tree* tree, const Entry* entry, int parent, const char* name) noexcept nogil:
    cdef char path[PATH + 32]
    cdef int at
    sys.snprintf(path, sizeof(path), b"/proc/self/fd/%d/%s", parent, name)
    for at in range(entry.xattr_count):
        if not _is_settable(entry.xattrs[at].name):
            continue
        if sys.lsetxattr(path, entry.xattrs[at].name, entry.xattrs[at].value, entry.xattrs[at].size, 0) < 0:
            if sys.errno == sys.EPERM and sys.strncmp(entry.xattrs[at].name, b"user.", 5) == 0:
                continue  # what is no file or directory cannot have them (xattr(7))
            if sys.errno != sys.ENOTSUP:
                return -1
            tree.dropped += 1
    return 0


cdef inline bint _is_settable(const char* name) noexcept nogil:
    """trusted.*, and where an overlay is mounted so user.overlay.*, steer overlayfs itself: an image has no business
    there."""
    return sys.strncmp(name, b"trusted.", 8) != 0 and sys.strncmp(name, b"user.overlay.", 13) != 0
