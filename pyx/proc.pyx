"""Process calls that Python's os lacks before 3.12: namespaces, the subreaper, close_range.

What os and signal have is not here: pidfd_open, pidfd_send_signal, waitid(P_PIDFD).
"""

import os

from pyx cimport sys
from pyx.err cimport failed, retried

CLONE_FS = 0x200
CLONE_NEWNS = 0x20000
CLONE_NEWCGROUP = 0x2000000
CLONE_NEWUTS = 0x4000000
CLONE_NEWIPC = 0x8000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLOSE_RANGE_CLOEXEC = 4

cdef size_t STACK = 64 << 10  # bytes; the child below calls two functions


def setns(int fd, int kind=0):
    """setns(2): move the calling thread into the namespace `fd` (of `kind` CLONE_NEW*, 0: whichever it is)."""
    cdef int result, number
    with nogil:
        result = sys.setns(fd, kind)
        number = sys.errno
    if result < 0:
        raise failed(number, None)


def unshare(int flags):
    """unshare(2): give the calling thread its own of what `flags` (CLONE_*) name."""
    cdef int result, number
    with nogil:
        result = sys.unshare(flags)
        number = sys.errno
    if result < 0:
        raise failed(number, None)


def set_child_subreaper(bint on=True):
    """Whether orphans below this process become its children (prctl(2), PR_SET_CHILD_SUBREAPER)."""
    cdef int result, number
    with nogil:
        result = sys.prctl(sys.PR_SET_CHILD_SUBREAPER, <unsigned long>on, 0UL, 0UL, 0UL)
        number = sys.errno
    if result < 0:
        raise failed(number, None)


def close_range(unsigned int first, unsigned int last, unsigned int flags=0):
    """close_range(2): close descriptors `first` to `last` inclusive, or only mark them (CLOSE_RANGE_CLOEXEC)."""
    cdef long result
    with nogil:
        result = retried(sys.SYS_close_range, first, last, flags, 0, 0)
    if result < 0:
        raise failed(-result, None)


def user_namespace(uids, gids):
    """A descriptor of a new user namespace with these maps, in which nobody runs; for idmapped mounts.

    Each map is text for /proc/PID/uid_map: lines of "inside outside length" (user_namespaces(7)).
    """
    cdef sys.sigset_t every, before
    cdef void* stack
    cdef int pid, number, status
    with nogil:
        stack = sys.mmap(NULL, STACK, sys.PROT_READ | sys.PROT_WRITE, sys.MAP_PRIVATE | sys.MAP_ANONYMOUS, -1, 0)
    if stack == sys.MAP_FAILED:
        raise MemoryError
    with nogil:
        # Only a process can make one, and only one of a single thread. It shares our memory and descriptors, so it
        # costs no copy; it must run no handler of ours; without an exit signal nobody else reaps it.
        sys.sigfillset(&every)
        sys.sigprocmask(sys.SIG_SETMASK, &every, &before)
        pid = sys.clone(_linger, <char*>stack + STACK, sys.CLONE_NEWUSER | sys.CLONE_VM | sys.CLONE_FILES, NULL)
        number = sys.errno
        sys.sigprocmask(sys.SIG_SETMASK, &before, NULL)
    try:
        if pid < 0:
            raise failed(number, "user namespace")
        for name, lines in (("uid_map", uids), ("gid_map", gids)):
            fd = os.open(f"/proc/{pid}/{name}", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, lines.encode())  # once: the kernel takes no second
            finally:
                os.close(fd)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        if pid > 0:
            with nogil:
                sys.kill(pid, sys.SIGKILL)
                while sys.waitpid(pid, &status, sys.__WALL) < 0 and sys.errno == sys.EINTR:
                    pass
        with nogil:
            sys.munmap(stack, STACK)


cdef int _linger(void* argument) noexcept nogil:
    """The namespace's only process, until it is killed or whoever made it ends."""
    sys.prctl(sys.PR_SET_PDEATHSIG, <unsigned long>sys.SIGKILL, 0UL, 0UL, 0UL)
    while True:
        sys.pause()
