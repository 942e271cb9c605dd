"""Tar bytes onto a tree, in C without the GIL: a machine that is fed and never reads ahead.

What the archive says is read by `tarentry`, what comes of it is made by `treewrite` and `whiteout`. Every entry's
parent is resolved below the root descriptor (see `tree`): no path that an earlier entry could have changed is ever
trusted, and none leaves the root.
"""

import os

from pyx cimport sys
from pyx cimport tarentry
from pyx cimport tarfmt
from pyx.fault cimport ENTANGLED, EXCEEDED, fail, MALFORMED, NO_FAULT, SYSTEM, system, TRUNCATED
from pyx.tarentry cimport Entry, MAP_IN_BODY, MAPPED, PATH, Piece
from pyx.tree cimport (
    AS_OVERLAY, BY_DELETION, EARLY, HIDING, IMPLIED, NOTHING_BELOW, set_times, shut, Tree, tree_begin, tree_end,
)
from pyx.treewrite cimport finish_file, make

cdef enum Expecting:
    A_HEADER
    A_SPARSE_BLOCK       # more of an old GNU header
    A_SPARSE_MAP         # lines of numbers before a sparse file's body
    A_BODY               # of a regular file: written
    A_META               # of a pax or GNU header: collected
    NOTHING              # of what has a body that means nothing: skipped
    THE_END              # drained

cdef struct Owners:      # ids from `inside` on are `outside` on
    long long inside
    long long outside
    long long length

cdef struct Machine:
    Expecting expecting
    Tree tree
    Entry entry          # under way
    unsigned char block[512]
    size_t in_block
    bint zero_seen
    bint started         # by a pax or GNU header
    char* meta
    size_t in_meta, meta_room
    char* pax            # the pax body that the entry's attributes point into
    size_t pax_room
    # its body
    int fd
    long long left, padding
    bint in_padding      # some writers leave out the last block's: that is no loss
    size_t piece         # of a sparse file
    long long piece_done
    long long map_count, map_number, map_read  # numbers of a map in the body: announced, being read, read
    size_t map_digits
    # bounds
    unsigned long long entries, most_entries
    long long most_meta
    Owners* users
    Owners* groups
    size_t user_count, group_count


class Malformed(ValueError):
    """The archive breaks the format's rules or ours; `entry` is the name it happened at, as bytes."""

    entry = b""


class Truncated(EOFError):
    """The archive ends in the middle of something."""

    entry = b""


class Exceeded(ValueError):
    """The archive goes beyond a bound."""

    entry = b""


class Entangled(ValueError):
    """The archive cannot be unpacked without the layers below."""

    entry = b""


cdef class Unpacker:
    """Unpacks one archive below the directory `root_fd`, which stays the caller's.

    What the layer hides is deleted; with `opaque`, which is "trusted.overlay.opaque" or "user.overlay.opaque", it is
    written down as overlayfs does, and the root is an upper directory that must be empty.

    `users` and `groups` are triples (inside, outside, length) as in a user namespace's map: an archive's owner is
    shifted by the one it is in, and one in none of them is Malformed. None at all shifts nothing.

    `feed` any number of times, then `finish`; `close` frees, and is safe at any time. Any chunking gives the same
    result.
    """

    cdef Machine* machine
    cdef bytes opaque

    def __cinit__(self, int root_fd, opaque="", users=(), groups=(), unsigned long long entries=1 << 22,
                  long long meta=1 << 20):
        self.machine = <Machine*>sys.calloc(1, sizeof(Machine))
        if self.machine == NULL:
            raise MemoryError
        self.machine.fd = -1
        tree_begin(&self.machine.tree, root_fd)
        tarentry.forget(&self.machine.entry)
        self.opaque = opaque.encode()
        if self.opaque:
            self.machine.tree.form, self.machine.tree.opaque = AS_OVERLAY, self.opaque
        else:
            with os.scandir(root_fd) as listing:
                self.machine.tree.form = NOTHING_BELOW if next(listing, None) is None else BY_DELETION
        self.machine.tree.seed = int.from_bytes(os.urandom(8), "little")
        self.machine.most_entries, self.machine.most_meta = entries, meta
        self.machine.users, self.machine.user_count = _owners(users), len(users)
        self.machine.groups, self.machine.group_count = _owners(groups), len(groups)

    def __dealloc__(self):
        self.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def feed(self, const unsigned char[::1] data):
        """More of the archive. Malformed, Exceeded, Entangled; OSError, whose filename is the entry's name."""
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
        return self.machine.tree.bytes_, self.machine.tree.inodes

    def implied(self):
        """Directories whose meaning depends on the layers below, as pairs (path, whether they are to be as the one
        below): those without an entry, or whose entry came late, and those with whiteouts in them. Of an overlay's
        upper directory only."""
        self._alive()
        found = []
        for at in range(self.machine.tree.note_count):
            if self.machine.tree.notes[at].flags & (IMPLIED | HIDING | EARLY):
                found.append((<bytes>self.machine.tree.notes[at].path,
                              self.machine.tree.notes[at].flags & IMPLIED != 0))
        return sorted(found)

    def dropped(self):
        """How many extended attributes the filesystem did not take."""
        self._alive()
        return self.machine.tree.dropped

    def close(self):
        """Free everything; an archive that was not finished leaves what it has written."""
        if self.machine == NULL:
            return
        shut(&self.machine.fd)
        tree_end(&self.machine.tree)
        tarentry.dispose(&self.machine.entry)
        sys.free(self.machine.meta)
        sys.free(self.machine.pax)
        sys.free(self.machine.users)
        sys.free(self.machine.groups)
        sys.free(self.machine)
        self.machine = NULL

    cdef _alive(self):
        if self.machine == NULL:
            raise ValueError("the unpacker is closed")

    cdef _check(self):
        cdef Machine* m = self.machine
        if m.tree.fault.kind == NO_FAULT:
            return
        entry = <bytes>m.entry.name
        if m.tree.fault.kind == SYSTEM:
            raise OSError(m.tree.fault.number, os.strerror(m.tree.fault.number), os.fsdecode(entry))
        kind = {MALFORMED: Malformed, TRUNCATED: Truncated, EXCEEDED: Exceeded, ENTANGLED: Entangled}
        error = kind[m.tree.fault.kind](m.tree.fault.what.decode())
        error.entry = entry
        raise error


cdef Owners* _owners(triples) except? NULL:
    cdef Owners* made
    if not triples:
        return NULL
    made = <Owners*>sys.malloc(len(triples) * sizeof(Owners))
    if made == NULL:
        raise MemoryError
    for at, (inside, outside, length) in enumerate(triples):
        made[<size_t>at] = Owners(inside, outside, length)
    return made


# The machine.

cdef void _feed(Machine* m, const unsigned char* data, size_t size) noexcept nogil:
    cdef size_t used
    while size and m.tree.fault.kind == NO_FAULT:
        if m.expecting == A_HEADER or m.expecting == A_SPARSE_BLOCK:
            used = _take_block(m, data, size)
        elif m.expecting == A_BODY:
            used = _take_body(m, data, size)
        elif m.expecting == A_META:
            used = _take_meta(m, data, size)
        elif m.expecting == NOTHING:
            used = _skip(m, size)
        elif m.expecting == A_SPARSE_MAP:
            used = _take_map(m, data, size)
        else:
            return
        data += used
        size -= used


cdef size_t _take_block(Machine* m, const unsigned char* data, size_t size) noexcept nogil:
    cdef size_t used = min(size, tarfmt.BLOCK - m.in_block)
    if used == tarfmt.BLOCK:
        _block(m, data)
        return used
    sys.memcpy(m.block + m.in_block, data, used)
    m.in_block += used
    if m.in_block == tarfmt.BLOCK:
        m.in_block = 0
        _block(m, m.block)
    return used


cdef void _block(Machine* m, const unsigned char* block) noexcept nogil:
    if m.expecting == A_HEADER:
        _header(m, block)
    else:
        _sparse_block(m, block)


cdef size_t _take_body(Machine* m, const unsigned char* data, size_t size) noexcept nogil:
    cdef size_t used = <size_t>min(<long long>size, m.left)
    cdef bint written
    if m.entry.sparse:
        written = _write_pieces(m, data, used)
    else:
        written = _write(m.fd, data, used)
    if not written:
        system(&m.tree.fault)
        return used
    m.left -= used
    if m.left == 0:
        _end_file(m)
    return used


cdef bint _write(int fd, const unsigned char* data, size_t size) noexcept nogil:
    cdef ssize_t put
    while size:
        put = sys.write(fd, data, size)
        if put < 0:
            if sys.errno == sys.EINTR:
                continue
            return False
        data += put
        size -= put
    return True


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
        fail(&m.tree.fault, TRUNCATED, b"it ends in the middle of an entry")
        return
    set_times(&m.tree)


cdef void _wrong(Machine* m, const char* what) noexcept nogil:
    fail(&m.tree.fault, MALFORMED, what)


# Headers.

cdef void _header(Machine* m, const unsigned char* block) noexcept nogil:
    cdef long long size
    if tarfmt.is_zero(block):
        if m.started:
            _wrong(m, b"an extended header without the entry it is for")
        elif m.zero_seen:
            m.expecting = THE_END
        m.zero_seen = True
        return
    if m.zero_seen:
        _wrong(m, b"data after a single block of zeros")
        return
    if not m.entry.long_name:
        m.entry.name[0] = 0
    if not tarfmt.checksum(block):
        _wrong(m, b"a header whose checksum is wrong")
        return
    if not m.entry.long_name:
        tarentry.own_name(&m.entry, block)
    m.entry.type = block[tarfmt.TYPE_AT]
    if not tarfmt.number(block + tarfmt.SIZE_AT, 12, &size) or size < 0:
        _wrong(m, b"a size that is no size")
        return
    if m.entry.type in (c"x", c"L", c"K"):
        m.started = True
        _begin_meta(m, size)
    elif m.entry.type == c"g":
        _begin_skip(m, size)
    else:
        if not m.entry.pax_size:
            m.entry.size = size
        _entry(m, block)


cdef void _begin_meta(Machine* m, long long size) noexcept nogil:
    cdef char* grown
    if m.entry.type != c"x" and size > PATH:
        _wrong(m, b"a long name that is too long")
        return
    if size >= m.most_meta:
        fail(&m.tree.fault, EXCEEDED, b"an extended header that is too long")
        return
    if <size_t>size >= m.meta_room:
        grown = <char*>sys.realloc(m.meta, size + 1)
        if grown == NULL:
            sys.errno = sys.ENOMEM
            system(&m.tree.fault)
            return
        m.meta, m.meta_room = grown, size + 1
    m.in_meta = 0
    m.left, m.padding = size, _pad(size)
    m.expecting = A_META
    if size == 0:
        _wrong(m, b"an empty extended header")


cdef void _begin_skip(Machine* m, long long size) noexcept nogil:
    m.left, m.padding = size, _pad(size)
    m.in_padding = False
    m.expecting = NOTHING if size else A_HEADER


cdef long long _pad(long long size) noexcept nogil:
    return -size & (tarfmt.BLOCK - 1)


cdef void _meta(Machine* m) noexcept nogil:
    """A collected body: GNU's long name or link, or pax records."""
    cdef const char* wrong
    if m.entry.type == c"x":
        m.pax, m.meta = m.meta, m.pax
        m.pax_room, m.meta_room = m.meta_room, m.pax_room
        m.entry.xattr_count = 0
        wrong = tarentry.read_records(&m.entry, m.pax, m.in_meta)
        if wrong != NULL:
            _wrong(m, wrong)
        return
    if sys.strlen(m.meta) + 1 < m.in_meta or sys.strlen(m.meta) >= PATH:
        _wrong(m, b"a long name that is too long, or has a NUL in it")
    elif m.entry.type == c"L":
        sys.memcpy(m.entry.name, m.meta, sys.strlen(m.meta) + 1)
        m.entry.long_name = True
    else:
        sys.memcpy(m.entry.link, m.meta, sys.strlen(m.meta) + 1)
        m.entry.long_link = True


cdef void _entry(Machine* m, const unsigned char* block) noexcept nogil:
    """The header of something to be made, all that comes before it being read."""
    cdef bint old_sparse = m.entry.type == c"S"
    cdef const char* wrong = tarentry.read_header(&m.entry, block)
    if wrong == NULL and old_sparse:
        m.entry.sparse, m.entry.piece_count = MAPPED, 0
        wrong = tarentry.old_sparse(&m.entry, block + tarfmt.SPARSE_AT, 4)
        if not tarfmt.number(block + tarfmt.REAL_SIZE_AT, 12, &m.entry.real_size):
            wrong = b"a sparse file without its size"
    if wrong != NULL:
        _wrong(m, wrong)
    elif old_sparse and block[tarfmt.SPARSE_MORE_AT]:
        m.expecting = A_SPARSE_BLOCK
        m.started = True
    else:
        _make(m)


cdef void _sparse_block(Machine* m, const unsigned char* block) noexcept nogil:
    cdef const char* wrong = tarentry.old_sparse(&m.entry, block, tarfmt.SPARSE_PAIRS)
    if wrong != NULL:
        _wrong(m, wrong)
    elif not block[tarfmt.BLOCK_MORE_AT]:
        _make(m)


cdef void _make(Machine* m) noexcept nogil:
    """All of the entry's headers are read."""
    m.started = False
    m.entries += 1
    if m.entries > m.most_entries:
        fail(&m.tree.fault, EXCEEDED, b"more entries than a layer may have")
        return
    if not _shift(m.users, m.user_count, &m.entry.uid) or not _shift(m.groups, m.group_count, &m.entry.gid):
        _wrong(m, b"an owner that is in no map")
        return
    if m.entry.type != c"0":
        m.entry.sparse = tarentry.WHOLE
        m.entry.size = 0
    if m.entry.sparse == MAPPED:
        _check_pieces(m, m.entry.size)
        if m.tree.fault.kind != NO_FAULT:
            return
    elif m.entry.sparse == MAP_IN_BODY and m.entry.size == 0:
        _wrong(m, b"a sparse file without its map")
        return
    _begin_skip(m, m.entry.size)
    m.fd = make(&m.tree, &m.entry)
    if m.fd < 0:
        tarentry.forget(&m.entry)
        return
    m.piece, m.piece_done = 0, 0
    m.map_count, m.map_number, m.map_read, m.map_digits = -1, 0, 0, 0
    m.expecting = A_SPARSE_MAP if m.entry.sparse == MAP_IN_BODY else A_BODY
    if m.left == 0 and m.expecting == A_BODY:
        _end_file(m)


cdef bint _shift(const Owners* maps, size_t count, long long* id) noexcept nogil:
    cdef size_t at
    for at in range(count):
        if maps[at].inside <= id[0] < maps[at].inside + maps[at].length:
            id[0] += maps[at].outside - maps[at].inside
            return True
    return count == 0


cdef void _end_file(Machine* m) noexcept nogil:
    if m.entry.sparse and sys.ftruncate(m.fd, m.entry.real_size) < 0:
        system(&m.tree.fault)
    finish_file(&m.tree, &m.entry, m.fd)
    shut(&m.fd)
    if m.tree.fault.kind == NO_FAULT:
        tarentry.forget(&m.entry)
    _then_pad(m)


# Sparse files.

cdef void _check_pieces(Machine* m, long long stored) noexcept nogil:
    cdef const char* wrong = tarentry.check_pieces(&m.entry, stored)
    if wrong != NULL:
        _wrong(m, wrong)


cdef bint _write_pieces(Machine* m, const unsigned char* data, size_t size) noexcept nogil:
    """What is stored, to where it belongs."""
    cdef Piece* piece
    cdef ssize_t put
    cdef size_t part
    while size:
        piece = &m.entry.pieces[m.piece]
        if m.piece_done == piece.size:
            m.piece += 1
            m.piece_done = 0
            continue
        part = <size_t>min(<long long>size, piece.size - m.piece_done)
        put = sys.pwrite(m.fd, data, part, piece.at + m.piece_done)
        if put < 0:
            if sys.errno == sys.EINTR:
                continue
            return False
        data += put
        size -= put
        m.piece_done += put
    return True


cdef size_t _take_map(Machine* m, const unsigned char* data, size_t size) noexcept nogil:
    """Numbers, one a line: how many pieces, then offset and size of each; up to a block's end."""
    cdef size_t used = 0
    while used < size and m.left > 0 and m.map_read != 2 * m.map_count:
        _map_byte(m, data[used])
        used += 1
        m.left -= 1
        if m.tree.fault.kind != NO_FAULT:
            return used
    if m.map_read == 2 * m.map_count:  # the rest of its last block means nothing
        while used < size and m.left > 0 and (m.entry.size - m.left) & (tarfmt.BLOCK - 1):
            used += 1
            m.left -= 1
        if (m.entry.size - m.left) & (tarfmt.BLOCK - 1) == 0:
            _check_pieces(m, m.left)
            m.expecting = A_BODY
            if m.left == 0 and m.tree.fault.kind == NO_FAULT:
                _end_file(m)
            return used
    if m.left == 0:
        _wrong(m, b"a sparse file whose map does not end")
    return used


cdef void _map_byte(Machine* m, unsigned char byte) noexcept nogil:
    cdef const char* wrong = NULL
    if c"0" <= byte <= c"9" and m.map_digits < 18:
        m.map_number = m.map_number * 10 + (byte - c"0")
        m.map_digits += 1
        return
    if byte != c"\n" or m.map_digits == 0:
        _wrong(m, b"a map of a sparse file that is none")
        return
    if m.map_count < 0:
        m.map_count = m.map_number
        m.entry.piece_count = 0
    else:
        if m.map_read % 2 == 0:
            wrong = tarentry.add_piece(&m.entry, m.map_number, 0)
        else:
            m.entry.pieces[m.entry.piece_count - 1].size = m.map_number
        m.map_read += 1
    if wrong != NULL:
        _wrong(m, wrong)
    m.map_number, m.map_digits = 0, 0
