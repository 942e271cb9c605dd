# What a layer hides of those below it (image spec, layer: "Whiteouts"): by deletion, or in overlayfs's own form, which
# is a character device 0:0 in a hidden name's place, and an attribute of a directory that hides all below it (kernel
# documentation, overlayfs: "whiteouts and opaque directories"). Whatever the order of entries, what the layer has
# itself stays, and is as if the whiteouts had come first.

from pyx cimport sys
from pyx cimport treeremove
from pyx.fault cimport ENTANGLED, fail, MALFORMED, system
from pyx.tarentry cimport Entry, PATH
from pyx.tree cimport (
    AS_OVERLAY, BY_DELETION, close_off, count, Folder, folder, HIDING, IMPLIED, is_closed, is_marked, note, Note,
    noted, plain, shut, strip, stumble, Tree,
)
from pyx.treeremove cimport Removal


cdef inline bint names_whiteout(const char* base) noexcept nogil:
    return sys.strncmp(base, b".wh.", 4) == 0


cdef inline void hide(Tree* tree, const Entry* entry, const char* path, size_t base) noexcept nogil:
    """The whiteout at `path`, whose last part begins at `base`."""
    cdef const char* hidden = path + base + 4
    cdef size_t size = base - 1 if base else 0
    if sys.strcmp(hidden, b".wh..opq") == 0:
        hidden = NULL  # all there is
    elif hidden[0] == 0 or sys.strcmp(hidden, b".") == 0 or sys.strcmp(hidden, b"..") == 0:
        fail(&tree.fault, MALFORMED, b"a whiteout of nothing that can be removed")
        return
    elif names_whiteout(hidden):
        return  # AUFS's own housekeeping (image spec: whiteouts)
    if tree.form == BY_DELETION:
        _delete(tree, path, size, hidden)
    elif tree.form == AS_OVERLAY:
        _write(tree, entry, path, size, hidden)


# By deletion.

cdef inline void _delete(Tree* tree, const char* path, size_t size, const char* hidden) noexcept nogil:
    cdef Removal removal
    cdef int result
    cdef Folder* parent = folder(tree, path, size, False)
    if parent == NULL:
        if sys.errno not in (sys.ENOENT, sys.ENOTDIR):
            system(&tree.fault)
        return
    tree.stale = True
    result = treeremove.begin(&removal, parent.fd, _spares, _remains, tree)
    if result == 0:
        result = treeremove.empty(&removal) if hidden == NULL else treeremove.remove(&removal, hidden)
    treeremove.end(&removal)
    if result < 0:
        system(&tree.fault)


cdef inline bint _spares(void* tree, unsigned long inode, const char* name) noexcept nogil:
    return is_marked(<Tree*>tree, inode, name)


cdef inline int _remains(void* tree, int fd) noexcept nogil:
    """The directory was below, and should have gone: only what the layer has in it made it again."""
    return -1 if strip(fd) < 0 or sys.fchown(fd, 0, 0) < 0 else plain(fd)


# In an overlay's upper directory.

cdef inline void _write(Tree* tree, const Entry* entry, const char* path, size_t size,
                        const char* hidden) noexcept nogil:
    cdef Folder* parent
    cdef int result
    if is_closed(tree, path, size):
        return
    parent = folder(tree, path, size, False)
    if parent == NULL and sys.errno == sys.ENOTDIR:
        return  # a file of its own, or hidden itself: nothing can be in it
    if parent == NULL and sys.errno == sys.ENOENT:
        parent = folder(tree, path, size, True)
    if parent == NULL:
        stumble(tree)
        return
    if hidden == NULL:
        result = _hide_all(tree, parent, path, size)
    else:
        result = _hide_name(tree, entry, parent, path, size, hidden)
    if result < 0:
        system(&tree.fault)


cdef inline int _hide_all(Tree* tree, Folder* parent, const char* path, size_t size) noexcept nogil:
    cdef int fd, result
    if size == 0:
        fail(&tree.fault, ENTANGLED, b"it hides all of them")  # overlayfs merges roots, whatever they say
        return 0
    fd = sys.openat(parent.fd, b".", sys.O_RDONLY | sys.O_DIRECTORY | sys.O_CLOEXEC)
    if fd < 0:
        return -1
    result = close_off(tree, fd, path, size)
    shut(&fd)
    return result


cdef inline int _hide_name(Tree* tree, const Entry* entry, Folder* parent, const char* path, size_t size,
                           const char* hidden) noexcept nogil:
    cdef sys.stat_t info
    if sys.fstatat(parent.fd, hidden, &info, sys.AT_SYMLINK_NOFOLLOW) == 0:
        return _hide_below_own(tree, parent, path, size, hidden) if sys.S_ISDIR(info.st_mode) else 0
    if sys.errno != sys.ENOENT or sys.mknodat(parent.fd, hidden, 0o020000, 0) < 0:
        return -1
    if sys.fstatat(parent.fd, hidden, &info, sys.AT_SYMLINK_NOFOLLOW) < 0:
        return -1
    count(tree, &info)
    if info.st_uid != entry.uid or info.st_gid != entry.gid:
        if sys.fchownat(parent.fd, hidden, entry.uid, entry.gid, sys.AT_SYMLINK_NOFOLLOW) < 0:
            return -1
    return note(tree, path, size, HIDING) if size else 0


cdef inline int _hide_below_own(Tree* tree, Folder* parent, const char* path, size_t size,
                                const char* hidden) noexcept nogil:
    """The layer has a directory of that name itself: nothing below that shows through it."""
    cdef char whole[PATH]
    cdef size_t length = sys.strlen(hidden)
    cdef Note* found
    cdef int fd, result
    sys.memcpy(whole, path, size)
    if size:
        whole[size] = c"/"
        size += 1
    sys.memcpy(whole + size, hidden, length)
    found = noted(tree, whole, size + length)
    if found != NULL and found.flags & IMPLIED:
        fail(&tree.fault, ENTANGLED, b"it hides a directory that it only implied")
        return -1
    fd = sys.openat(parent.fd, hidden, sys.O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW | sys.O_CLOEXEC)
    if fd < 0:
        return -1
    result = close_off(tree, fd, whole, size + length)
    shut(&fd)
    return result
