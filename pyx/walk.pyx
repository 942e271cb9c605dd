"""Walks of whole trees in C, without the GIL: what one takes, a copy of one, the end of one.

All start at a directory's descriptor and never follow a symbolic link; none crosses into another filesystem.
"""

import os

from pyx cimport sys
from pyx.err cimport failed

cdef struct Links:  # inodes of more than one name that were met: an open-addressed hash
    unsigned long* inodes
    char** paths        # where each was copied to; NULL when only counting
    size_t size
    size_t used

cdef struct Walk:
    unsigned long device
    unsigned long long bytes_
    unsigned long long inodes
    Links links


def usage(int root):
    """Allocated bytes and inodes of the tree at the directory descriptor `root`; a hard link counts once."""
    cdef Walk walk
    cdef sys.stat_t info
    cdef int result, number
    _begin(&walk)
    try:
        with nogil:
            result = sys.fstat(root, &info)
            if result == 0:
                walk.device = info.st_dev
                _count(&walk, &info)
                result = _usage(root, &walk)
            number = sys.errno
        if result < 0:
            raise failed(number, None)
        return walk.bytes_, walk.inodes
    finally:
        _end(&walk)


def copy(int source, int target):
    """Copy what is in directory `source` into directory `target`: owners, modes, times, extended attributes, hard
    links, devices, symbolic links; blocks are shared where the filesystem can. `target` itself takes `source`'s
    attributes."""
    cdef Walk walk
    cdef sys.stat_t info
    cdef int result, number
    _begin(&walk)
    try:
        with nogil:
            result = sys.fstat(source, &info)
            if result == 0:
                walk.device = info.st_dev
                result = _copy(source, target, target, b"", &walk)
            if result == 0:
                result = _attributes(source, target, &info)
            number = sys.errno
        if result < 0:
            raise failed(number, None)
    finally:
        _end(&walk)


def remove(int folder, name):
    """Remove the tree `name` in directory `folder`, whatever it is; not there is fine. A mount inside is EBUSY."""
    cdef bytes name_b = os.fsencode(name)
    cdef const char* name_p = name_b
    cdef sys.stat_t info
    cdef int result, number
    with nogil:
        result = sys.fstat(folder, &info)
        if result == 0:
            result = _remove(folder, name_p, info.st_dev)
        number = sys.errno
    if result < 0 and number != sys.ENOENT:
        raise failed(number, name)


cdef int _usage(int folder, Walk* walk) noexcept nogil:
    cdef sys.dirent* entry
    cdef sys.stat_t info
    cdef int child, result = 0
    cdef sys.DIR* listing = _list(folder)
    if listing == NULL:
        return -1
    while result == 0:
        entry = sys.readdir(listing)
        if entry == NULL:
            break
        if _is_dot(entry.d_name):
            continue
        if sys.fstatat(folder, entry.d_name, &info, sys.AT_SYMLINK_NOFOLLOW) < 0:
            if sys.errno == sys.ENOENT:
                continue  # removed while we walk
            result = -1
        elif info.st_dev != walk.device:
            continue
        elif info.st_nlink > 1 and not sys.S_ISDIR(info.st_mode) and _met(&walk.links, info.st_ino) != NULL:
            continue
        else:
            _count(walk, &info)
            if info.st_nlink > 1 and not sys.S_ISDIR(info.st_mode):
                result = _remember(&walk.links, info.st_ino, NULL)
            elif sys.S_ISDIR(info.st_mode):
                child = _open(folder, entry.d_name)
                if child < 0:
                    result = 0 if sys.errno == sys.ENOENT else -1
                else:
                    result = _usage(child, walk)
                    _close(child)
    _closedir(listing)
    return result


cdef int _copy(int source, int target, int root, const char* path, Walk* walk) noexcept nogil:
    """Copy the entries of directory `source` to `target`, which lies at `path` below `root`."""
    cdef sys.dirent* entry
    cdef char* below
    cdef int result = 0
    cdef sys.DIR* listing = _list(source)
    if listing == NULL:
        return -1
    while result == 0:
        entry = sys.readdir(listing)
        if entry == NULL:
            break
        if _is_dot(entry.d_name):
            continue
        below = _join(path, entry.d_name)
        result = -1 if below == NULL else _copy_entry(source, target, root, entry.d_name, below, walk)
        sys.free(below)
    _closedir(listing)
    return result


cdef int _copy_entry(int source, int target, int root, const char* name, const char* path, Walk* walk) noexcept nogil:
    cdef sys.stat_t info
    cdef char* first
    if sys.fstatat(source, name, &info, sys.AT_SYMLINK_NOFOLLOW) < 0:
        return -1
    if info.st_nlink > 1 and not sys.S_ISDIR(info.st_mode):
        first = _met(&walk.links, info.st_ino)
        if first != NULL:
            return sys.linkat(root, first, target, name, 0)
        if _remember(&walk.links, info.st_ino, path) < 0:
            return -1
    if sys.S_ISDIR(info.st_mode):
        return _copy_directory(source, target, root, name, path, &info, walk)
    if sys.S_ISREG(info.st_mode):
        return _copy_file(source, target, name, &info)
    if sys.S_ISLNK(info.st_mode):
        if _copy_link(source, target, name) < 0:
            return -1
    elif sys.mknodat(target, name, info.st_mode, info.st_rdev) < 0:
        return -1
    return _dress(source, target, name, &info)


cdef int _copy_directory(int source, int target, int root, const char* name, const char* path, sys.stat_t* info,
                         Walk* walk) noexcept nogil:
    cdef int here, there, result = -1
    if sys.mkdirat(target, name, 0o700) < 0:
        return -1
    here = _open(source, name)
    there = _open(target, name)
    if here >= 0 and there >= 0:
        result = 0 if info.st_dev != walk.device else _copy(here, there, root, path, walk)
        if result == 0:
            result = _attributes(here, there, info)
    _close(here)
    _close(there)
    return result


cdef int _copy_file(int source, int target, const char* name, sys.stat_t* info) noexcept nogil:
    cdef int there = -1, result = -1
    cdef int here = sys.openat(source, name, sys.O_RDONLY | sys.O_NOFOLLOW | sys.O_CLOEXEC)
    if here >= 0:
        there = sys.openat(target, name, sys.O_WRONLY | sys.O_CREAT | sys.O_EXCL | sys.O_CLOEXEC, 0o600)
    if there >= 0:
        result = _copy_bytes(here, there, info.st_size)
        if result == 0:
            result = _attributes(here, there, info)
    _close(there)
    _close(here)
    return result


cdef int _copy_bytes(int here, int there, long long size) noexcept nogil:
    """By copy_file_range(2), which shares blocks where it can; by reading and writing where it cannot."""
    cdef char buffer[65536]
    cdef ssize_t got, put, done
    cdef long long left = size
    while left > 0:
        got = sys.copy_file_range(here, NULL, there, NULL, left, 0)
        if got > 0:
            left -= got
        elif got == 0:
            return 0  # it became shorter
        elif sys.errno in (sys.EXDEV, sys.ENOSYS, sys.EINVAL, sys.EOPNOTSUPP):
            break
        elif sys.errno != sys.EINTR:
            return -1
    while left > 0:
        got = sys.read(here, buffer, sizeof(buffer))
        if got < 0 and sys.errno == sys.EINTR:
            continue
        if got <= 0:
            return <int>got
        done = 0
        while done < got:
            put = sys.write(there, buffer + done, got - done)
            if put < 0 and sys.errno != sys.EINTR:
                return -1
            done += put if put > 0 else 0
        left -= got
    return 0


cdef int _copy_link(int source, int target, const char* name) noexcept nogil:
    cdef char text[4097]
    cdef ssize_t size = sys.readlinkat(source, name, text, 4096)
    if size < 0:
        return -1
    text[size] = 0
    return sys.symlinkat(text, target, name)


cdef int _attributes(int here, int there, sys.stat_t* info) noexcept nogil:
    """Owner, mode (after the owner, which clears setuid), extended attributes and times, by descriptors."""
    cdef sys.timespec times[2]
    if sys.fchownat(there, b"", info.st_uid, info.st_gid, sys.AT_EMPTY_PATH) < 0:
        return -1
    if sys.fchmod(there, info.st_mode & 0o7777) < 0 or _xattrs(here, there) < 0:
        return -1
    times[0], times[1] = info.st_atim, info.st_mtim
    return sys.futimens(there, times)


cdef int _dress(int source, int target, const char* name, sys.stat_t* info) noexcept nogil:
    """Owner, mode and times of what cannot be opened: links, devices, fifos."""
    cdef sys.timespec times[2]
    if sys.fchownat(target, name, info.st_uid, info.st_gid, sys.AT_SYMLINK_NOFOLLOW) < 0:
        return -1
    if not sys.S_ISLNK(info.st_mode) and sys.fchmodat(target, name, info.st_mode & 0o7777, 0) < 0:
        return -1
    times[0], times[1] = info.st_atim, info.st_mtim
    return sys.utimensat(target, name, times, sys.AT_SYMLINK_NOFOLLOW)


cdef int _xattrs(int here, int there) noexcept nogil:
    """Those that the target's filesystem takes."""
    cdef ssize_t size = sys.flistxattr(here, NULL, 0)
    cdef ssize_t length, at = 0
    cdef char* names
    cdef char* value
    if size <= 0:
        return 0 if size == 0 or sys.errno in (sys.ENOTSUP, sys.ENODATA) else -1
    names = <char*>sys.malloc(size)
    value = <char*>sys.malloc(65536)
    if names == NULL or value == NULL:
        at = -1
    else:
        size = sys.flistxattr(here, names, size)
    while 0 <= at < size:
        length = sys.fgetxattr(here, names + at, value, 65536)
        if length >= 0 and sys.fsetxattr(there, names + at, value, length, 0) < 0:
            if sys.errno not in (sys.ENOTSUP, sys.EPERM):
                at = -1
                break
        at += sys.strlen(names + at) + 1
    sys.free(names)
    sys.free(value)
    return -1 if at < 0 else 0


cdef int _remove(int folder, const char* name, unsigned long device) noexcept nogil:
    cdef sys.dirent* entry
    cdef sys.stat_t info
    cdef sys.DIR* listing
    cdef int child, result = 0
    if sys.unlinkat(folder, name, 0) == 0:
        return 0
    if sys.errno not in (sys.EISDIR, sys.EPERM):
        return -1
    child = _open(folder, name)
    if child < 0:
        return -1
    if sys.fstat(child, &info) < 0 or info.st_dev != device:
        sys.errno = sys.EBUSY
        _close(child)
        return -1
    listing = _list(child)
    if listing == NULL:
        result = -1
    while result == 0:
        entry = sys.readdir(listing)
        if entry == NULL:
            break
        if not _is_dot(entry.d_name):
            result = _remove(child, entry.d_name, device)
            if result < 0 and sys.errno == sys.ENOENT:
                result = 0
    if listing != NULL:
        _closedir(listing)
    _close(child)
    return result if result < 0 else sys.unlinkat(folder, name, sys.AT_REMOVEDIR)


cdef void _count(Walk* walk, sys.stat_t* info) noexcept nogil:
    walk.bytes_ += info.st_blocks * 512
    walk.inodes += 1


cdef bint _is_dot(const char* name) noexcept nogil:
    return name[0] == b"." and (name[1] == 0 or (name[1] == b"." and name[2] == 0))


cdef int _open(int folder, const char* name) noexcept nogil:
    return sys.openat(folder, name, sys.O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW | sys.O_CLOEXEC)


cdef sys.DIR* _list(int folder) noexcept nogil:
    """A listing over a descriptor of its own, from the start."""
    cdef int fd = sys.openat(folder, b".", sys.O_RDONLY | sys.O_DIRECTORY | sys.O_CLOEXEC)
    cdef sys.DIR* listing
    if fd < 0:
        return NULL
    listing = sys.fdopendir(fd)
    if listing == NULL:
        _close(fd)
    return listing


cdef void _close(int fd) noexcept nogil:
    """Keeping errno."""
    cdef int number = sys.errno
    if fd >= 0:
        sys.close(fd)
    sys.errno = number


cdef void _closedir(sys.DIR* listing) noexcept nogil:
    cdef int number = sys.errno
    sys.closedir(listing)
    sys.errno = number


cdef char* _join(const char* path, const char* name) noexcept nogil:
    cdef size_t length = sys.strlen(path), more = sys.strlen(name)
    cdef char* joined = <char*>sys.malloc(length + more + 2)
    if joined == NULL:
        return NULL
    sys.memcpy(joined, path, length)
    if length:
        joined[length] = b"/"
        length += 1
    sys.memcpy(joined + length, name, more + 1)
    return joined


cdef void _begin(Walk* walk) noexcept nogil:
    sys.memset(walk, 0, sizeof(Walk))


cdef void _end(Walk* walk) noexcept nogil:
    cdef size_t slot
    if walk.links.paths != NULL:
        for slot in range(walk.links.size):
            sys.free(walk.links.paths[slot])
    sys.free(walk.links.paths)
    sys.free(walk.links.inodes)


cdef char NOWHERE = 0


cdef char* _met(Links* links, unsigned long inode) noexcept nogil:
    """Where `inode` was copied to ("" when only counted); NULL when it was not met."""
    cdef size_t slot
    if links.size == 0:
        return NULL
    slot = inode * 0x9E3779B97F4A7C15UL % links.size
    while links.inodes[slot] != 0:
        if links.inodes[slot] == inode:
            return links.paths[slot] if links.paths[slot] != NULL else &NOWHERE
        slot = (slot + 1) % links.size
    return NULL


cdef int _remember(Links* links, unsigned long inode, const char* path) noexcept nogil:
    cdef Links grown
    cdef size_t slot
    if links.used * 2 >= links.size:
        grown.size = 64 if links.size == 0 else links.size * 2
        grown.used = 0
        grown.inodes = <unsigned long*>sys.calloc(grown.size, sizeof(unsigned long))
        grown.paths = <char**>sys.calloc(grown.size, sizeof(char*))
        if grown.inodes == NULL or grown.paths == NULL:
            sys.free(grown.inodes)
            sys.free(grown.paths)
            sys.errno = sys.ENOMEM
            return -1
        for slot in range(links.size):
            if links.inodes[slot] != 0:
                _place(&grown, links.inodes[slot], links.paths[slot])
        sys.free(links.inodes)
        sys.free(links.paths)
        links[0] = grown
    _place(links, inode, NULL if path == NULL else _join(b"", path))
    return 0


cdef void _place(Links* links, unsigned long inode, char* path) noexcept nogil:
    cdef size_t slot = inode * 0x9E3779B97F4A7C15UL % links.size
    while links.inodes[slot] != 0:
        slot = (slot + 1) % links.size
    links.inodes[slot] = inode
    links.paths[slot] = path
    links.used += 1
