"""Figures of a cgroup in C, without the GIL: descriptors that stay open, one call for all files, no memory taken.

What is read is the user's plan; this knows the forms that the kernel writes numbers in (Documentation/admin-guide:
cgroup-v1 and cgroup-v2), and no file by its name. "max" is MAX. A number with a point is given in hundredths. A file
that is not there, or that cannot be read, and a key that a file does not have are None.
"""

from cpython.pythread cimport (
    PyThread_acquire_lock, PyThread_allocate_lock, PyThread_free_lock, PyThread_release_lock, PyThread_type_lock,
    WAIT_LOCK,
)
from libc.stdint cimport uint32_t, uint64_t

from pyx cimport sys
from pyx.err cimport failed, text

MAX = 0xFFFFFFFFFFFFFFFF

NUMBER = 0   # 123
LINES = 1    # key 123, or key name=123 name=123 whose keys are "key name"; keys that are asked for twice are summed
ROWS = 2     # of devices: label 123, label key 123, or label key=123 key=123: a tuple of (label, key, number)
NUMBERS = 3  # 123 123 123: a tuple
TEXT = 4     # without the newline at its end

cdef enum:
    FORM_NUMBER, FORM_LINES, FORM_ROWS, FORM_NUMBERS, FORM_TEXT
    ROOM = 32 << 10       # bytes of text at first; more than any file has on a host of some hundred processors
    AT_ONCE = 4 << 10     # a read that gives less has given all: these files are made in one piece
    FEW = 64              # rows at first

cdef struct Key:
    const char* text
    size_t size
    int value
    int same               # the next of the file's with this text, in a ring

cdef struct Row:
    uint32_t label_at      # in the text, as the key is
    uint32_t label_size
    uint32_t key_at
    uint32_t key_size
    uint64_t number

cdef struct File:
    int fd                 # -1: it is not there
    int form
    uint64_t scale
    Key* keys
    int count
    size_t text_at
    size_t text_size
    size_t rows_at
    size_t rows_end

cdef struct Machine:
    File* files
    int count
    uint64_t* numbers
    unsigned char* present
    int values
    char* text
    size_t room
    size_t used            # of what must be kept until the values are made
    Row* rows
    size_t rows_room
    size_t rows_used
    int living             # files that could be read, or not for another reason than that the cgroup is gone
    bint starved


cdef class Reader:
    """Of the files that `files` names, each (paths, form, keys, scale): the first of `paths` that is there is read in
    that `form`, and numbers are multiplied by `scale`. `keys` are (key, index among the values); but for LINES there is
    one, without a key. `values` is how many values there are.

    Any thread may read. Reading takes no descriptors and no memory, but for the values.
    """

    cdef Machine machine
    cdef PyThread_type_lock lock
    cdef list kept

    def __cinit__(self, files, int values):
        cdef Machine* m = &self.machine
        self.lock = PyThread_allocate_lock()
        m.values = values
        m.files = <File*>sys.calloc(len(files) or 1, sizeof(File))
        m.numbers = <uint64_t*>sys.calloc(values or 1, sizeof(uint64_t))
        m.present = <unsigned char*>sys.calloc(values or 1, 1)
        m.text, m.room = <char*>sys.malloc(ROOM), ROOM
        m.rows, m.rows_room = <Row*>sys.malloc(FEW * sizeof(Row)), FEW
        if not (self.lock and m.files and m.numbers and m.present and m.text and m.rows):
            raise MemoryError
        self.kept = []
        for paths, form, keys, scale in files:
            self._add(paths, form, keys, scale)

    cdef _add(self, paths, int form, keys, uint64_t scale):
        cdef Machine* m = &self.machine
        cdef File* file = &m.files[m.count]
        cdef bytes key
        file.fd, file.form, file.scale = -1, form, scale
        m.count += 1
        if not FORM_NUMBER <= form <= FORM_TEXT or (form != FORM_LINES and len(keys) != 1):
            raise ValueError(f"form {form} of {paths}")
        file.keys = <Key*>sys.calloc(len(keys) or 1, sizeof(Key))
        if file.keys == NULL:
            raise MemoryError
        for name, value in keys:
            if not 0 <= value < m.values:
                raise ValueError(f"value {value} of {paths}")
            key = name.encode()
            self.kept.append(key)
            file.keys[file.count].text, file.keys[file.count].size = key, len(key)
            file.keys[file.count].value = value
            _join(file)
            file.count += 1
        for path in paths:
            file.fd = _open(path)
            if file.fd >= 0:
                break

    def __dealloc__(self):
        cdef Machine* m = &self.machine
        cdef int i
        self._close()
        if m.files:
            for i in range(m.count):
                sys.free(m.files[i].keys)
        sys.free(m.files)
        sys.free(m.numbers)
        sys.free(m.present)
        sys.free(m.text)
        sys.free(m.rows)
        if self.lock:
            PyThread_free_lock(self.lock)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def close(self):
        """Let go of all files; every value is None from now on."""
        with nogil:
            PyThread_acquire_lock(self.lock, WAIT_LOCK)
        self._close()
        PyThread_release_lock(self.lock)

    cdef void _close(self):
        cdef int i
        for i in range(self.machine.count):
            if self.machine.files[i].fd >= 0:
                sys.close(self.machine.files[i].fd)
                self.machine.files[i].fd = -1

    def read(self):
        """All values, now. OSError (ENODEV) when the cgroup is gone."""
        cdef Machine* m = &self.machine
        with nogil:
            PyThread_acquire_lock(self.lock, WAIT_LOCK)
            _read(m)
        try:
            if m.starved:
                raise MemoryError
            if not m.living:
                raise failed(sys.ENODEV, None)
            return self._values()
        finally:
            PyThread_release_lock(self.lock)

    cdef tuple _values(self):
        cdef Machine* m = &self.machine
        cdef File* file
        cdef int i
        cdef list values = [m.numbers[i] if m.present[i] else None for i in range(m.values)]
        for i in range(m.count):
            file = &m.files[i]
            if file.form < FORM_ROWS or not m.present[file.keys[0].value]:
                continue
            values[file.keys[0].value] = _of_file(m, file)
        return tuple(values)


cdef void _join(File* file) noexcept nogil:
    """Put the last key into the ring of those of its text."""
    cdef Key* key = &file.keys[file.count]
    cdef int i
    key.same = file.count
    for i in range(file.count):
        if file.keys[i].size == key.size and sys.memcmp(file.keys[i].text, key.text, key.size) == 0:
            key.same = file.keys[i].same
            file.keys[i].same = file.count
            return


cdef object _of_file(Machine* m, File* file):
    """The value of a file whose form is more than numbers."""
    cdef Row* row
    cdef size_t i
    cdef list rows
    if file.form == FORM_TEXT:
        return m.text[file.text_at : file.text_at + file.text_size].decode()
    if file.form == FORM_NUMBERS:
        return tuple([m.rows[i].number for i in range(file.rows_at, file.rows_end)])
    rows = []
    for i in range(file.rows_at, file.rows_end):
        row = &m.rows[i]
        label = m.text[row.label_at : row.label_at + row.label_size].decode()
        key = m.text[row.key_at : row.key_at + row.key_size].decode()
        rows.append((label, key, row.number))
    return tuple(rows)


cdef int _open(object path) except -2:
    """A descriptor, or -1 when the file is not there."""
    cdef bytes encoded = text(path)
    cdef const char* at = encoded
    cdef int fd, number
    with nogil:
        fd = sys.open(at, sys.O_RDONLY | sys.O_CLOEXEC)
        number = sys.errno
    if fd < 0 and number in (sys.EMFILE, sys.ENFILE, sys.ENOMEM):
        raise failed(number, path)
    return fd


cdef void _read(Machine* m) noexcept nogil:
    cdef File* file
    cdef int i
    cdef ssize_t size
    m.used = m.rows_used = 0
    m.starved = False
    m.living = m.count == 0
    sys.memset(m.present, 0, m.values)
    for i in range(m.count):
        file = &m.files[i]
        if file.fd < 0:
            continue
        size = _fill(m, file.fd)
        m.living += size >= 0 or sys.errno != sys.ENODEV
        if size > 0:
            _parse(m, file, size)


cdef ssize_t _fill(Machine* m, int fd) noexcept nogil:
    """Put the whole file behind what is used of the text; its size, or -1."""
    cdef size_t size = 0
    cdef ssize_t got
    while True:
        if m.room - m.used - size < AT_ONCE and not _more_text(m):
            return -1
        got = sys.pread(fd, m.text + m.used + size, m.room - m.used - size, size)
        if got < 0 and sys.errno == sys.EINTR:
            continue
        if got < 0:
            return -1
        size += got
        if got < AT_ONCE // 2:
            return size


cdef bint _more_text(Machine* m) noexcept nogil:
    cdef char* more = <char*>sys.realloc(m.text, 2 * m.room)
    if more == NULL:
        m.starved = True
        return False
    m.text, m.room = more, 2 * m.room
    return True


cdef Row* _row(Machine* m) noexcept nogil:
    cdef Row* more
    if m.rows_used == m.rows_room:
        more = <Row*>sys.realloc(m.rows, 2 * m.rows_room * sizeof(Row))
        if more == NULL:
            m.starved = True
            return NULL
        m.rows, m.rows_room = more, 2 * m.rows_room
    m.rows_used += 1
    sys.memset(&m.rows[m.rows_used - 1], 0, sizeof(Row))
    return &m.rows[m.rows_used - 1]


cdef void _parse(Machine* m, File* file, size_t size) noexcept nogil:
    cdef const char* at = m.text + m.used
    cdef const char* end = at + size
    cdef uint64_t number
    if file.form == FORM_NUMBER:
        if _number(&at, end, &number):
            _set(m, file.keys[0].value, _scaled(number, file.scale))
        return
    if file.form == FORM_LINES:
        _parse_lines(m, file, at, end)
        return
    m.present[file.keys[0].value] = 1
    file.rows_at = m.rows_used
    if file.form == FORM_TEXT:
        file.text_at = m.used
        file.text_size = size - (m.text[m.used + size - 1] == c'\n')
    elif file.form == FORM_NUMBERS:
        _parse_numbers(m, file, at, end)
    else:
        _parse_rows(m, file, at, end)
    file.rows_end = m.rows_used
    if file.form != FORM_NUMBERS:
        m.used += size


cdef inline uint64_t _scaled(uint64_t number, uint64_t scale) noexcept nogil:
    return number if number == <uint64_t>-1 else number * scale


cdef inline bint _number(const char** at, const char* end, uint64_t* number) noexcept nogil:
    """The number at `at`, which moves behind it; whether there was one."""
    cdef const char* here = at[0]
    cdef uint64_t found = 0
    cdef int _digit
    if end - here >= 3 and here[0] == c'm' and here[1] == c'a' and here[2] == c'x':
        number[0], at[0] = <uint64_t>-1, here + 3
        return True
    if here == end or not c'0' <= here[0] <= c'9':
        return False
    while here < end and c'0' <= here[0] <= c'9':
        found = found * 10 + <uint64_t>(here[0] - c'0')
        here += 1
    if here < end and here[0] == c'.':
        here += 1
        for _digit in range(2):
            found *= 10
            if here < end and c'0' <= here[0] <= c'9':
                found += <uint64_t>(here[0] - c'0')
                here += 1
        while here < end and c'0' <= here[0] <= c'9':
            here += 1
    number[0], at[0] = found, here
    return True


cdef inline void _set(Machine* m, int value, uint64_t number) noexcept nogil:
    if m.present[value]:
        m.numbers[value] += number
    else:
        m.numbers[value] = number
        m.present[value] = 1


cdef inline const char* _word(const char* at, const char* end) noexcept nogil:
    """Where the word at `at` ends: at a blank, a newline or an equals sign."""
    while at < end and at[0] != c' ' and at[0] != c'\n' and at[0] != c'=' and at[0] != c'\t':
        at += 1
    return at


cdef inline const char* _past(const char* at, const char* end) noexcept nogil:
    while at < end and (at[0] == c' ' or at[0] == c'\t'):
        at += 1
    return at


cdef inline const char* _next_line(const char* at, const char* end) noexcept nogil:
    while at < end and at[0] != c'\n':
        at += 1
    return at + 1 if at < end else end


cdef void _parse_lines(Machine* m, File* file, const char* at, const char* end) noexcept nogil:
    cdef const char* key
    cdef const char* key_end
    cdef const char* name
    cdef const char* name_end
    cdef uint64_t number
    cdef int guess = 0
    while at < end:
        key, key_end = at, _word(at, end)
        at = _past(key_end, end)
        if _number(&at, end, &number):
            guess = _take(m, file, guess, key, key_end - key, NULL, 0, number)
        else:
            while at < end and at[0] != c'\n':
                name, name_end = at, _word(at, end)
                at = name_end + 1
                if name_end == end or name_end[0] != c'=' or not _number(&at, end, &number):
                    break
                guess = _take(m, file, guess, key, key_end - key, name, name_end - name, number)
                at = _past(at, end)
        at = _next_line(at, end) if at <= end else end


cdef int _take(Machine* m, File* file, int guess, const char* key, size_t size, const char* name, size_t name_size,
               uint64_t number) noexcept nogil:
    """Set the values of a key, "key" or "key name"; where to look for the next one, since lines keep their order."""
    cdef size_t whole = size + 1 + name_size if name else size
    cdef Key* wanted
    cdef int _turn, found
    for _turn in range(file.count):
        wanted = &file.keys[guess]
        guess = guess + 1 if guess + 1 < file.count else 0
        if wanted.size == whole and sys.memcmp(wanted.text, key, size) == 0:
            if name == NULL or sys.memcmp(wanted.text + size + 1, name, name_size) == 0:
                found = wanted.same
                _set(m, wanted.value, _scaled(number, file.scale))
                while &file.keys[found] != wanted:
                    _set(m, file.keys[found].value, _scaled(number, file.scale))
                    found = file.keys[found].same
                break
    return guess


cdef void _parse_numbers(Machine* m, File* file, const char* at, const char* end) noexcept nogil:
    cdef uint64_t number
    cdef Row* row
    while _number(&at, end, &number):
        row = _row(m)
        if row == NULL:
            return
        row.number = _scaled(number, file.scale)
        at = _past(at, end)


cdef void _parse_rows(Machine* m, File* file, const char* at, const char* end) noexcept nogil:
    cdef const char* label
    cdef const char* label_end
    cdef const char* key
    cdef const char* key_end
    cdef uint64_t number
    while at < end:
        label, label_end = at, _word(at, end)
        at = _past(label_end, end)
        if label_end - label == 5 and sys.memcmp(label, b"Total", 5) == 0:  # of all devices
            at = _next_line(at, end)
            continue
        while at < end and at[0] != c'\n':
            key, key_end = at, at
            if not _number(&at, end, &number):
                key_end = _word(at, end)
                at = _past(key_end + 1 if key_end < end and key_end[0] == c'=' else key_end, end)
                if not _number(&at, end, &number):
                    break
            _add_row(m, file, label, label_end, key, key_end, number)
            at = _past(at, end)
        at = _next_line(at, end)


cdef void _add_row(Machine* m, File* file, const char* label, const char* label_end, const char* key,
                   const char* key_end, uint64_t number) noexcept nogil:
    cdef Row* row = _row(m)
    if row == NULL:
        return
    row.label_at, row.label_size = <uint32_t>(label - m.text), <uint32_t>(label_end - label)
    row.key_at, row.key_size = <uint32_t>(key - m.text), <uint32_t>(key_end - key)
    row.number = _scaled(number, file.scale)
