# One entry of a tar archive as its headers describe it: ustar or GNU header, GNU long names, pax records, maps of
# sparse files. Pure: bytes in, fields out. What is wrong is said by a text; NULL means that nothing is.
#
# POSIX.1-2017, pax: "pax Extended Header"; GNU tar manual, "Storing Sparse Files".

from pyx cimport sys
from pyx cimport tarfmt

cdef extern from *:
    """
    #define PYX_UINT32 0xFFFFFFFFLL
    #define PYX_SECONDS 922337203685477579LL
    """
    const long long UINT32 "PYX_UINT32"      # the highest id, device number
    const long SECONDS "PYX_SECONDS"         # a tenth of the highest time

cdef enum:
    PATH = 4096          # bytes of a name or link target, NUL included (PATH_MAX)
    XATTRS = 256         # extended attributes of one entry
    PIECES = 1 << 18     # of one sparse file

cdef enum Sparse:
    WHOLE                # not sparse
    MAPPED               # `pieces` say where the body goes
    MAP_IN_BODY          # they come first in the body (pax, version 1.0)

cdef struct Xattr:
    const char* name
    const char* value
    size_t size

cdef struct Piece:       # of a sparse file
    long long at
    long long size

cdef struct Entry:
    char name[PATH]
    char link[PATH]
    bint long_name, long_link, pax_size, pax_uid, pax_gid, pax_mtime, pax_atime, sparse_name  # given before the header
    long long size, mode, uid, gid, major, minor
    sys.timespec times[2]                    # of access, of change
    unsigned char type                       # as in the header; "0" for any regular file
    Xattr xattrs[XATTRS]
    int xattr_count
    Sparse sparse
    long long sparse_major, real_size
    Piece* pieces
    size_t piece_count, piece_room


cdef inline void forget(Entry* entry) noexcept nogil:
    """What was given before an entry's header is for it alone."""
    entry.long_name = entry.long_link = entry.pax_size = entry.pax_uid = entry.pax_gid = False
    entry.pax_mtime = entry.pax_atime = entry.sparse_name = False
    entry.sparse, entry.sparse_major, entry.real_size = WHOLE, 0, -1
    entry.piece_count = 0
    entry.xattr_count = 0


cdef inline void dispose(Entry* entry) noexcept nogil:
    sys.free(entry.pieces)
    entry.pieces = NULL


# The header.

cdef inline void own_name(Entry* entry, const unsigned char* block) noexcept nogil:
    """The header's own: in ustar (not in GNU's variant) behind a prefix."""
    cdef size_t at = 0
    if block[tarfmt.PREFIX_AT] != 0 and sys.strncmp(<char*>block + tarfmt.MAGIC_AT, b"ustar", 6) == 0:
        while at < tarfmt.PREFIX_SIZE and block[tarfmt.PREFIX_AT + at] != 0:
            entry.name[at] = <char>block[tarfmt.PREFIX_AT + at]
            at += 1
        entry.name[at] = c"/"
        at += 1
    sys.memcpy(entry.name + at, block + tarfmt.NAME_AT, tarfmt.NAME_SIZE)
    entry.name[at + tarfmt.NAME_SIZE] = 0


cdef inline const char* read_header(Entry* entry, const unsigned char* block) noexcept nogil:
    """All fields but name, type and size, which decide whether there is an entry at all."""
    cdef long long mtime
    cdef bint slash
    if not entry.long_link:
        sys.memcpy(entry.link, block + tarfmt.LINK_AT, tarfmt.LINK_SIZE)
        entry.link[tarfmt.LINK_SIZE] = 0
    if not tarfmt.number(block + tarfmt.MODE_AT, 8, &entry.mode):
        return b"a mode that is none"
    entry.mode &= 0o7777
    if not entry.pax_uid and not tarfmt.number(block + tarfmt.UID_AT, 8, &entry.uid):
        return b"a user id that is none"
    if not entry.pax_gid and not tarfmt.number(block + tarfmt.GID_AT, 8, &entry.gid):
        return b"a group id that is none"
    if not 0 <= entry.uid < UINT32 or not 0 <= entry.gid < UINT32:  # chown(2) takes the highest for "as it is"
        return b"a user or group id out of range"
    if not entry.pax_mtime:
        if not tarfmt.number(block + tarfmt.MTIME_AT, 12, &mtime):
            return b"a time that is none"
        entry.times[1].tv_sec, entry.times[1].tv_nsec = mtime, 0
    if not entry.pax_atime or entry.times[0].tv_sec < entry.times[1].tv_sec:
        entry.times[0] = entry.times[1]
    entry.major = entry.minor = 0
    if entry.type in (c"3", c"4"):
        if not tarfmt.number(block + tarfmt.MAJOR_AT, 8, &entry.major) or not 0 <= entry.major <= UINT32:
            return b"a device number out of range"
        if not tarfmt.number(block + tarfmt.MINOR_AT, 8, &entry.minor) or not 0 <= entry.minor <= UINT32:
            return b"a device number out of range"
    slash = entry.name[0] != 0 and entry.name[sys.strlen(entry.name) - 1] == c"/"
    if entry.type == 0 and slash:
        entry.type = c"5"  # as V7 wrote directories
        if entry.size:
            return b"a directory with a body"
    if entry.type == 0 or entry.type == c"7" or entry.type == c"S":
        entry.type = c"0"
    if entry.type not in (c"0", c"1", c"2", c"3", c"4", c"5", c"6"):
        return b"an entry of a type that is unknown"
    return NULL


# pax records.

cdef inline const char* read_records(Entry* entry, char* at, size_t left) noexcept nogil:
    """Records `LENGTH KEY=VALUE\\n`; `at` is changed, and must outlive the entry's attributes."""
    cdef size_t length, digits, key
    cdef const char* wrong
    while left:
        length = digits = 0
        while digits < left and c"0" <= at[digits] <= c"9" and length <= left:
            length = length * 10 + (at[digits] - c"0")
            digits += 1
        if digits == 0 or digits >= left or at[digits] != c" " or length > left or length < digits + 4:
            return b"a pax record of a wrong length"
        if at[length - 1] != c"\n":
            return b"a pax record without its newline"
        at[length - 1] = 0
        key = digits + 1
        while key < length and at[key] != c"=":
            key += 1
        if key == length:
            return b"a pax record without '='"
        at[key] = 0
        if sys.strlen(at + digits + 1) < key - digits - 1:
            return b"a pax key with a NUL in it"
        wrong = _record(entry, at + digits + 1, at + key + 1, length - 1 - (key + 1))
        if wrong != NULL:
            return wrong
        at += length
        left -= length
    return NULL


cdef inline const char* _record(Entry* entry, const char* key, const char* value, size_t size) noexcept nogil:
    if sys.strncmp(key, b"SCHILY.xattr.", 13) == 0:
        if entry.xattr_count == XATTRS:
            return b"more extended attributes than we take"
        entry.xattrs[entry.xattr_count] = Xattr(key + 13, value, size)
        entry.xattr_count += 1
    elif sys.strncmp(key, b"GNU.sparse.", 11) == 0:
        return _sparse_record(entry, key + 11, value, size)
    elif sys.strcmp(key, b"path") == 0:
        if not entry.sparse_name:
            return _path(entry.name, &entry.long_name, value, size)
    elif sys.strcmp(key, b"linkpath") == 0:
        return _path(entry.link, &entry.long_link, value, size)
    elif sys.strcmp(key, b"size") == 0:
        return _decimal(&entry.size, &entry.pax_size, value, size)
    elif sys.strcmp(key, b"uid") == 0:
        return _decimal(&entry.uid, &entry.pax_uid, value, size)
    elif sys.strcmp(key, b"gid") == 0:
        return _decimal(&entry.gid, &entry.pax_gid, value, size)
    elif sys.strcmp(key, b"mtime") == 0:
        return _moment(&entry.times[1], &entry.pax_mtime, value, size)
    elif sys.strcmp(key, b"atime") == 0:
        return _moment(&entry.times[0], &entry.pax_atime, value, size)
    return NULL


cdef inline const char* _path(char* to, bint* given, const char* value, size_t size) noexcept nogil:
    """An empty one means that the header's own counts."""
    if sys.strlen(value) != size:
        return b"a pax path with a NUL in it"
    if size >= PATH:
        return b"a path of 4096 bytes or more"
    sys.memcpy(to, value, size + 1)
    given[0] = size != 0
    return NULL


cdef inline const char* _decimal(long long* to, bint* given, const char* value, size_t size) noexcept nogil:
    cdef size_t at
    to[0] = 0
    for at in range(size):
        if not c"0" <= value[at] <= c"9" or at > 18:
            return b"a pax number that is none, or out of range"
        to[0] = to[0] * 10 + (value[at] - c"0")
        if to[0] < 0:
            return b"a pax number that is none, or out of range"
    given[0] = size != 0
    return NULL


cdef inline const char* _moment(sys.timespec* to, bint* given, const char* value, size_t size) noexcept nogil:
    """Seconds since the epoch, with a fraction; negative ones count down from it."""
    cdef size_t at = 0
    cdef long scale = 100000000
    cdef bint negative = False
    cdef long seconds = 0, nanoseconds = 0
    if size and value[0] == c"-":
        negative, at = True, 1
    while at < size and c"0" <= value[at] <= c"9":
        if seconds > SECONDS:
            return b"a pax time that is out of range"
        seconds = seconds * 10 + (value[at] - c"0")
        at += 1
    if at < size and value[at] == c".":
        at += 1
        while at < size and c"0" <= value[at] <= c"9":
            nanoseconds += (value[at] - c"0") * scale
            scale //= 10
            at += 1
    if at != size:
        return b"a pax time that is none"
    if negative:
        seconds = -seconds - (1 if nanoseconds else 0)
        nanoseconds = 1000000000 - nanoseconds if nanoseconds else 0
    to.tv_sec, to.tv_nsec = seconds, nanoseconds
    given[0] = size != 0
    return NULL


# Sparse files: old GNU (a map in the header and in blocks behind it) and pax 0.0, 0.1 and 1.0.

cdef inline const char* _sparse_record(Entry* entry, const char* key, const char* value, size_t size) noexcept nogil:
    cdef long long number
    cdef bint given = False
    cdef const char* wrong
    if sys.strcmp(key, b"name") == 0:
        wrong = _path(entry.name, &entry.long_name, value, size)
        entry.sparse_name = entry.long_name
        return wrong
    if sys.strcmp(key, b"map") == 0:
        entry.sparse, entry.piece_count = MAPPED, 0
        return _sparse_map(entry, value, size)
    wrong = _decimal(&number, &given, value, size)
    if wrong != NULL or not given:
        return b"a number of a sparse file that is none"
    if sys.strcmp(key, b"major") == 0:
        entry.sparse_major = number
        if number > 1:
            return b"a sparse file of a version that is unknown"
        if number == 1:
            entry.sparse = MAP_IN_BODY
    elif sys.strcmp(key, b"size") == 0 or sys.strcmp(key, b"realsize") == 0:
        entry.real_size = number
        if entry.sparse == WHOLE:
            entry.sparse = MAPPED
    elif sys.strcmp(key, b"offset") == 0:
        entry.sparse = MAPPED
        return add_piece(entry, number, 0)
    elif sys.strcmp(key, b"numbytes") == 0:
        if entry.piece_count == 0:
            return b"a piece of a sparse file that begins nowhere"
        entry.pieces[entry.piece_count - 1].size = number
    return NULL


cdef inline const char* _sparse_map(Entry* entry, const char* value, size_t size) noexcept nogil:
    """Offsets and sizes in turn, separated by commas."""
    cdef size_t at = 0, begin
    cdef long long numbers[2]
    cdef int turn = 0
    cdef bint given
    cdef const char* wrong
    while at < size:
        begin = at
        while at < size and value[at] != c",":
            at += 1
        given = False
        wrong = _decimal(&numbers[turn], &given, value + begin, at - begin)
        if wrong != NULL or not given:
            return b"a map of a sparse file that is none"
        if turn:
            wrong = add_piece(entry, numbers[0], numbers[1])
            if wrong != NULL:
                return wrong
        turn = 1 - turn
        at += 1
    if turn:
        return b"a map of a sparse file that is none"
    return NULL


cdef inline const char* add_piece(Entry* entry, long long at, long long size) noexcept nogil:
    cdef Piece* grown
    cdef size_t room
    if entry.piece_count == PIECES:
        return b"a sparse file of more pieces than we take"
    if entry.piece_count == entry.piece_room:
        room = entry.piece_room * 2 if entry.piece_room else 64
        grown = <Piece*>sys.realloc(entry.pieces, room * sizeof(Piece))
        if grown == NULL:
            return b"a sparse file of more pieces than there is memory for"
        entry.pieces, entry.piece_room = grown, room
    entry.pieces[entry.piece_count] = Piece(at, size)
    entry.piece_count += 1
    return NULL


cdef inline const char* old_sparse(Entry* entry, const unsigned char* fields, int count) noexcept nogil:
    """`count` pairs of offset and size, 12 bytes each number, as in an old GNU header or the blocks behind it."""
    cdef long long at, size
    cdef int turn
    cdef const char* wrong
    for turn in range(count):
        if fields[24 * turn] == 0:
            return NULL
        if not tarfmt.number(fields + 24 * turn, 12, &at) or not tarfmt.number(fields + 24 * turn + 12, 12, &size):
            return b"a piece of a sparse file that is none"
        wrong = add_piece(entry, at, size)
        if wrong != NULL:
            return wrong
    return NULL


cdef inline const char* check_pieces(const Entry* entry, long long stored) noexcept nogil:
    """They come in order, lie inside the file, and are as long as what is stored."""
    cdef long long end = 0
    cdef size_t turn
    if entry.real_size < 0:
        return b"a sparse file without its size"
    for turn in range(entry.piece_count):
        if entry.pieces[turn].at < end or entry.pieces[turn].size < 0:
            return b"a sparse file whose pieces are out of order"
        if entry.pieces[turn].size > entry.real_size - entry.pieces[turn].at:
            return b"a sparse file with a piece behind its end"
        end = entry.pieces[turn].at + entry.pieces[turn].size
        stored -= entry.pieces[turn].size
    if stored:
        return b"a sparse file whose pieces are not what is stored"
    return NULL


# Paths.

cdef inline void clean(const char* name, char* path) noexcept nogil:
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


cdef inline size_t base_at(const char* path) noexcept nogil:
    """Where the last part of a path begins."""
    cdef size_t at = sys.strlen(path)
    while at and path[at - 1] != c"/":
        at -= 1
    return at
