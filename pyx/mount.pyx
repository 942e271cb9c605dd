"""The mount calls: mount(2) and umount(2), the newer ones that make and change detached mounts, and loop devices.

Each wrapper is named after its call; paths are text, results are descriptors (O_CLOEXEC). fsopen(2), fsconfig(2),
fsmount(2), move_mount(2) and open_tree(2) are Linux 5.2, mount_setattr(2) is 5.12; older kernels say ENOSYS.
"""

import os

from pyx cimport sys
from pyx.err cimport failed, retried, text

cdef extern from *:
    """
    #include <linux/loop.h>
    struct pyx_mount_attr { unsigned long long attr_set, attr_clr, propagation, userns_fd; };
    """
    struct mount_attr "pyx_mount_attr":
        unsigned long long attr_set
        unsigned long long attr_clr
        unsigned long long propagation
        unsigned long long userns_fd
    struct loop_info64:
        unsigned int lo_flags
        unsigned char lo_file_name[64]
    struct loop_config:
        unsigned int fd
        loop_info64 info
    const unsigned long LOOP_CTL_GET_FREE_C "LOOP_CTL_GET_FREE"
    const unsigned long LOOP_CONFIGURE_C "LOOP_CONFIGURE"

# fsconfig(2)
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_SET_FD = 5
FSCONFIG_CMD_CREATE = 6
FSCONFIG_STRING_MAX = 255  # bytes of a value; a longer one is EINVAL
# move_mount(2)
MOVE_MOUNT_F_EMPTY_PATH = 0x04
MOVE_MOUNT_T_SYMLINKS = 0x10
MOVE_MOUNT_T_EMPTY_PATH = 0x40
# mount_setattr(2) and fsmount(2)
MOUNT_ATTR_RDONLY = 0x01
MOUNT_ATTR_NOSUID = 0x02
MOUNT_ATTR_NODEV = 0x04
MOUNT_ATTR_NOEXEC = 0x08
MOUNT_ATTR__ATIME = 0x70  # the field that the access time attributes are values of
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_IDMAP = 0x100000
# open_tree(2)
OPEN_TREE_CLONE = 1
AT_RECURSIVE = 0x8000
AT_EMPTY_PATH = 0x1000
# loop(4)
LO_FLAGS_READ_ONLY = 1
LO_FLAGS_AUTOCLEAR = 4
LO_FLAGS_DIRECT_IO = 16

cdef unsigned int FSOPEN_CLOEXEC = 1
cdef unsigned int FSMOUNT_CLOEXEC = 1


def mount(source, target, fstype, unsigned long flags, data=""):
    """mount(2); empty source, type and data are passed as none. Of data the kernel reads one page and drops the rest:
    more is refused (E2BIG)."""
    cdef bytes source_b = text(source), target_b = text(target), type_b = text(fstype), data_b = text(data)
    cdef const char* source_p = <const char*>source_b if source_b else NULL
    cdef const char* type_p = <const char*>type_b if type_b else NULL
    cdef const char* data_p = <const char*>data_b if data_b else NULL
    cdef const char* target_p = target_b
    cdef int result, number
    if len(data_b) >= os.sysconf("SC_PAGE_SIZE"):
        raise failed(sys.E2BIG, target)
    while True:
        with nogil:
            result = sys.mount(source_p, target_p, type_p, flags, data_p)
            number = sys.errno
        if result == 0:
            return
        if number != sys.EINTR:
            raise failed(number, target)


def umount2(target, int flags=0):
    """umount(2) with flags."""
    cdef bytes target_b = text(target)
    cdef const char* target_p = target_b
    cdef int result, number
    while True:
        with nogil:
            result = sys.umount2(target_p, flags)
            number = sys.errno
        if result == 0:
            return
        if number != sys.EINTR:
            raise failed(number, target)


def fsopen(fstype):
    """A context to configure a filesystem of that type in."""
    cdef bytes type_b = text(fstype)
    cdef const char* type_p = type_b
    cdef long result
    with nogil:
        result = retried(sys.SYS_fsopen, <long>type_p, FSOPEN_CLOEXEC, 0, 0, 0)
    if result < 0:
        raise failed(-result, fstype)
    return result


def fsconfig(int fs, unsigned int command, key=None, value=None, int aux=0):
    """Set one parameter (FSCONFIG_SET_*) or create the filesystem (FSCONFIG_CMD_CREATE). The error says what the
    kernel wrote into the context's log."""
    cdef bytes key_b = b"" if key is None else text(key)
    cdef bytes value_b = b"" if value is None else text(value)
    cdef const char* key_p = NULL
    cdef const char* value_p = NULL
    cdef long result
    cdef int number
    if key is not None:
        key_p = key_b
    if value is not None:
        value_p = value_b
    # Not retried: a creation that was interrupted leaves a context that takes no other.
    with nogil:
        result = sys.syscall(sys.SYS_fsconfig, fs, command, key_p, value_p, aux)
        number = sys.errno
    if result < 0:
        raise OSError(number, f"{os.strerror(number)}{_complaint(fs)}", key)


def fsmount(int fs, unsigned int attributes=0):
    """The configured filesystem as a detached mount; `attributes` are MOUNT_ATTR_*."""
    cdef long result
    with nogil:
        result = retried(sys.SYS_fsmount, fs, FSMOUNT_CLOEXEC, attributes, 0, 0)
    if result < 0:
        raise OSError(-result, f"{os.strerror(-result)}{_complaint(fs)}")
    return result


def open_tree(int folder, path, unsigned int flags):
    """A descriptor of the mount at `path`; with OPEN_TREE_CLONE a detached copy (AT_RECURSIVE: of all below)."""
    cdef bytes path_b = text(path)
    cdef const char* path_p = path_b
    cdef long result
    flags |= sys.O_CLOEXEC
    with nogil:
        result = retried(sys.SYS_open_tree, folder, <long>path_p, flags, 0, 0)
    if result < 0:
        raise failed(-result, path)
    return result


def move_mount(int mount_fd, int folder, path, unsigned int flags=MOVE_MOUNT_F_EMPTY_PATH):
    """Attach the mount that `mount_fd` is, at `path` below `folder` (MOVE_MOUNT_T_EMPTY_PATH: at `folder`)."""
    cdef bytes path_b = text(path)
    cdef const char* path_p = path_b
    cdef const char* empty = b""
    cdef long result
    with nogil:
        result = retried(sys.SYS_move_mount, mount_fd, <long>empty, folder, <long>path_p, flags)
    if result < 0:
        raise failed(-result, path)


def mount_setattr(int folder, path, unsigned int flags, unsigned long long set_=0, unsigned long long clear=0,
                  unsigned long long propagation=0, unsigned long long userns=0):
    """Set and clear MOUNT_ATTR_*, or change propagation (MS_PRIVATE, ...), of the mount at `path`; with
    MOUNT_ATTR_IDMAP owners are mapped as the user namespace `userns` maps them."""
    cdef bytes path_b = text(path)
    cdef const char* path_p = path_b
    cdef mount_attr attributes
    cdef long result
    attributes.attr_set, attributes.attr_clr = set_, clear
    attributes.propagation, attributes.userns_fd = propagation, userns
    with nogil:
        result = retried(sys.SYS_mount_setattr, folder, <long>path_p, flags, <long>&attributes, sizeof(attributes))
    if result < 0:
        raise failed(-result, path)


def loop_get_free(int control):
    """Number of a loop device that is free just now (ioctl LOOP_CTL_GET_FREE on /dev/loop-control)."""
    cdef int result, number
    with nogil:
        result = sys.ioctl(control, LOOP_CTL_GET_FREE_C)
        number = sys.errno
    if result < 0:
        raise failed(number, "/dev/loop-control")
    return result


def loop_configure(int loop, int backing, unsigned int flags, name=""):
    """Let the loop device show the file `backing` (ioctl LOOP_CONFIGURE, Linux 5.8): EBUSY when it is taken. `name`
    is what losetup(8) lists."""
    cdef bytes name_b = text(name)[:63]
    cdef const char* name_p = name_b
    cdef size_t length = len(name_b)
    cdef loop_config config
    cdef int result, number
    sys.memset(&config, 0, sizeof(config))
    config.fd, config.info.lo_flags = backing, flags
    sys.memcpy(config.info.lo_file_name, name_p, length)
    with nogil:
        result = sys.ioctl(loop, LOOP_CONFIGURE_C, &config)
        number = sys.errno
    if result < 0:
        raise failed(number, name)


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
