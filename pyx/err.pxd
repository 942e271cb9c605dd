# What every wrapper needs: text for the kernel, the call, errno -> OSError. A wrapper encodes its arguments, calls and
# saves errno inside one `nogil` block, and raises here with the object it was about.

from pyx cimport sys


cdef inline object failed(int number, object about):
    """The OSError (of the right subclass) for errno `number`; `about` is its filename."""
    import os

    return OSError(number, os.strerror(number), about)


cdef inline bytes text(object value):
    """`value` (str or bytes) as the kernel reads it: a NUL inside would end it early, so that is a ValueError."""
    import os

    cdef bytes encoded = os.fsencode(value)
    if b"\0" in encoded:
        raise ValueError(f"embedded null byte: {value!r}")
    return encoded


cdef inline long retried(long number, long a, long b, long c, long d, long e) noexcept nogil:
    """System call `number`, again for as long as a signal interrupts it: its result, or -errno."""
    cdef long result
    while True:
        result = sys.syscall(number, a, b, c, d, e)
        if result >= 0:
            return result
        if sys.errno != sys.EINTR:
            return -sys.errno
