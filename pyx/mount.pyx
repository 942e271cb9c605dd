"""The mount calls: mount(2) and umount(2), and the newer ones that make and change detached mounts.

Each wrapper is named after its call; paths are text, results are descriptors (O_CLOEXEC). fsopen(2), fsconfig(2),
fsmount(2), move_mount(2), open_tree(2) and mount_setattr(2) are Linux 5.2 to 5.12; older kernels say ENOSYS.
"""

import os

from pyx cimport sys
from pyx.err cimport failed

cdef extern from *:
    """
    struct pyx_mount_attr { unsigned long long attr_set, attr_clr, propagation, userns_fd; };
    """
    struct mount_attr "pyx_mount_attr":
        unsigned long long attr_set
        unsigned long long attr_clr
        unsigned long long propagation
        unsigned long long userns_fd

FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_SET_FD = 5
FSCONFIG_CMD_CREATE = 6

cdef unsigned int FSOPEN_CLOEXEC = 1
cdef unsigned int FSMOUNT_CLOEXEC = 1


def mount(source, target, fstype, unsigned long flags, data=""):
    """mount(2); empty source, type and data are passed as none."""
    cdef bytes source_b = os.fsencode(source), target_b = os.fsencode(target)
    cdef bytes type_b = fstype.encode(), data_b = os.fsencode(data)
    cdef const char* source_p = <const char*>source_b if source_b else NULL
    cdef const char* type_p = <const char*>type_b if type_b else NULL
    cdef const char* data_p = <const char*>data_b if data_b else NULL
    cdef const char* target_p = target_b
    cdef int result, number
    with nogil:
        result = sys.mount(source_p, target_p, type_p, flags, data_p)
        number = sys.errno
    if result < 0:
        raise failed(number, target)


def umount2(target, int flags=0):
    """umount(2) with flags."""
    cdef bytes target_b = os.fsencode(target)
    cdef const char* target_p = target_b
    cdef int result, number
    with nogil:
        result = sys.umount2(target_p, flags)
        number = sys.errno
    if result < 0:
        raise failed(number, target)


def fsopen(fstype):
    """A context to configure a filesystem of that type in."""
    cdef bytes type_b = fstype.encode()
    cdef const char* type_p = type_b
    cdef long result
    cdef int number
    with nogil:
        result = sys.syscall(sys.SYS_fsopen, type_p, FSOPEN_CLOEXEC)
        number = sys.errno
    if result < 0:
        raise failed(number, fstype)
    return result


def fsconfig(int fs, unsigned int command, key=None, value=None, int aux=0):
    """Set one parameter (FSCONFIG_SET_*) or create the filesystem (FSCONFIG_CMD_CREATE)."""
    cdef bytes key_b = b"" if key is None else key.encode()
    cdef bytes value_b = b"" if value is None else os.fsencode(value)
    cdef const char* key_p = NULL
    cdef const char* value_p = NULL
    cdef long result
    cdef int number
    if key is not None:
        key_p = key_b
    if value is not None:
        value_p = value_b
    with nogil:
        result = sys.syscall(sys.SYS_fsconfig, fs, command, key_p, value_p, aux)
        number = sys.errno
    if result < 0:
        raise OSError(number, f"{os.strerror(number)}{_complaint(fs)}", key)


def fsmount(int fs, unsigned int attributes=0):
    """The configured filesystem as a detached mount; `attributes` are MOUNT_ATTR_*."""
    cdef long result
    cdef int number
    with nogil:
        result = sys.syscall(sys.SYS_fsmount, fs, FSMOUNT_CLOEXEC, attributes)
        number = sys.errno
    if result < 0:
        raise OSError(number, f"{os.strerror(number)}{_complaint(fs)}")
    return result


def open_tree(int folder, path, unsigned int flags):
    """A descriptor of the mount at `path`; with OPEN_TREE_CLONE a detached copy (AT_RECURSIVE: of all below)."""
    cdef bytes path_b = os.fsencode(path)
    cdef const char* path_p = path_b
    cdef long result
    cdef int number
    with nogil:
        result = sys.syscall(sys.SYS_open_tree, folder, path_p, flags)
        number = sys.errno
    if result < 0:
        raise failed(number, path)
    return result


def move_mount(int mount_fd, int folder, path):
    """Attach the mount that `mount_fd` is, at `path` below `folder`."""
    cdef bytes path_b = os.fsencode(path)
    cdef const char* path_p = path_b
    cdef const char* empty = b""
    cdef long result
    cdef int number
    with nogil:
        result = sys.syscall(sys.SYS_move_mount, mount_fd, empty, folder, path_p, sys.MOVE_MOUNT_F_EMPTY_PATH)
        number = sys.errno
    if result < 0:
        raise failed(number, path)


def mount_setattr(int folder, path, unsigned int flags, unsigned long long set_=0, unsigned long long clear=0,
                  unsigned long long propagation=0, unsigned long long userns=0):
    """Set and clear MOUNT_ATTR_*, or change propagation (MS_PRIVATE, ...), of the mount at `path`."""
    cdef bytes path_b = os.fsencode(path)
    cdef const char* path_p = path_b
    cdef mount_attr attributes
    cdef long result
    cdef int number
    attributes.attr_set, attributes.attr_clr = set_, clear
    attributes.propagation, attributes.userns_fd = propagation, userns
    with nogil:
        result = sys.syscall(sys.SYS_mount_setattr, folder, path_p, flags, &attributes, sizeof(attributes))
        number = sys.errno
    if result < 0:
        raise failed(number, path)


cdef str _complaint(int fs):
    """What the kernel wrote into the context's log, after a colon (fsopen(2): message retrieval)."""
    lines = []
    while True:
        try:
            line = os.read(fs, 4096)
        except OSError:
            break
        lines.append(line.decode(errors="replace").strip().partition(" ")[2])
    return f": {'; '.join(lines)}" if lines else ""
