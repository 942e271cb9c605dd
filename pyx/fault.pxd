# What went wrong in C, for Python to raise: the first fault counts.

from pyx cimport sys

cdef enum Kind:
    NO_FAULT
    MALFORMED            # the archive breaks the format's rules or ours
    TRUNCATED            # it ends too early
    EXCEEDED             # it goes beyond a bound
    ENTANGLED            # it cannot be unpacked without the layers below
    SYSTEM               # a system call failed

cdef struct Fault:
    Kind kind
    int number           # errno of a SYSTEM fault
    const char* what     # of the others


cdef inline bint fail(Fault* fault, Kind kind, const char* what) noexcept nogil:
    """False, for the caller to return."""
    if fault.kind == NO_FAULT:
        fault.kind, fault.what = kind, what
    return False


cdef inline bint system(Fault* fault) noexcept nogil:
    """By errno. False."""
    if fault.kind == NO_FAULT:
        fault.kind, fault.number = SYSTEM, sys.errno
    return False
