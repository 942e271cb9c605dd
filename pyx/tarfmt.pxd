# The tar header (ustar, pax, GNU, old V7) as inline C: field offsets, numbers, checksum.
# POSIX.1-2017, pax: "ustar Interchange Format"; GNU tar manual, "Basic Tar Format".
#
#   offset size            offset size
#        0  100 name          156    1 typeflag
#      100    8 mode          157  100 linkname
#      108    8 uid           257    6 magic ("ustar\0", GNU: "ustar ")
#      116    8 gid           329    8 devmajor
#      124   12 size          337    8 devminor
#      136   12 mtime         345  155 prefix (not in GNU's)
#      148    8 chksum

cdef enum:
    BLOCK = 512
    NAME_AT = 0
    NAME_SIZE = 100
    MODE_AT = 100
    UID_AT = 108
    GID_AT = 116
    SIZE_AT = 124
    MTIME_AT = 136
    CHKSUM_AT = 148
    TYPE_AT = 156
    LINK_AT = 157
    LINK_SIZE = 100
    MAGIC_AT = 257
    MAJOR_AT = 329
    MINOR_AT = 337
    PREFIX_AT = 345
    PREFIX_SIZE = 155
    SPARSE_AT = 386        # old GNU: four pairs of offset and size, 12 bytes each number
    SPARSE_MORE_AT = 482   # whether a block of 21 more pairs follows, which says at 504 whether another does
    REAL_SIZE_AT = 483
    SPARSE_PAIRS = 21
    BLOCK_MORE_AT = 504


cdef inline bint number(const unsigned char* field, int size, long long* value) noexcept nogil:
    """Octal, or base-256 when the first byte's high bit is set; whether it is a number that fits."""
    cdef int at = 0
    cdef unsigned long long result = 0
    cdef bint negative, digits = False
    if field[0] & 0x80:
        negative = (field[0] & 0x40) != 0
        if negative:  # two's complement: the top 64 bits of what is wider must be ones
            for at in range(size - 8):
                if field[at] != 0xFF:
                    return False
        elif size > 8:
            if field[0] != 0x80:
                return False
            for at in range(1, size - 8):
                if field[at] != 0:
                    return False
        for at in range(size - 8 if size > 8 else 0, size):
            result = result << 8 | (field[at] & 0x7F if size <= 8 and at == 0 and not negative else field[at])
        if (result >> 63 != 0) != negative:
            return False
        value[0] = <long long>result
        return True
    while at < size and (field[at] == c" " or field[at] == 0):
        at += 1
    while at < size and c"0" <= field[at] <= c"7":
        if result >> 60:
            return False
        result = result << 3 | (field[at] - c"0")
        digits = True
        at += 1
    while at < size:
        if field[at] != c" " and field[at] != 0:
            return False
        at += 1
    value[0] = <long long>result
    return digits or result == 0


cdef inline bint checksum(const unsigned char* block) noexcept nogil:
    """Whether the header's checksum is its bytes' sum, as unsigned ones or, as some old tars had it, as signed ones."""
    cdef long long stated
    cdef unsigned int plain = 8 * 32, high = 0  # the checksum's own bytes count as spaces
    cdef int at
    if not number(block + CHKSUM_AT, 8, &stated):
        return False
    for at in range(BLOCK):
        plain += block[at]
        high += block[at] >> 7
    for at in range(CHKSUM_AT, CHKSUM_AT + 8):
        plain -= block[at]
        high -= block[at] >> 7
    return stated == plain or stated == <long long>plain - 256 * <long long>high


cdef inline bint is_zero(const unsigned char* block) noexcept nogil:
    cdef int at
    for at in range(BLOCK):
        if block[at] != 0:
            return False
    return True


# Writing: ustar headers, and pax records for what does not fit into one.

cdef enum:
    DEVICE_SIZE = 8
    PAX_DIGITS = 20      # of a record's length, or of a number in one


cdef inline bint fits(long long value, int size) noexcept nogil:
    """Whether the field of `size` bytes can hold it in octal with a NUL behind it."""
    return 0 <= value < 1LL << 3 * (size - 1)


cdef inline void put_number(unsigned char* field, int size, long long value) noexcept nogil:
    """In octal, with a NUL; what does not fit is 0, for a pax record to say."""
    cdef int at = size - 1
    if not fits(value, size):
        value = 0
    field[at] = 0
    while at:
        at -= 1
        field[at] = <unsigned char>(c"0" + (value & 7))
        value >>= 3


cdef inline void seal(unsigned char* block) noexcept nogil:
    """Magic and checksum of a header whose other fields are set."""
    cdef const char* magic = b"ustar\x0000"
    cdef long total = 0
    cdef int at
    for at in range(8):
        block[MAGIC_AT + at] = <unsigned char>magic[at]
        block[CHKSUM_AT + at] = c" "
    for at in range(BLOCK):
        total += block[at]
    put_number(block + CHKSUM_AT, 7, total)


cdef inline size_t decimal(char* to, long long value) noexcept nogil:
    """Write it, without a NUL; how many bytes that took, at most PAX_DIGITS."""
    cdef char digits[PAX_DIGITS]
    cdef size_t count = 0, size = 0
    cdef unsigned long long left = <unsigned long long>value
    if value < 0:
        to[0] = c"-"
        size, left = 1, -left
    while True:
        digits[count] = <char>(c"0" + left % 10)
        count += 1
        left //= 10
        if left == 0:
            break
    while count:
        count -= 1
        to[size] = digits[count]
        size += 1
    return size


cdef inline size_t pax_size(size_t key, size_t value) noexcept nogil:
    """Bytes of the record "LENGTH KEY=VALUE\\n", whose length counts its own digits."""
    cdef size_t rest = key + value + 3, size = rest + 1, digits, left
    while True:
        digits, left = 0, size
        while left:
            digits += 1
            left //= 10
        if rest + digits == size:
            return size
        size = rest + digits
