"""Changes of a tree as a tar archive (pax), in C without the GIL: the layer that `unpack` would make them of again.

The same changes give the same bytes: no times but that of the content, in whole seconds; no names of owners; of the
extended attributes only security.capability. Sockets are left out. A directory stands before the first thing in it,
once. The first of an inode's names that is written has its content, later ones are links to it; names that did not
change follow it when the content has.
"""

import os

from pyx cimport sys
from pyx cimport tarfmt
from pyx.err cimport failed, retried

cdef extern from *:
    """
    #define PYX_SPREAD 0x9E3779B97F4A7C15UL
    #define PYX_FNV 0x100000001B3UL
    """
    const unsigned long SPREAD "PYX_SPREAD"  # 2**64 over the golden ratio: spreads inodes
    const unsigned long FNV "PYX_FNV"        # the prime of FNV-1a, 64 bits

cdef enum:
    PATH = 4096           # bytes of a path or link target, NUL included (PATH_MAX)
    CAPABILITY = 1 << 10  # more than security.capability takes

cdef enum Fault:
    NO_FAULT
    SYSTEM
    SHRUNK
    RESERVED

cdef struct Name:         # one that waits for its inode's content to change
    Name* next
    char path[1]

cdef struct Inode:        # one of several names
    unsigned long device
    unsigned long number  # 0: an empty slot
    char* source          # the name that has its content in the archive
    Name* waiting         # in reverse order

cdef struct Inodes:
    Inode* slots
    size_t size
    size_t used

cdef struct Folders:      # directories that are in the archive, as hashes of their paths
    unsigned long seed
    unsigned long* slots
    size_t size
    size_t used

cdef struct Entry:
    const char* path
    size_t path_size
    unsigned char type
    bint timeless         # whatever `bound` is
    sys.stat_t info
    long long size        # of its content
    const char* link
    const char* capability
    size_t capability_size

cdef struct Machine:
    int root
    int folder            # of the last path, which the next one is often in too; -1 without
    char folder_path[PATH]
    size_t folder_size
    bint bounded
    long long bound       # no time is later, in seconds
    const char* records
    const char* end
    Name* links           # names to be written as links to `source`
    const char* source
    sys.stat_t linked
    unsigned char* head   # bytes to be handed out
    size_t head_at
    size_t head_size
    size_t head_room
    int fd                # of the file whose content follows them
    long long left        # of it
    long long padding
    Inodes inodes
    Folders folders
    Fault fault
    int number            # errno of a SYSTEM fault
    char about[PATH]


class Shrunk(EOFError):
    """A file became shorter while it was read; `entry` is its path, as bytes."""

    entry = b""


class Reserved(ValueError):
    """A name that would mean something else in a layer (image spec, whiteouts); `entry` is its path, as bytes."""

    entry = b""


cdef class Packer:
    """Packs what below the directory `root`, which stays the caller's, has changed. No time is later than `latest`, in
    seconds.

    `feed` it records of `pyx.changes`, then `readinto` until that is 0; when all were fed, `finish` once and read
    again. Read on into one buffer until it is full, and what is read does not depend on how it was fed.
    """

    cdef Machine* machine
    cdef bytes records

    def __cinit__(self, int root, latest=None):
        self.machine = <Machine*>sys.calloc(1, sizeof(Machine))
        if self.machine == NULL:
            raise MemoryError
        self.machine.root, self.machine.folder, self.machine.fd = root, -1, -1
        self.machine.folders.seed = int.from_bytes(os.urandom(8), "little")
        if latest is not None:
            self.machine.bounded, self.machine.bound = True, latest

    def __dealloc__(self):
        self.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def feed(self, bytes records):
        """More changes, once those before are read."""
        self._alive()
        if self.machine.records != self.machine.end:
            raise ValueError("the packer has changes that were not read yet")
        if not records.endswith(b"\0"):
            raise ValueError("the last record does not end")
        self.records = records
        self.machine.records = records
        self.machine.end = self.machine.records + len(records)

    def readinto(self, unsigned char[::1] data):
        """The archive's next bytes: how many; 0 when there are none without more changes. Shrunk; Reserved; OSError,
        whose filename is the path."""
        cdef size_t done = 0, size = data.shape[0]
        cdef unsigned char* to
        self._alive()
        if size:
            to = &data[0]
            with nogil:
                done = _fill(self.machine, to, size)
        if self.machine.fault != NO_FAULT:
            raise self._failure()
        return done

    def finish(self):
        """There are no more changes: what is left to be read is the archive's end."""
        self._alive()
        if not _idle(self.machine):
            raise ValueError("the packer has changes that were not read yet")
        if _room(self.machine, 2 * tarfmt.BLOCK) == NULL:
            raise MemoryError

    def close(self):
        cdef Machine* m = self.machine
        if m == NULL:
            return
        _close(m.fd)
        _close(m.folder)
        _forget(&m.inodes)
        _drop(m.links)
        sys.free(m.folders.slots)
        sys.free(m.head)
        sys.free(m)
        self.machine = NULL

    cdef _alive(self):
        if self.machine == NULL:
            raise ValueError("the packer is closed")

    cdef _failure(self):
        entry = <bytes>self.machine.about
        if self.machine.fault == SYSTEM:
            return failed(self.machine.number, os.fsdecode(entry))
        if self.machine.fault == SHRUNK:
            error = Shrunk("it became shorter while it was read")
        else:
            error = Reserved("a layer cannot hold a name that starts with .wh.")
        error.entry = entry
        return error


# Bytes out

cdef size_t _fill(Machine* m, unsigned char* to, size_t size) noexcept nogil:
    """How many bytes of `size` there were; fewer when more changes are needed, or something failed."""
    cdef size_t done = 0, part
    cdef ssize_t got
    while done < size and m.fault == NO_FAULT:
        if m.head_at < m.head_size:
            part = min(size - done, m.head_size - m.head_at)
            sys.memcpy(to + done, m.head + m.head_at, part)
            m.head_at += part
            done += part
        elif m.left:
            got = sys.read(m.fd, to + done, min(<long long>(size - done), m.left))
            if got > 0:
                m.left -= got
                done += got
            elif got == 0:
                m.fault = SHRUNK
            elif sys.errno != sys.EINTR:
                _fail(m)
        elif m.padding:
            part = min(size - done, <size_t>m.padding)
            sys.memset(to + done, 0, part)
            m.padding -= part
            done += part
        else:
            _close(m.fd)
            m.fd, m.head_at, m.head_size = -1, 0, 0
            if not _next(m):
                break
    return done


cdef bint _idle(Machine* m) noexcept nogil:
    return m.head_at == m.head_size and not m.left and not m.padding and m.links == NULL and m.records == m.end


cdef bint _next(Machine* m) noexcept nogil:
    """Begin what comes next, if anything does; that may be nothing to be written."""
    cdef Name* link = m.links
    cdef const char* record = m.records
    if link != NULL:
        m.links = link.next
        _link(m, link.path)
        sys.free(link)
        return True
    if record == m.end:
        return False
    m.records = record + sys.strlen(record) + 1
    _record(m, record[0], record + 1, m.records - record - 2)
    return True


cdef void _link(Machine* m, const char* path) noexcept nogil:
    """One more name of what was just written."""
    cdef Entry entry
    sys.memset(&entry, 0, sizeof(Entry))
    entry.path, entry.path_size = path, sys.strlen(path)
    entry.type, entry.info, entry.link = c"1", m.linked, m.source
    _about(m, path)
    if _parents(m, path, entry.path_size) == 0:
        _header(m, &entry)


cdef void _record(Machine* m, char kind, const char* path, size_t size) noexcept nogil:
    cdef const char* name
    cdef size_t at = _folder_size(path, size)
    _about(m, path)
    if size + 2 > PATH:
        sys.errno = sys.ENAMETOOLONG
        _fail(m)
        return
    name = path + at + 1 if at else path
    if kind != c"U" and sys.strncmp(name, b".wh.", 4) == 0:
        m.fault = RESERVED
    elif kind == c"D":
        _whiteout(m, path, size, name)
    else:
        _present(m, kind, path, size, name)


cdef void _whiteout(Machine* m, const char* path, size_t size, const char* name) noexcept nogil:
    """An empty file whose name says what is gone."""
    cdef char marked[PATH + 4]
    cdef size_t at = name - path
    cdef Entry entry
    sys.memset(&entry, 0, sizeof(Entry))
    sys.memcpy(marked, path, at)
    sys.memcpy(marked + at, b".wh.", 4)
    sys.memcpy(marked + at + 4, name, size - at + 1)
    entry.path, entry.path_size, entry.type = marked, size + 4, c"0"
    entry.timeless = True
    if _parents(m, path, size) == 0:
        _header(m, &entry)


cdef void _present(Machine* m, char kind, const char* path, size_t size, const char* name) noexcept nogil:
    cdef char target[PATH]
    cdef char capability[CAPABILITY]
    cdef Entry entry
    cdef Inode* inode = NULL
    sys.memset(&entry, 0, sizeof(Entry))
    entry.path, entry.path_size = path, size
    if _folder(m, path, _folder_size(path, size)) < 0 or _look(m, name, &entry.info) < 0:
        _fail(m)
        return
    if sys.S_ISSOCK(entry.info.st_mode):
        return
    if entry.info.st_nlink > 1 and not sys.S_ISDIR(entry.info.st_mode):
        inode = _inode(&m.inodes, &entry.info)
        if inode == NULL:
            _fail(m)
            return
    if inode != NULL and inode.source != NULL:
        entry.type, entry.link = c"1", inode.source
    elif kind == c"U":
        if inode != NULL and _wait(inode, path, size) < 0:
            _fail(m)
        return
    elif _kind(m, &entry, name, target, capability) < 0 or (inode != NULL and _lead(m, inode, &entry) < 0):
        _fail(m)
        return
    if _parents(m, path, size) == 0:
        _header(m, &entry)


cdef int _look(Machine* m, const char* name, sys.stat_t* info) noexcept nogil:
    """A regular file is open afterwards, and `info` is that of what was opened."""
    # O_NONBLOCK: should a fifo have taken the file's place, that would wait for its writer
    cdef int flags = sys.O_RDONLY | sys.O_NOFOLLOW | sys.O_NONBLOCK | sys.O_CLOEXEC
    if sys.fstatat(m.folder, name, info, sys.AT_SYMLINK_NOFOLLOW) < 0:
        return -1
    if not sys.S_ISREG(info.st_mode):
        return 0
    m.fd = sys.openat(m.folder, name, flags)
    if m.fd < 0 or sys.fstat(m.fd, info) < 0:
        return -1
    if not sys.S_ISREG(info.st_mode):
        sys.errno = sys.ESTALE
        return -1
    return 0


cdef int _kind(Machine* m, Entry* entry, const char* name, char* target, char* capability) noexcept nogil:
    """What an entry that is no link to another is; the buffers are its to use."""
    cdef unsigned int mode = entry.info.st_mode
    cdef ssize_t size
    if sys.S_ISREG(mode):
        entry.type, entry.size = c"0", entry.info.st_size
        size = sys.fgetxattr(m.fd, b"security.capability", capability, CAPABILITY)
        if size < 0:
            return 0 if sys.errno in (sys.ENODATA, sys.ENOTSUP) else -1
        entry.capability, entry.capability_size = capability, size
    elif sys.S_ISLNK(mode):
        size = sys.readlinkat(m.folder, name, target, PATH - 1)
        if size < 0:
            return -1
        target[size] = 0
        entry.type, entry.link = c"2", target
    elif sys.S_ISDIR(mode):
        entry.type = c"5"
    elif sys.S_ISCHR(mode):
        entry.type = c"3"
    elif sys.S_ISBLK(mode):
        entry.type = c"4"
    elif sys.S_ISFIFO(mode):
        entry.type = c"6"
    else:
        sys.errno = sys.EINVAL
        return -1
    return 0


# Directories

cdef size_t _folder_size(const char* path, size_t size) noexcept nogil:
    """Of the path of the directory that `path` is in; 0 for the root."""
    while size and path[size - 1] != c"/":
        size -= 1
    return size - 1 if size else 0


cdef int _folder(Machine* m, const char* path, size_t size) noexcept nogil:
    """Have the directory open: links on the way there lead nowhere, whoever puts them there meanwhile."""
    if m.folder >= 0 and m.folder_size == size and sys.memcmp(m.folder_path, path, size) == 0:
        return 0
    _close(m.folder)
    sys.memcpy(m.folder_path, path, size)
    m.folder_path[size] = 0
    m.folder_size = size
    m.folder = _open_folder(m, m.folder_path)
    return 0 if m.folder >= 0 else -1


cdef int _open_folder(Machine* m, const char* path) noexcept nogil:
    cdef sys.open_how how
    cdef long result
    how.flags = sys.O_PATH | sys.O_DIRECTORY | sys.O_CLOEXEC
    how.mode = 0
    how.resolve = sys.RESOLVE_BENEATH | sys.RESOLVE_NO_SYMLINKS | sys.RESOLVE_NO_MAGICLINKS
    if path[0] == 0:
        path = b"."
    while True:
        result = retried(sys.SYS_openat2, m.root, <long>path, <long>&how, sizeof(how), 0)
        if result != -sys.EAGAIN:
            break
    if result < 0:
        sys.errno = <int>-result
        return -1
    return <int>result


cdef int _parents(Machine* m, const char* path, size_t size) noexcept nogil:
    """Have the directories that `path` is in in the archive, and `path` too, as what it may be to others."""
    cdef char folder[PATH]
    cdef size_t at
    for at in range(size):
        if path[at] != c"/" or _met(&m.folders, path, at):
            continue
        sys.memcpy(folder, path, at)
        folder[at] = 0
        if _folder_header(m, folder, at) < 0:
            _fail(m)
            return -1
    return 0


cdef int _folder_header(Machine* m, const char* path, size_t size) noexcept nogil:
    cdef Entry entry
    cdef int result, fd = _open_folder(m, path)
    if fd < 0:
        return -1
    sys.memset(&entry, 0, sizeof(Entry))
    entry.path, entry.path_size, entry.type = path, size, c"5"
    result = sys.fstat(fd, &entry.info)
    _close(fd)
    return -1 if result < 0 else _header(m, &entry)


cdef bint _met(Folders* folders, const char* path, size_t size) noexcept nogil:
    cdef unsigned long hash_ = _hash(folders, path, size)
    return folders.size != 0 and folders.slots[_free(folders, hash_)] == hash_


cdef int _meet(Folders* folders, const char* path, size_t size) noexcept nogil:
    cdef Folders grown
    cdef size_t at
    cdef unsigned long hash_ = _hash(folders, path, size)
    if folders.used * 2 >= folders.size:
        grown = folders[0]
        grown.size = folders.size * 2 if folders.size else 256
        grown.slots = <unsigned long*>sys.calloc(grown.size, sizeof(unsigned long))
        if grown.slots == NULL:
            return -1
        for at in range(folders.size):
            if folders.slots[at]:
                grown.slots[_free(&grown, folders.slots[at])] = folders.slots[at]
        sys.free(folders.slots)
        folders[0] = grown
    at = _free(folders, hash_)
    folders.used += folders.slots[at] == 0
    folders.slots[at] = hash_
    return 0


cdef unsigned long _hash(Folders* folders, const char* path, size_t size) noexcept nogil:
    """FNV-1a from a seed that whoever chose the names does not know; never 0."""
    cdef unsigned long result = folders.seed
    cdef size_t at
    for at in range(size):
        result = (result ^ <unsigned char>path[at]) * FNV
    result = (result ^ result >> 32) * SPREAD
    return result if result else 1


cdef size_t _free(Folders* folders, unsigned long hash_) noexcept nogil:
    """The slot of the hash, or the empty one where it belongs."""
    cdef size_t at = (hash_ >> 20) % folders.size
    while folders.slots[at] and folders.slots[at] != hash_:
        at = (at + 1) % folders.size
    return at


# Inodes of several names

cdef Inode* _inode(Inodes* inodes, sys.stat_t* info) noexcept nogil:
    """Its slot, a new one when it was not met; NULL without memory."""
    cdef Inodes grown
    cdef Inode* slot
    cdef size_t at
    if inodes.used * 2 >= inodes.size:
        grown.size, grown.used = inodes.size * 2 if inodes.size else 64, inodes.used
        grown.slots = <Inode*>sys.calloc(grown.size, sizeof(Inode))
        if grown.slots == NULL:
            return NULL
        for at in range(inodes.size):
            if inodes.slots[at].number:
                _slot(&grown, inodes.slots[at].device, inodes.slots[at].number)[0] = inodes.slots[at]
        sys.free(inodes.slots)
        inodes[0] = grown
    slot = _slot(inodes, info.st_dev, info.st_ino)
    inodes.used += slot.number == 0
    slot.device, slot.number = info.st_dev, info.st_ino
    return slot


cdef Inode* _slot(Inodes* inodes, unsigned long device, unsigned long number) noexcept nogil:
    cdef size_t at = ((number ^ device << 20) * SPREAD >> 20) % inodes.size
    while inodes.slots[at].number and (inodes.slots[at].number != number or inodes.slots[at].device != device):
        at = (at + 1) % inodes.size
    return &inodes.slots[at]


cdef int _wait(Inode* inode, const char* path, size_t size) noexcept nogil:
    cdef Name* name = <Name*>sys.malloc(sizeof(Name) + size)
    if name == NULL:
        return -1
    sys.memcpy(name.path, path, size + 1)
    name.next, inode.waiting = inode.waiting, name
    return 0


cdef int _lead(Machine* m, Inode* inode, Entry* entry) noexcept nogil:
    """The entry has the inode's content; the names that waited follow it."""
    cdef Name* name
    inode.source = <char*>sys.malloc(entry.path_size + 1)
    if inode.source == NULL:
        return -1
    sys.memcpy(inode.source, entry.path, entry.path_size + 1)
    m.source, m.linked = inode.source, entry.info
    while inode.waiting != NULL:
        name = inode.waiting
        inode.waiting = name.next
        name.next, m.links = m.links, name
    return 0


cdef void _forget(Inodes* inodes) noexcept nogil:
    cdef size_t at
    for at in range(inodes.size):
        sys.free(inodes.slots[at].source)
        _drop(inodes.slots[at].waiting)
    sys.free(inodes.slots)


cdef void _drop(Name* names) noexcept nogil:
    cdef Name* next_
    while names != NULL:
        next_ = names.next
        sys.free(names)
        names = next_


# Headers

cdef int _header(Machine* m, Entry* entry) noexcept nogil:
    """The entry's header and what pax must say before it, to be handed out; of a file, then its content."""
    cdef unsigned char* block
    cdef char path[PATH + 8]
    cdef size_t size = entry.path_size
    cdef long long mtime = entry.info.st_mtim.tv_sec
    sys.memcpy(path, entry.path, size)
    if entry.type == c"5":
        path[size] = c"/"
        size += 1
        if _meet(&m.folders, entry.path, entry.path_size) < 0:
            return _fail(m)
    if m.bounded and mtime > m.bound and not entry.timeless:
        mtime = m.bound
    if _pax(m, entry, path, size, mtime) < 0:
        return _fail(m)
    block = _room(m, tarfmt.BLOCK)
    if block == NULL:
        return _fail(m)
    sys.memcpy(block + tarfmt.NAME_AT, path, min(size, <size_t>tarfmt.NAME_SIZE))
    if entry.link != NULL:
        sys.memcpy(block + tarfmt.LINK_AT, entry.link, min(sys.strlen(entry.link), <size_t>tarfmt.LINK_SIZE))
    tarfmt.put_number(block + tarfmt.MODE_AT, 8, entry.info.st_mode & 0o7777)
    tarfmt.put_number(block + tarfmt.UID_AT, 8, entry.info.st_uid)
    tarfmt.put_number(block + tarfmt.GID_AT, 8, entry.info.st_gid)
    tarfmt.put_number(block + tarfmt.SIZE_AT, 12, entry.size)
    tarfmt.put_number(block + tarfmt.MTIME_AT, 12, mtime)
    block[tarfmt.TYPE_AT] = entry.type
    if entry.type == c"3" or entry.type == c"4":
        tarfmt.put_number(block + tarfmt.MAJOR_AT, tarfmt.DEVICE_SIZE, sys.major(entry.info.st_rdev))
        tarfmt.put_number(block + tarfmt.MINOR_AT, tarfmt.DEVICE_SIZE, sys.minor(entry.info.st_rdev))
    tarfmt.seal(block)
    m.left, m.padding = entry.size, -entry.size & (tarfmt.BLOCK - 1)
    return 0


cdef int _pax(Machine* m, Entry* entry, const char* path, size_t size, long long mtime) noexcept nogil:
    """The extended header with what the entry's own cannot hold; none when it can hold all."""
    cdef size_t begin = m.head_size, body = 0, link = sys.strlen(entry.link) if entry.link != NULL else 0
    cdef unsigned char* block = _room(m, tarfmt.BLOCK)
    cdef int bad = block == NULL
    if size > tarfmt.NAME_SIZE or link > tarfmt.LINK_SIZE:
        if not _is_utf8(path, size) or not _is_utf8(entry.link, link):
            bad |= _put(m, b"hdrcharset", b"BINARY", 6)  # POSIX.1-2017, pax: else they would be UTF-8
    if size > tarfmt.NAME_SIZE:
        bad |= _put(m, b"path", path, size)
    if link > tarfmt.LINK_SIZE:
        bad |= _put(m, b"linkpath", entry.link, link)
    bad |= _put_number(m, b"size", entry.size, 12)
    bad |= _put_number(m, b"uid", entry.info.st_uid, 8)
    bad |= _put_number(m, b"gid", entry.info.st_gid, 8)
    bad |= _put_number(m, b"mtime", mtime, 12)
    if entry.capability != NULL:
        bad |= _put(m, b"SCHILY.xattr.security.capability", entry.capability, entry.capability_size)
    if bad:
        return -1
    body = m.head_size - begin - tarfmt.BLOCK
    if body == 0:
        m.head_size = begin
        return 0
    if _room(m, -body & (tarfmt.BLOCK - 1)) == NULL:
        return -1
    block = m.head + begin  # which may have moved
    sys.memcpy(block + tarfmt.NAME_AT, b"././@PaxHeader", 14)
    tarfmt.put_number(block + tarfmt.MODE_AT, 8, 0o644)
    tarfmt.put_number(block + tarfmt.UID_AT, 8, 0)
    tarfmt.put_number(block + tarfmt.GID_AT, 8, 0)
    tarfmt.put_number(block + tarfmt.SIZE_AT, 12, body)
    tarfmt.put_number(block + tarfmt.MTIME_AT, 12, 0)
    block[tarfmt.TYPE_AT] = c"x"
    tarfmt.seal(block)
    return 0


cdef int _put(Machine* m, const char* key, const char* value, size_t size) noexcept nogil:
    """One record; 1 without memory."""
    cdef size_t key_size = sys.strlen(key), length = tarfmt.pax_size(key_size, size)
    cdef char* to = <char*>_room(m, length)
    cdef size_t at
    if to == NULL:
        return 1
    at = tarfmt.decimal(to, length)
    to[at] = c" "
    sys.memcpy(to + at + 1, key, key_size)
    at += key_size + 1
    to[at] = c"="
    sys.memcpy(to + at + 1, value, size)
    to[length - 1] = c"\n"
    return 0


cdef int _put_number(Machine* m, const char* key, long long value, int field) noexcept nogil:
    """A record of what the header's field cannot hold; 1 without memory."""
    cdef char digits[tarfmt.PAX_DIGITS]
    if tarfmt.fits(value, field):
        return 0
    return _put(m, key, digits, tarfmt.decimal(digits, value))


cdef bint _is_utf8(const char* text, size_t size) noexcept nogil:
    """RFC 3629, 4: no byte that begins nothing, none too few, none for what fits into fewer, no surrogates."""
    cdef const unsigned char* bytes_ = <const unsigned char*>text
    cdef size_t at = 0, more
    cdef unsigned char low, high
    while at < size:
        low, high = 0x80, 0xBF
        if bytes_[at] < 0x80:
            more = 0
        elif 0xC2 <= bytes_[at] <= 0xDF:
            more = 1
        elif 0xE0 <= bytes_[at] <= 0xEF:
            more = 2
            low = 0xA0 if bytes_[at] == 0xE0 else 0x80
            high = 0x9F if bytes_[at] == 0xED else 0xBF
        elif 0xF0 <= bytes_[at] <= 0xF4:
            more = 3
            low = 0x90 if bytes_[at] == 0xF0 else 0x80
            high = 0x8F if bytes_[at] == 0xF4 else 0xBF
        else:
            return False
        if size - at <= more:
            return False
        at += 1
        while more:
            if not low <= bytes_[at] <= high:
                return False
            low, high = 0x80, 0xBF
            at += 1
            more -= 1
    return True


cdef unsigned char* _room(Machine* m, size_t size) noexcept nogil:
    """That many zeros more at the end of what is to be handed out; NULL without memory."""
    cdef unsigned char* grown
    cdef size_t room = m.head_room if m.head_room else 4096
    while room < m.head_size + size:
        room *= 2
    if room != m.head_room:
        grown = <unsigned char*>sys.realloc(m.head, room)
        if grown == NULL:
            return NULL
        m.head, m.head_room = grown, room
    sys.memset(m.head + m.head_size, 0, size)
    m.head_size += size
    return m.head + m.head_size - size


# Failures

cdef void _about(Machine* m, const char* path) noexcept nogil:
    sys.snprintf(m.about, sizeof(m.about), b"%s", path)


cdef int _fail(Machine* m) noexcept nogil:
    m.fault, m.number = SYSTEM, sys.errno
    return -1


cdef void _close(int fd) noexcept nogil:
    """Keeping errno."""
    cdef int number = sys.errno
    if fd >= 0:
        sys.close(fd)
    sys.errno = number
