FSCONFIG_SET_FLAG: int
FSCONFIG_SET_STRING: int
FSCONFIG_SET_FD: int
FSCONFIG_CMD_CREATE: int
FSCONFIG_STRING_MAX: int
MOVE_MOUNT_F_EMPTY_PATH: int
MOVE_MOUNT_T_SYMLINKS: int
MOVE_MOUNT_T_EMPTY_PATH: int
MOUNT_ATTR_RDONLY: int
MOUNT_ATTR_NOSUID: int
MOUNT_ATTR_NODEV: int
MOUNT_ATTR_NOEXEC: int
MOUNT_ATTR__ATIME: int
MOUNT_ATTR_NOATIME: int
MOUNT_ATTR_STRICTATIME: int
MOUNT_ATTR_NODIRATIME: int
MOUNT_ATTR_IDMAP: int
OPEN_TREE_CLONE: int
AT_RECURSIVE: int
AT_EMPTY_PATH: int
LO_FLAGS_READ_ONLY: int
LO_FLAGS_AUTOCLEAR: int
LO_FLAGS_DIRECT_IO: int

def mount(source: str | bytes, target: str | bytes, fstype: str, flags: int, data: str | bytes = "") -> None: ...
def umount2(target: str | bytes, flags: int = 0) -> None: ...
def fsopen(fstype: str) -> int: ...
def fsconfig(fs: int, command: int, key: str | None = None, value: str | bytes | None = None, aux: int = 0) -> None: ...
def fsmount(fs: int, attributes: int = 0) -> int: ...
def open_tree(folder: int, path: str | bytes, flags: int) -> int: ...
def move_mount(mount_fd: int, folder: int, path: str | bytes, flags: int = 4) -> None: ...
def mount_setattr(
    folder: int,
    path: str | bytes,
    flags: int,
    set_: int = 0,
    clear: int = 0,
    propagation: int = 0,
    userns: int = 0,
) -> None: ...
def loop_get_free(control: int) -> int: ...
def loop_configure(loop: int, backing: int, flags: int, name: str | bytes = "") -> None: ...
