"""Tar bytes onto a tree, in C without the GIL: a machine that is fed and never reads ahead.

Every entry's parent is resolved anew below the root descriptor, by openat2(2) with RESOLVE_IN_ROOT: no path that an
earlier entry could have changed is ever trusted, and none leaves the root. Whiteouts (image spec, layer) delete.
"""

import os

from pyx cimport sys
from pyx cimport tarfmt

cdef extern from *:
    """
    #define PYX_UINT32 0xFFFFFFFFLL
    #define PYX_SECONDS 922337203685477579LL
    #define PYX_SPREAD 0x9E3779B97F4A7C15UL
    #define PYX_FNV 0x100000001B3UL
    """
    const long long UINT32 "PYX_UINT32"      # the highest id, device number
    const long SECONDS "PYX_SECONDS"         # a tenth of the highest time
    const unsigned long SPREAD "PYX_SPREAD"  # 2**64 over the golden ratio: spreads inodes
    const unsigned long FNV "PYX_FNV"        # the prime of FNV-1a, 64 bits

cdef enum:
    PATH = 4096          # bytes of a name or link target, NUL included (PATH_MAX)
    META = 1 << 20       # bytes of a pax or GNU long-name body
    NOTES = 256 << 20    # bytes of directories' names and times kept until the end
    XATTRS = 256         # extended attributes of one entry
    LINKS = 8            # symbolic links to nowhere followed while making missing parents
    DEPTH = 1024         # directories on the way to an entry

cdef enum Expecting:
    A_HEADER
    A_BODY               # of a regular file: written
    A_META               # of a pax or GNU header: collected
    NOTHING              # of what has a body that means nothing: skipped
    THE_END              # drained

cdef enum Fault:
    NO_FAULT
    MALFORMED
    TRUNCATED
    SYSTEM

cdef struct Xattr:
    const char* name
    const char* value
    size_t size

cdef struct Times:       # a directory's, to be set when nothing is written into it any more
    char* path
    unsigned long inode
    sys.timespec times[2]

cdef struct Names:       # an open-addressed set: what this layer made, as hashes of directories' inodes and names
    unsigned long seed   # unknown to whoever chose the names: nobody can make them collide
    unsigned long* slots
    size_t size
    size_t used

cdef struct Machine:
    int root
    Expecting expecting
    Fault fault
    int number           # errno of a SYSTEM fault
    const char* what     # of a MALFORMED one
    # the entry under way
    unsigned char block[512]
    size_t in_block
    bint zero_seen
    bint started         # by a pax or GNU header
    char name[PATH]
    char link[PATH]
    bint long_name, long_link, pax_size, pax_uid, pax_gid, pax_mtime, pax_atime
    long long size, mode, uid, gid, major, minor
    sys.timespec times[2]
    unsigned char type
    char* meta
    size_t in_meta
    char* pax            # the pax body that `xattrs` point into
    Xattr xattrs[XATTRS]
    int xattr_count
    # its body
    long long left, padding
    bint in_padding      # some writers leave out the last block's: that is no loss
    int fd
    # what was done
    Times* folders
    size_t folder_count, folder_room
    size_t noted         # bytes in `folders`
    Names made
    unsigned long long bytes_, inodes
    unsigned long device


class Malformed(ValueError):
    """The archive breaks the format's rules or ours; `entry` is the name it happened at, as bytes."""

    entry = b""


class Truncated(EOFError):
    """The archive ends in the middle of something."""

    entry = b""


cdef class Unpacker:
    """Unpacks one archive below the directory `root_fd`, which stays the caller's.

    `feed` any number of times, then `finish`; `close` frees, and is safe at any time. Any chunking gives the same
    result.
    """

    cdef Machine* machine

    def __cinit__(self, int root_fd):
        cdef sys.stat_t info
        self.machine = <Machine*>sys.calloc(1, sizeof(Machine))
        if self.machine == NULL:
            raise MemoryError
        self.machine.root = root_fd
        self.machine.fd = -1
        if sys.fstat(root_fd, &info) < 0:
            raise OSError(sys.errno, os.strerror(sys.errno))
        self.machine.device = info.st_dev
        self.machine.made.seed = int.from_bytes(os.urandom(8), "little")

    def __dealloc__(self):
        self.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def feed(self, const unsigned char[::1] data):
        """More of the archive. Malformed; OSError, whose filename is the entry's name."""
        cdef size_t size = data.shape[0]
        cdef const unsigned char* at
        self._alive()
        if size == 0:
            return
        at = &data[0]
        with nogil:
            _feed(self.machine, at, size)
        self._check()

    def finish(self):
        """The archive has ended: set what had to wait. (allocated bytes, inodes) of what was made. Truncated."""
        self._alive()
        with nogil:
            _finish(self.machine)
        self._check()
        return self.machine.bytes_, self.machine.inodes

    def close(self):
        """Free everything; an archive that was not finished leaves what it has written."""
        cdef size_t at
        if self.machine == NULL:
            return
        _shut(&self.machine.fd)
        for at in range(self.machine.folder_count):
            sys.free(self.machine.folders[at].path)
        sys.free(self.machine.folders)
        sys.free(self.machine.made.slots)
        sys.free(self.machine.meta)
        sys.free(self.machine.pax)
        sys.free(self.machine)
        self.machine = NULL

    cdef _alive(self):
        if self.machine == NULL:
            raise ValueError("the unpacker is closed")

    cdef _check(self):
        cdef Machine* m = self.machine
        if m.fault == NO_FAULT:
            return
        entry = <bytes>m.name
        if m.fault == SYSTEM:
            raise OSError(m.number, os.strerror(m.number), os.fsdecode(entry))
        error = Truncated("it ends in the middle of an entry") if m.fault == TRUNCATED else Malformed(m.what.decode())
        error.entry = entry
        raise error


# The machine.

cdef void _feed(Machine* m, const unsigned char* data, size_t size) noexcept nogil:
    cdef size_t used
    while size and m.fault == NO_FAULT:
        if m.expecting == A_HEADER:
            used = _take_header(m, data, size)
        elif m.expecting == A_BODY:
            used = _take_body(m, data, size)
        elif m.expecting == A_META:
            used = _take_meta(m, data, size)
        elif m.expecting == NOTHING:
            used = _skip(m, size)
        else:
            return
        data += used
        size -= used


cdef size_t _take_header(Machine* m, const unsigned char* data, size_t size) noexcept nogil:
    cdef size_t used = min(size, tarfmt.BLOCK - m.in_block)
    sys.memcpy(m.block + m.in_block, data, used)
    m.in_block += used
    if m.in_block == tarfmt.BLOCK:
        m.in_block = 0
        _header(m)
    return used


cdef size_t _take_body(Machine* m, const unsigned char* data, size_t size) noexcept nogil:
    cdef size_t used = <size_t>min(<long long>size, m.left)
    cdef size_t done = 0
    cdef ssize_t put
    while done < used:
        put = sys.write(m.fd, data + done, used - done)
        if put < 0:
            if sys.errno == sys.EINTR:
                continue
            _system(m)
            return used
        done += put
    m.left -= used
    if m.left == 0:
        _end_file(m)
    return used


cdef size_t _take_meta(Machine* m, const unsigned char* data, size_t size) noexcept nogil:
    cdef size_t used = <size_t>min(<long long>size, m.left)
    sys.memcpy(m.meta + m.in_meta, data, used)
    m.in_meta += used
    m.left -= used
    if m.left == 0:
        m.meta[m.in_meta] = 0
        _meta(m)
        _then_pad(m)
    return used


cdef size_t _skip(Machine* m, size_t size) noexcept nogil:
    cdef size_t used = <size_t>min(<long long>size, m.left)
    m.left -= used
    if m.left == 0:
        if m.padding:
            _then_pad(m)
        else:
            m.expecting = A_HEADER
    return used


cdef void _then_pad(Machine* m) noexcept nogil:
    """What is left of the body's last block."""
    m.left, m.padding = m.padding, 0
    m.in_padding = m.left > 0
    m.expecting = NOTHING if m.left else A_HEADER


cdef void _finish(Machine* m) noexcept nogil:
    cdef bint whole = m.expecting in (A_HEADER, THE_END) or (m.expecting == NOTHING and m.in_padding)
    if not whole or m.in_block or m.started:
        m.fault = TRUNCATED
        return
    _set_folder_times(m)


# Headers.

cdef void _header(Machine* m) noexcept nogil:
    cdef long long size
    if tarfmt.is_zero(m.block):
        if m.started:
            _malformed(m, b"an extended header without the entry it is for")
        elif m.zero_seen:
            m.expecting = THE_END
        m.zero_seen = True
        return
    if m.zero_seen:
        _malformed(m, b"data after a single block of zeros")
        return
    if not m.long_name:
        m.name[0] = 0
    if not tarfmt.checksum(m.block):
        _malformed(m, b"a header whose checksum is wrong")
        return
    if not m.long_name:
        _name(m)
    m.type = m.block[tarfmt.TYPE_AT]
    if not tarfmt.number(m.block + tarfmt.SIZE_AT, 12, &size) or size < 0:
        _malformed(m, b"a size that is no size")
        return
    if m.type in (c"x", c"L", c"K"):
        m.started = True
        _begin_meta(m, size)
    elif m.type == c"g":
        _begin_skip(m, size)
    else:
        if not m.pax_size:
            m.size = size
        _entry(m)
        _forget(m)


cdef void _begin_meta(Machine* m, long long size) noexcept nogil:
    if size >= META:
        _malformed(m, b"an extended header of 1 MiB or more")
        return
    if m.meta == NULL:
        m.meta = <char*>sys.malloc(META)
    if m.meta == NULL:
        sys.errno = sys.ENOMEM
        _system(m)
        return
    m.in_meta = 0
    m.left, m.padding = size, _pad(size)
    m.expecting = A_META
    if size == 0:
        _malformed(m, b"an empty extended header")


cdef void _begin_skip(Machine* m, long long size) noexcept nogil:
    m.left, m.padding = size, _pad(size)
    m.in_padding = False
    m.expecting = NOTHING if size else A_HEADER


cdef long long _pad(long long size) noexcept nogil:
    return -size & (tarfmt.BLOCK - 1)


cdef void _meta(Machine* m) noexcept nogil:
    """A collected body: GNU's long name or link, or pax records."""
    if m.type == c"x":
        m.pax, m.meta = m.meta, m.pax
        m.xattr_count = 0
        _pax(m, m.pax, m.in_meta)
        return
    if sys.strlen(m.meta) + 1 < m.in_meta or sys.strlen(m.meta) >= PATH:
        _malformed(m, b"a long name that is too long or has a NUL in it")
    elif m.type == c"L":
        sys.memcpy(m.name, m.meta, sys.strlen(m.meta) + 1)
        m.long_name = True
    else:
        sys.memcpy(m.link, m.meta, sys.strlen(m.meta) + 1)
        m.long_link = True


cdef void _pax(Machine* m, char* at, size_t left) noexcept nogil:
    """Records `LENGTH KEY=VALUE\\n` (POSIX.1-2017, pax Extended Header)."""
    cdef size_t length, digits, key
    while left:
        length = digits = 0
        while digits < left and c"0" <= at[digits] <= c"9" and length < META:
            length = length * 10 + (at[digits] - c"0")
            digits += 1
        if digits == 0 or digits >= left or at[digits] != c" " or length > left or length < digits + 4:
            _malformed(m, b"a pax record of a wrong length")
            return
        if at[length - 1] != c"\n":
            _malformed(m, b"a pax record without its newline")
            return
        at[length - 1] = 0
        key = digits + 1
        while key < length and at[key] != c"=":
            key += 1
        if key == length:
            _malformed(m, b"a pax record without '='")
            return
        if sys.strlen(at + digits + 1) < key - digits - 1:
            _malformed(m, b"a pax key with a NUL in it")
            return
        at[key] = 0
        _record(m, at + digits + 1, at + key + 1, length - 1 - (key + 1))
        if m.fault != NO_FAULT:
            return
        at += length
        left -= length


cdef void _record(Machine* m, const char* key, const char* value, size_t size) noexcept nogil:
    if sys.strncmp(key, b"SCHILY.xattr.", 13) == 0:
        if m.xattr_count == XATTRS:
            _malformed(m, b"more extended attributes than we take")
            return
        m.xattrs[m.xattr_count].name = key + 13
        m.xattrs[m.xattr_count].value = value
        m.xattrs[m.xattr_count].size = size
        m.xattr_count += 1
    elif sys.strncmp(key, b"GNU.sparse.", 11) == 0:
        _malformed(m, b"a sparse file, which is not supported")
    elif sys.strcmp(key, b"path") == 0:
        m.long_name = _text(m, m.name, value, size)
    elif sys.strcmp(key, b"linkpath") == 0:
        m.long_link = _text(m, m.link, value, size)
    elif sys.strcmp(key, b"size") == 0:
        m.pax_size = _decimal(m, value, size, &m.size)
    elif sys.strcmp(key, b"uid") == 0:
        m.pax_uid = _decimal(m, value, size, &m.uid)
    elif sys.strcmp(key, b"gid") == 0:
        m.pax_gid = _decimal(m, value, size, &m.gid)
    elif sys.strcmp(key, b"mtime") == 0:
        m.pax_mtime = _moment(m, value, size, &m.times[1])
    elif sys.strcmp(key, b"atime") == 0:
        m.pax_atime = _moment(m, value, size, &m.times[0])


cdef bint _text(Machine* m, char* to, const char* value, size_t size) noexcept nogil:
    """A path; an empty one means that the header's own counts."""
    if sys.strlen(value) != size:
        _malformed(m, b"a pax path with a NUL in it")
        return False
    if size >= PATH:
        _malformed(m, b"a path of 4096 bytes or more")
        return False
    sys.memcpy(to, value, size + 1)
    return size != 0


cdef bint _decimal(Machine* m, const char* value, size_t size, long long* result) noexcept nogil:
    cdef size_t at
    result[0] = 0
    if size == 0:
        return False
    for at in range(size):
        if not c"0" <= value[at] <= c"9" or at > 18:
            _malformed(m, b"a pax number that is none, or out of range")
            return False
        result[0] = result[0] * 10 + (value[at] - c"0")
        if result[0] < 0:
            _malformed(m, b"a pax number that is none, or out of range")
            return False
    return True


cdef bint _moment(Machine* m, const char* value, size_t size, sys.timespec* result) noexcept nogil:
    """Seconds since the epoch, with a fraction; negative ones count down from it."""
    cdef size_t at = 0
    cdef long scale = 100000000
    cdef bint negative = False
    cdef long seconds = 0, nanoseconds = 0
    if size and value[0] == c"-":
        negative, at = True, 1
    while at < size and c"0" <= value[at] <= c"9":
        if seconds > SECONDS:
            _malformed(m, b"a pax time that is out of range")
            return False
        seconds = seconds * 10 + (value[at] - c"0")
        at += 1
    if at < size and value[at] == c".":
        at += 1
        while at < size and c"0" <= value[at] <= c"9":
            nanoseconds += (value[at] - c"0") * scale
            scale //= 10
            at += 1
    if at != size:
        _malformed(m, b"a pax time that is none")
        return False
    if negative:
        seconds = -seconds - (1 if nanoseconds else 0)
        nanoseconds = 1000000000 - nanoseconds if nanoseconds else 0
    result.tv_sec, result.tv_nsec = seconds, nanoseconds
    return size != 0


cdef void _forget(Machine* m) noexcept nogil:
    """An entry's extended headers are for it alone."""
    m.started = m.long_name = m.long_link = m.pax_size = m.pax_uid = m.pax_gid = m.pax_mtime = m.pax_atime = False
    if m.fd < 0:
        m.xattr_count = 0


# Entries.

cdef void _entry(Machine* m) noexcept nogil:
    """Read the rest of the header, and make what it describes."""
    cdef char path[PATH]
    cdef bint slash
    if not _fields(m):
        return
    slash = m.name[0] != 0 and m.name[sys.strlen(m.name) - 1] == c"/"
    if m.type == 0 and slash:
        m.type = c"5"  # as V7 wrote directories
        if m.size:
            _malformed(m, b"a directory with a body")
            return
    if m.type == 0 or m.type == c"7":
        m.type = c"0"
    if m.type == c"S":
        _malformed(m, b"a sparse file, which is not supported")
        return
    if m.type not in (c"0", c"1", c"2", c"3", c"4", c"5", c"6"):
        _malformed(m, b"an entry of a type that is unknown")
        return
    _clean(m.name, path)
    _begin_skip(m, m.size if m.type == c"0" else 0)
    if path[0]:
        _make(m, path)


cdef bint _fields(Machine* m) noexcept nogil:
    cdef long long mtime
    if not m.long_link:
        sys.memcpy(m.link, m.block + tarfmt.LINK_AT, tarfmt.LINK_SIZE)
        m.link[tarfmt.LINK_SIZE] = 0
    if not tarfmt.number(m.block + tarfmt.MODE_AT, 8, &m.mode):
        return _malformed(m, b"a mode that is none")
    if not m.pax_uid and not tarfmt.number(m.block + tarfmt.UID_AT, 8, &m.uid):
        return _malformed(m, b"a user id that is none")
    if not m.pax_gid and not tarfmt.number(m.block + tarfmt.GID_AT, 8, &m.gid):
        return _malformed(m, b"a group id that is none")
    if not 0 <= m.uid < UINT32 or not 0 <= m.gid < UINT32:  # chown(2) takes the highest for "as it is"
        return _malformed(m, b"a user or group id out of range")
    if not m.pax_mtime:
        if not tarfmt.number(m.block + tarfmt.MTIME_AT, 12, &mtime):
            return _malformed(m, b"a time that is none")
        m.times[1].tv_sec, m.times[1].tv_nsec = mtime, 0
    if not m.pax_atime or m.times[0].tv_sec < m.times[1].tv_sec:
        m.times[0] = m.times[1]
    m.major = m.minor = 0
    if m.type in (c"3", c"4"):
        if not tarfmt.number(m.block + tarfmt.MAJOR_AT, 8, &m.major) or not 0 <= m.major <= UINT32:
            return _malformed(m, b"a device number out of range")
        if not tarfmt.number(m.block + tarfmt.MINOR_AT, 8, &m.minor) or not 0 <= m.minor <= UINT32:
            return _malformed(m, b"a device number out of range")
    m.mode &= 0o7777
    return True


cdef void _name(Machine* m) noexcept nogil:
    """The header's own: in ustar (not in GNU's variant) behind a prefix."""
    cdef size_t at = 0
    if sys.strncmp(<char*>m.block + tarfmt.MAGIC_AT, b"ustar", 6) == 0 and m.block[tarfmt.PREFIX_AT] != 0:
        while at < tarfmt.PREFIX_SIZE and m.block[tarfmt.PREFIX_AT + at] != 0:
            m.name[at] = <char>m.block[tarfmt.PREFIX_AT + at]
            at += 1
        m.name[at] = c"/"
        at += 1
    sys.memcpy(m.name + at, m.block + tarfmt.NAME_AT, tarfmt.NAME_SIZE)
    m.name[at + tarfmt.NAME_SIZE] = 0


cdef void _clean(const char* name, char* path) noexcept nogil:
    """Without `.`, `..`, doubled and outer slashes, as filepath.Clean("/" + name): `..` above the root is the root."""
    cdef size_t at = 0, length
    path[0] = 0
    while name[0]:
        if name[0] == c"/":
            name += 1
            continue
        length = 0
        while name[length] and name[length] != c"/":
            length += 1
        if length == 2 and name[0] == c"." and name[1] == c".":
            while at and path[at - 1] != c"/":
                at -= 1
            if at:
                at -= 1
        elif not (length == 1 and name[0] == c"."):
            if at:
                path[at] = c"/"
                at += 1
            sys.memcpy(path + at, name, length)
            at += length
        path[at] = 0
        name += length


cdef void _make(Machine* m, char* path) noexcept nogil:
    """Make the entry at `path`, which is clean and not the root."""
    cdef char* base = _base(path)
    cdef int parent
    cdef bint whiteout = sys.strncmp(base, b".wh.", 4) == 0
    if base == path:
        parent = _folder(m, b"", not whiteout)
    else:
        (base - 1)[0] = 0
        parent = _folder(m, path, not whiteout)
        (base - 1)[0] = c"/"
    if parent < 0:
        if not (whiteout and sys.errno in (sys.ENOENT, sys.ENOTDIR)):
            _system(m)
        return
    if whiteout:
        _whiteout(m, parent, base)
    else:
        _create(m, parent, base, path)
        if m.fault == NO_FAULT:
            _mark(m, parent, base)
    _shut(&parent)


cdef char* _base(char* path) noexcept nogil:
    cdef char* base = path
    while path[0]:
        if path[0] == c"/":
            base = path + 1
        path += 1
    return base


cdef int _open_in_root(Machine* m, const char* path, int flags) noexcept nogil:
    cdef sys.open_how how
    cdef long fd
    how.flags, how.mode = flags | sys.O_CLOEXEC, 0
    how.resolve = sys.RESOLVE_IN_ROOT | sys.RESOLVE_NO_MAGICLINKS
    if path[0] == 0:
        path = b"."
    while True:
        fd = sys.syscall(sys.SYS_openat2, m.root, path, &how, sizeof(how))
        if fd >= 0 or (sys.errno != sys.EAGAIN and sys.errno != sys.EINTR):
            return <int>fd


cdef int _folder(Machine* m, const char* path, bint create) noexcept nogil:
    """The directory at `path` (O_PATH), missing parts made if so asked; -1 and errno."""
    cdef int fd = _open_in_root(m, path, sys.O_PATH | sys.O_DIRECTORY)
    if fd >= 0 or not create or sys.errno != sys.ENOENT:
        return fd
    if _make_folders(m, path, 0) < 0:
        return -1
    return _open_in_root(m, path, sys.O_PATH | sys.O_DIRECTORY)


cdef int _make_folders(Machine* m, const char* path, int depth) noexcept nogil:
    """Make every directory on the way to `path` and itself, 0755. A symbolic link to nowhere gets its target made,
    inside the root."""
    cdef size_t ends[DEPTH]  # where each part of the path ends
    cdef size_t starts[DEPTH]
    cdef int parts = 0, known, low = 0, high, middle, fd
    cdef size_t at = 0
    if depth > LINKS:
        sys.errno = sys.ELOOP
        return -1
    while path[at]:
        while path[at] == c"/":
            at += 1
        if path[at] == 0:
            break
        if parts == DEPTH:
            sys.errno = sys.ENAMETOOLONG
            return -1
        starts[parts] = at
        while path[at] and path[at] != c"/":
            at += 1
        ends[parts] = at
        parts += 1
    high = parts  # what is there is a beginning of the path: find its end by halving
    while low < high:
        middle = (low + high + 1) // 2
        fd = _open_prefix(m, path, ends[middle - 1])
        if fd >= 0:
            _shut(&fd)
            low = middle
        elif sys.errno == sys.ENOENT:
            high = middle - 1
        else:
            return -1
    known = low
    while known < parts:
        fd = _open_prefix(m, path, ends[known - 1] if known else 0)
        if fd < 0:
            return -1
        known = _make_parts(m, fd, path, starts, ends, known, parts, depth)
        if known < 0:
            return -1
    return 0


cdef int _open_prefix(Machine* m, const char* path, size_t end) noexcept nogil:
    cdef char prefix[PATH]
    sys.memcpy(prefix, path, end)
    prefix[end] = 0
    return _open_in_root(m, prefix, sys.O_PATH | sys.O_DIRECTORY)


cdef int _make_parts(Machine* m, int parent, const char* path, const size_t* starts, const size_t* ends, int known,
                     int parts, int depth) noexcept nogil:
    """Make parts `known` to `parts` below `parent`, which is closed: what is new has nothing in it that could lead
    elsewhere. How many parts are there afterwards (fewer, when the rest must be looked up again); -1 and errno."""
    cdef char name[PATH]
    cdef size_t size
    cdef int child
    while known < parts:
        size = ends[known] - starts[known]
        sys.memcpy(name, path + starts[known], size)
        name[size] = 0
        if sys.mkdirat(parent, name, 0o755) < 0:
            if sys.errno == sys.EEXIST and _follow(m, parent, path, starts[known], name, depth) == 0:
                known += 1
                break
            _shut(&parent)
            return -1
        _mark(m, parent, name)
        child = sys.openat(parent, name, sys.O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW | sys.O_CLOEXEC)
        if child < 0 or sys.fchmod(child, 0o755) < 0:  # whatever the umask
            _shut(&child)
            _shut(&parent)
            return -1
        _account(m, child)
        _shut(&parent)
        parent = child
        known += 1
    _shut(&parent)
    return known


cdef int _follow(Machine* m, int parent, const char* path, size_t start, const char* name, int depth) noexcept nogil:
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
    target[size] = 0
    if target[0] == c"/":
        return _make_folders(m, target, depth + 1)
    if start + size + 1 > PATH:
        sys.errno = sys.ENAMETOOLONG
        return -1
    sys.memcpy(whole, path, start)
    sys.memcpy(whole + start, target, size + 1)
    return _make_folders(m, whole, depth + 1)


cdef void _create(Machine* m, int parent, const char* base, const char* path) noexcept nogil:
    cdef sys.stat_t info
    cdef bint exists = sys.fstatat(parent, base, &info, sys.AT_SYMLINK_NOFOLLOW) == 0
    if not exists and sys.errno != sys.ENOENT:
        _system(m)
        return
    if exists and not (m.type == c"5" and sys.S_ISDIR(info.st_mode)):
        if m.type == c"1" and _same_link(m, &info):
            return  # a link to itself: removing it would remove what it is to be
        if _remove(m, parent, base, 0) < 0:
            _system(m)
            return
        exists = False
    if m.type == c"0":
        _create_file(m, parent, base)
    elif m.type == c"5":
        _create_folder(m, parent, base, path, exists)
    elif m.type == c"1":
        _create_link(m, parent, base)
    else:
        _create_node(m, parent, base)


cdef void _create_file(Machine* m, int parent, const char* base) noexcept nogil:
    m.fd = sys.openat(parent, base, sys.O_WRONLY | sys.O_CREAT | sys.O_EXCL | sys.O_NOFOLLOW | sys.O_CLOEXEC, 0o600)
    if m.fd < 0:
        _system(m)
        return
    m.expecting = A_BODY
    if m.left == 0:
        _end_file(m)


cdef void _end_file(Machine* m) noexcept nogil:
    _dress(m, m.fd)
    if m.fault == NO_FAULT:
        if sys.futimens(m.fd, m.times) < 0:
            _system(m)
        _account(m, m.fd)
    _shut(&m.fd)
    m.xattr_count = 0
    _then_pad(m)


cdef void _create_folder(Machine* m, int parent, const char* base, const char* path, bint exists) noexcept nogil:
    cdef int fd
    if not exists and sys.mkdirat(parent, base, 0o700) < 0:
        _system(m)
        return
    fd = sys.openat(parent, base, sys.O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW | sys.O_CLOEXEC)
    if fd < 0:
        _system(m)
        return
    _dress(m, fd)
    if not exists:
        _account(m, fd)
    _later(m, fd, path)
    _shut(&fd)


cdef void _create_link(Machine* m, int parent, const char* base) noexcept nogil:
    """A hard link: its target's directory is resolved inside the root, its last part is not followed."""
    cdef char path[PATH]
    cdef char* name
    cdef int folder = _link_folder(m, path, &name)
    if folder < 0:
        if m.fault == NO_FAULT:
            _system(m)
        return
    if sys.linkat(folder, name, parent, base, 0) < 0:
        if sys.errno == sys.EPERM:
            _malformed(m, b"a hard link to what cannot be linked")
        else:
            _system(m)
    _shut(&folder)


cdef int _link_folder(Machine* m, char* path, char** name) noexcept nogil:
    cdef int folder
    cdef size_t length = sys.strlen(m.link)
    sys.memcpy(path, m.link, length + 1)
    while length and path[length - 1] == c"/":
        length -= 1
        path[length] = 0
    name[0] = _base(path)
    if name[0][0] == 0 or sys.strcmp(name[0], b".") == 0 or sys.strcmp(name[0], b"..") == 0:
        _malformed(m, b"a hard link to nothing that can be linked")
        return -1
    if name[0] == path:
        return _open_in_root(m, b"", sys.O_PATH | sys.O_DIRECTORY)
    (name[0] - 1)[0] = 0
    folder = _open_in_root(m, path, sys.O_PATH | sys.O_DIRECTORY)
    (name[0] - 1)[0] = c"/"
    return folder


cdef bint _same_link(Machine* m, sys.stat_t* info) noexcept nogil:
    cdef char path[PATH]
    cdef char* name
    cdef sys.stat_t target
    cdef bint same = False
    cdef int folder = _link_folder(m, path, &name)
    if folder >= 0:
        if sys.fstatat(folder, name, &target, sys.AT_SYMLINK_NOFOLLOW) == 0:
            same = target.st_ino == info.st_ino and target.st_dev == info.st_dev
        _shut(&folder)
    m.fault = NO_FAULT
    return same


cdef void _create_node(Machine* m, int parent, const char* base) noexcept nogil:
    """A symbolic link, device or fifo: nothing that could be opened to be dressed."""
    cdef unsigned int kind
    cdef int result
    cdef sys.stat_t info
    if m.type == c"2":
        result = sys.symlinkat(m.link, parent, base)
    else:
        kind = 0o020000 if m.type == c"3" else 0o060000 if m.type == c"4" else 0o010000
        result = sys.mknodat(parent, base, kind | <unsigned int>m.mode, sys.makedev(m.major, m.minor))
    if result == 0:
        result = sys.fchownat(parent, base, m.uid, m.gid, sys.AT_SYMLINK_NOFOLLOW)
    if result == 0 and m.type != c"2":
        result = sys.fchmodat(parent, base, m.mode, sys.AT_SYMLINK_NOFOLLOW)
    if result == 0:
        result = _node_xattrs(m, parent, base)
    if result == 0:
        result = sys.utimensat(parent, base, m.times, sys.AT_SYMLINK_NOFOLLOW)
    if result < 0:
        _system(m)
    elif sys.fstatat(parent, base, &info, sys.AT_SYMLINK_NOFOLLOW) == 0:
        m.inodes += 1
        m.bytes_ += info.st_blocks * 512


cdef void _dress(Machine* m, int fd) noexcept nogil:
    """Owner, then mode (chown clears setuid), then extended attributes (chown clears capabilities too)."""
    cdef int at
    if sys.fchownat(fd, b"", m.uid, m.gid, sys.AT_EMPTY_PATH) < 0 or sys.fchmod(fd, m.mode) < 0:
        _system(m)
        return
    for at in range(m.xattr_count):
        if not _settable(m.xattrs[at].name):
            continue
        if sys.fsetxattr(fd, m.xattrs[at].name, m.xattrs[at].value, m.xattrs[at].size, 0) < 0:
            if not _forgivable(m.xattrs[at].name, False):
                _system(m)
                return


cdef int _node_xattrs(Machine* m, int parent, const char* base) noexcept nogil:
    cdef char path[PATH + 32]
    cdef int at
    if m.xattr_count == 0:
        return 0
    _proc_path(path, parent, base)
    for at in range(m.xattr_count):
        if not _settable(m.xattrs[at].name):
            continue
        if sys.lsetxattr(path, m.xattrs[at].name, m.xattrs[at].value, m.xattrs[at].size, 0) < 0:
            if not _forgivable(m.xattrs[at].name, True):
                return -1
    return 0


cdef void _proc_path(char* path, int folder, const char* name) noexcept nogil:
    """/proc/self/fd/FOLDER/NAME."""
    cdef char digits[12]
    cdef int count = 0
    cdef size_t at = 14
    sys.memcpy(path, b"/proc/self/fd/", 14)
    while True:
        digits[count] = c"0" + folder % 10
        count += 1
        folder //= 10
        if folder == 0:
            break
    while count:
        count -= 1
        path[at] = digits[count]
        at += 1
    path[at] = c"/"
    sys.memcpy(path + at + 1, name, sys.strlen(name) + 1)


cdef bint _settable(const char* name) noexcept nogil:
    """trusted.* steers overlayfs itself: an image has no business there."""
    return sys.strncmp(name, b"trusted.", 8) != 0


cdef bint _forgivable(const char* name, bint node) noexcept nogil:
    """A filesystem without such attributes; user.* on what cannot have them (xattr(7))."""
    if sys.errno == sys.ENOTSUP:
        return sys.strcmp(name, b"security.capability") != 0
    return node and sys.errno == sys.EPERM and sys.strncmp(name, b"user.", 5) == 0


# Whiteouts.

cdef void _whiteout(Machine* m, int parent, const char* base) noexcept nogil:
    cdef const char* hidden = base + 4
    if sys.strcmp(base, b".wh..wh..opq") == 0:
        if _prune(m, parent, b".", 0) < 0:
            _system(m)
        return
    if hidden[0] == 0 or sys.strcmp(hidden, b".") == 0 or sys.strcmp(hidden, b"..") == 0:
        _malformed(m, b"a whiteout of nothing that can be removed")
        return
    if sys.strncmp(hidden, b".wh.", 4) == 0:
        return  # AUFS's own housekeeping (image spec: whiteouts)
    if _hide(m, parent, hidden) < 0 and sys.errno != sys.ENOENT:
        _system(m)


cdef int _hide(Machine* m, int parent, const char* name) noexcept nogil:
    """Remove `name`, but what this layer has made: a whiteout is for the layers below (image spec: whiteouts)."""
    cdef sys.stat_t info, here
    if sys.fstat(parent, &here) < 0 or sys.fstatat(parent, name, &info, sys.AT_SYMLINK_NOFOLLOW) < 0:
        return -1
    if not _is_marked(m, here.st_ino, name):
        return _remove(m, parent, name, 0)
    return _prune(m, parent, name, 0) if sys.S_ISDIR(info.st_mode) else 0


cdef int _prune(Machine* m, int parent, const char* name, int depth) noexcept nogil:
    """Remove what in the directory `name` this layer has not made: 1 when something is left, 0, or -1."""
    cdef sys.dirent* entry
    cdef unsigned long inode
    cdef int fd, left, kept = 0
    cdef sys.DIR* listing = _list(m, parent, name, depth, &inode)
    if listing == NULL:
        return -1
    fd = sys.dirfd(listing)
    while kept >= 0:
        entry = sys.readdir(listing)
        if entry == NULL:
            break
        if sys.strcmp(entry.d_name, b".") != 0 and sys.strcmp(entry.d_name, b"..") != 0:
            left = _prune_entry(m, fd, inode, entry.d_name, depth)
            kept = left if left < 0 else kept or left
    _closedir(listing)
    return kept


cdef int _prune_entry(Machine* m, int folder, unsigned long inode, const char* name, int depth) noexcept nogil:
    """The same for one `name` in `folder`, whose inode number is `inode`."""
    cdef sys.stat_t info
    cdef bint made = _is_marked(m, inode, name)
    cdef int left
    if sys.fstatat(folder, name, &info, sys.AT_SYMLINK_NOFOLLOW) < 0:
        return -1
    if not sys.S_ISDIR(info.st_mode):
        return 1 if made else sys.unlinkat(folder, name, 0)
    left = _prune(m, folder, name, depth + 1)
    if left:
        return left
    return 1 if made else sys.unlinkat(folder, name, sys.AT_REMOVEDIR)


cdef int _remove(Machine* m, int folder, const char* name, int depth) noexcept nogil:
    """Remove the tree `name`; a mount in it is EBUSY."""
    cdef sys.DIR* listing
    cdef sys.dirent* entry
    cdef unsigned long inode
    cdef int result = 0
    if sys.unlinkat(folder, name, 0) == 0:
        return 0
    if sys.errno != sys.EISDIR and sys.errno != sys.EPERM:
        return -1
    listing = _list(m, folder, name, depth, &inode)
    if listing == NULL:
        return -1
    while result == 0:
        entry = sys.readdir(listing)
        if entry == NULL:
            break
        if sys.strcmp(entry.d_name, b".") != 0 and sys.strcmp(entry.d_name, b"..") != 0:
            result = _remove(m, sys.dirfd(listing), entry.d_name, depth + 1)
    _closedir(listing)
    return result if result < 0 else sys.unlinkat(folder, name, sys.AT_REMOVEDIR)


cdef sys.DIR* _list(Machine* m, int parent, const char* name, int depth, unsigned long* inode) noexcept nogil:
    """The directory `name`, to be read, and its inode number; NULL and errno. What is mounted is EBUSY. Every level
    takes stack and a descriptor, and links let a layer make more levels than a path has: hence a bound."""
    cdef sys.stat_t info
    cdef sys.DIR* listing
    cdef int fd
    if depth >= DEPTH:
        _malformed(m, b"a tree to remove that is too deep")
        return NULL
    fd = sys.openat(parent, name, sys.O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW | sys.O_CLOEXEC)
    if fd < 0:
        return NULL
    if sys.fstat(fd, &info) < 0 or info.st_dev != m.device:
        sys.errno = sys.EBUSY
        _shut(&fd)
        return NULL
    inode[0] = info.st_ino
    listing = sys.fdopendir(fd)
    if listing == NULL:
        _shut(&fd)
    return listing


# What was done.

cdef void _later(Machine* m, int fd, const char* path) noexcept nogil:
    """Note a directory's times, for the end."""
    cdef sys.stat_t info
    cdef Times* grown
    cdef Times* last
    cdef size_t size = sys.strlen(path) + 1
    if sys.fstat(fd, &info) < 0:
        _system(m)
        return
    if m.folder_count:
        last = &m.folders[m.folder_count - 1]
        if last.inode == info.st_ino and sys.strcmp(last.path, path) == 0:
            last.times[0], last.times[1] = m.times[0], m.times[1]
            return
    m.noted += size + sizeof(Times)
    if m.noted > NOTES:
        _malformed(m, b"more directories than we keep in mind")
        return
    if m.folder_count == m.folder_room:
        m.folder_room = m.folder_room * 2 if m.folder_room else 64
        grown = <Times*>sys.realloc(m.folders, m.folder_room * sizeof(Times))
        if grown == NULL:
            sys.errno = sys.ENOMEM
            _system(m)
            return
        m.folders = grown
    m.folders[m.folder_count].path = <char*>sys.malloc(size)
    if m.folders[m.folder_count].path == NULL:
        sys.errno = sys.ENOMEM
        _system(m)
        return
    sys.memcpy(m.folders[m.folder_count].path, path, size)
    m.folders[m.folder_count].inode = info.st_ino
    m.folders[m.folder_count].times[0] = m.times[0]
    m.folders[m.folder_count].times[1] = m.times[1]
    m.folder_count += 1


cdef void _set_folder_times(Machine* m) noexcept nogil:
    """Of every directory that is still the one it was; a later entry of one comes later, and so counts."""
    cdef sys.stat_t info
    cdef size_t at
    cdef int fd
    for at in range(m.folder_count):
        fd = _open_in_root(m, m.folders[at].path, sys.O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW)
        if fd < 0:
            continue
        if sys.fstat(fd, &info) == 0 and info.st_ino == m.folders[at].inode:
            if sys.futimens(fd, m.folders[at].times) < 0:
                _system(m)
        _shut(&fd)


cdef void _account(Machine* m, int fd) noexcept nogil:
    cdef sys.stat_t info
    if sys.fstat(fd, &info) == 0:
        m.inodes += 1
        m.bytes_ += info.st_blocks * 512


cdef void _mark(Machine* m, int parent, const char* name) noexcept nogil:
    """This layer has made `name` in `parent`."""
    cdef Names grown
    cdef sys.stat_t info
    cdef size_t at
    if sys.fstat(parent, &info) < 0:
        _system(m)
        return
    if m.made.used * 2 >= m.made.size:
        grown.seed = m.made.seed
        grown.size = m.made.size * 2 if m.made.size else 256
        grown.used = 0
        grown.slots = <unsigned long*>sys.calloc(grown.size, sizeof(unsigned long))
        if grown.slots == NULL:
            sys.errno = sys.ENOMEM
            _system(m)
            return
        for at in range(m.made.size):
            if m.made.slots[at]:
                _put(&grown, m.made.slots[at])
        sys.free(m.made.slots)
        m.made = grown
    _put(&m.made, _hash(m.made.seed, info.st_ino, name))


cdef bint _is_marked(Machine* m, unsigned long folder, const char* name) noexcept nogil:
    cdef unsigned long key = _hash(m.made.seed, folder, name)
    cdef size_t at
    if m.made.size == 0:
        return False
    at = _home(&m.made, key)
    while m.made.slots[at]:
        if m.made.slots[at] == key:
            return True
        at = (at + 1) % m.made.size
    return False


cdef void _put(Names* set_, unsigned long key) noexcept nogil:
    cdef size_t at = _home(set_, key)
    while set_.slots[at]:
        if set_.slots[at] == key:
            return
        at = (at + 1) % set_.size
    set_.slots[at] = key
    set_.used += 1


cdef size_t _home(const Names* set_, unsigned long key) noexcept nogil:
    """The slot where the search for `key` begins: by the product's high bits, the only ones all of the key reaches."""
    return (key * SPREAD >> 32) % set_.size


cdef unsigned long _hash(unsigned long seed, unsigned long folder, const char* name) noexcept nogil:
    """FNV-1a's step over the name, from the directory on; never 0. One collision in 2**64 keeps a file of the image's
    own that should have gone: no harm to anyone."""
    cdef unsigned long key = (folder ^ seed) * SPREAD
    while name[0]:
        key = (key ^ <unsigned char>name[0]) * FNV
        name += 1
    return key | 1


# Faults: the first one counts.

cdef bint _malformed(Machine* m, const char* what) noexcept nogil:
    if m.fault == NO_FAULT:
        m.fault, m.what = MALFORMED, what
    return False


cdef void _system(Machine* m) noexcept nogil:
    if m.fault == NO_FAULT:
        m.fault, m.number = SYSTEM, sys.errno


cdef void _shut(int* fd) noexcept nogil:
    cdef int number = sys.errno
    if fd[0] >= 0:
        sys.close(fd[0])
    fd[0] = -1
    sys.errno = number


cdef void _closedir(sys.DIR* listing) noexcept nogil:
    cdef int number = sys.errno
    sys.closedir(listing)
    sys.errno = number
