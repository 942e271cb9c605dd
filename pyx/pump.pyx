"""Bytes from one descriptor to another in C, without the GIL: the kernel moves them where it can."""

from cpython.exc cimport PyErr_CheckSignals

from pyx cimport sys
from pyx.err cimport failed

cdef enum:
    RANGE, SPLICE, SEND, READ     # copy_file_range(2), splice(2), sendfile(2), read(2) with write(2): tried in order
    PIECE = 1 << 30               # bytes a call is asked for
    BLOCK = 256 << 10             # bytes that are read and written at once

cdef struct Pump:
    int source
    int target
    int how
    long long done
    char* block


def copy(int source, int target, long long size=-1):
    """Copy `size` bytes (-1: to the end) from `source` to `target`, from and to where they stand; how many were
    copied, which is fewer when the source ends. Descriptors that would block are waited for."""
    cdef Pump pump
    cdef int result = 0, number = 0
    pump.source, pump.target, pump.how, pump.done = source, target, RANGE, 0
    pump.block = NULL
    try:
        while True:
            with nogil:
                result = _pump(&pump, size)
                number = sys.errno
            if result >= 0:
                return pump.done
            if number != sys.EINTR:
                raise failed(number, None)
            PyErr_CheckSignals()
    finally:
        sys.free(pump.block)


cdef int _pump(Pump* pump, long long size) noexcept nogil:
    cdef size_t wanted
    cdef ssize_t moved
    while size < 0 or pump.done < size:
        wanted = PIECE if size < 0 or size - pump.done > PIECE else size - pump.done
        moved = _move(pump, wanted)
        if moved == 0 and pump.how == READ:
            return 0
        # Some files (of procfs) have bytes that only read(2) sees: it has the last word on an end.
        if moved == 0 or (moved < 0 and _is_unfit(pump, sys.errno)):
            pump.how = READ if moved == 0 else pump.how + 1
        elif moved > 0:
            pump.done += moved
        elif sys.errno == sys.EAGAIN:
            if _wait(pump.source, sys.POLLIN) < 0 or _wait(pump.target, sys.POLLOUT) < 0:
                return -1
        else:
            return -1
    return 0


cdef bint _is_unfit(Pump* pump, int number) noexcept nogil:
    """Whether the call refused these kinds of descriptors. EBADF: an O_APPEND target, for copy_file_range(2)."""
    if pump.how == READ:
        return False
    return number in (sys.EINVAL, sys.ENOSYS, sys.EXDEV, sys.EOPNOTSUPP, sys.EBADF, sys.EISDIR, sys.EPERM)


cdef ssize_t _move(Pump* pump, size_t wanted) noexcept nogil:
    if pump.how == RANGE:
        return sys.copy_file_range(pump.source, NULL, pump.target, NULL, wanted, 0)
    if pump.how == SPLICE:
        return sys.splice(pump.source, NULL, pump.target, NULL, wanted, 0)
    if pump.how == SEND:
        return sys.sendfile(pump.target, pump.source, NULL, wanted)
    return _read_and_write(pump, wanted)


cdef ssize_t _read_and_write(Pump* pump, size_t wanted) noexcept nogil:
    """What was read is written, whatever interrupts: it cannot be read again."""
    cdef ssize_t got, put, done = 0
    if pump.block == NULL:
        pump.block = <char*>sys.malloc(BLOCK)
        if pump.block == NULL:
            return -1
    got = sys.read(pump.source, pump.block, wanted if wanted < BLOCK else BLOCK)
    while done < got:
        put = sys.write(pump.target, pump.block + done, got - done)
        if put >= 0:
            done += put
        elif sys.errno == sys.EAGAIN:
            if _wait(pump.target, sys.POLLOUT) < 0 and sys.errno != sys.EINTR:
                return -1
        elif sys.errno != sys.EINTR:
            return -1
    return got


cdef int _wait(int fd, short events) noexcept nogil:
    cdef sys.pollfd wanted
    wanted.fd, wanted.events, wanted.revents = fd, events, 0
    return sys.poll(&wanted, 1, -1)
