"""The consumer of `Mount`: what filesystems planned is mounted here, detached where the kernel can.

A detached mount is a descriptor that no mount table shows: it goes when the descriptor goes, so nothing that dies can
leak one. Kernels without the new calls get ordinary mounts.
"""

import errno
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pyx import mount as calls
from spec import errors
from spec.base import Record
from spec.types import Mount

# mount(2) flags and the words of mount(8) that set (True) or clear (False) them.
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_SYNCHRONOUS, MS_REMOUNT = 1, 2, 4, 8, 16, 32
MS_MANDLOCK, MS_DIRSYNC, MS_NOATIME, MS_NODIRATIME, MS_BIND, MS_REC = 64, 128, 1024, 2048, 4096, 16384
MS_PRIVATE, MS_RELATIME, MS_STRICTATIME = 1 << 18, 1 << 21, 1 << 24
MNT_DETACH, UMOUNT_NOFOLLOW = 2, 8

_WORDS = {
    "async": (MS_SYNCHRONOUS, False), "atime": (MS_NOATIME, False), "bind": (MS_BIND, True), "defaults": (0, True),
    "dev": (MS_NODEV, False), "diratime": (MS_NODIRATIME, False), "dirsync": (MS_DIRSYNC, True),
    "exec": (MS_NOEXEC, False), "mand": (MS_MANDLOCK, True), "noatime": (MS_NOATIME, True), "nodev": (MS_NODEV, True),
    "nodiratime": (MS_NODIRATIME, True), "noexec": (MS_NOEXEC, True), "nomand": (MS_MANDLOCK, False),
    "norelatime": (MS_RELATIME, False), "nostrictatime": (MS_STRICTATIME, False), "nosuid": (MS_NOSUID, True),
    "rbind": (MS_BIND | MS_REC, True), "relatime": (MS_RELATIME, True), "remount": (MS_REMOUNT, True),
    "ro": (MS_RDONLY, True), "rw": (MS_RDONLY, False), "strictatime": (MS_STRICTATIME, True),
    "suid": (MS_NOSUID, False), "sync": (MS_SYNCHRONOUS, True),
}  # fmt: skip

# mount_setattr(2)
_ATTRIBUTES = {
    MS_RDONLY: 0x1, MS_NOSUID: 0x2, MS_NODEV: 0x4, MS_NOEXEC: 0x8, MS_NOATIME: 0x10, MS_STRICTATIME: 0x20,
    MS_NODIRATIME: 0x80,
}  # fmt: skip
_ATTR_ATIME = 0x70

OPEN_TREE_CLONE, AT_RECURSIVE, AT_EMPTY_PATH = 1, 0x8000, 0x1000
PAGE = os.sysconf("SC_PAGE_SIZE")


class Step(Record, frozen=True):
    """One mount call to be: flags of mount(2), and the filesystem's own parameters in order."""

    type: str
    source: str
    target: str
    flags: int
    parameters: Sequence[tuple[str, str]] = ()

    @property
    def binds(self) -> bool:
        return bool(self.flags & MS_BIND)

    @property
    def attributes(self) -> int:
        """As MOUNT_ATTR_* (mount_setattr(2))."""
        return sum(bit for flag, bit in _ATTRIBUTES.items() if self.flags & flag)


def plan(mounts: Sequence[Mount]) -> list[Step]:
    """The calls that `mounts` come to, as values; InvalidArgument for an option nobody handles."""
    return [_step(mount) for mount in mounts]


def detached(mounts: Sequence[Mount]) -> int:
    """The mounts as one detached mount; its descriptor is the caller's. Unimplemented on a kernel without the calls."""
    if not mounts:
        raise errors.InvalidArgument("mounting: there is nothing to mount")
    first, *others = plan(mounts)
    if first.target:
        raise errors.InvalidArgument(f"mounting {first.type} {first.source}: the first mount cannot have a target")
    root = _make(first)
    try:
        for step in others:
            _below(root, step)
    except BaseException:
        os.close(root)
        raise
    return root


@contextmanager
def opened(mounts: Sequence[Mount]) -> Iterator[int]:
    """A descriptor of the directory that the mounts show, for as long as the block runs."""
    try:
        root = detached(mounts)
    except errors.Unimplemented:
        with tempfile.TemporaryDirectory(prefix="holdd-mount-") as directory:
            attach(mounts, directory)
            try:
                root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    yield root
                finally:
                    os.close(root)
            finally:
                detach(directory)
        return
    try:
        # An O_PATH-like descriptor of fsmount(2) is no good for reading: open the directory through it.
        directory_fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)
        try:
            yield directory_fd
        finally:
            os.close(directory_fd)
    finally:
        os.close(root)


def attach(mounts: Sequence[Mount], target: str) -> None:
    """Mount them at `target`, for all to see; `detach` undoes it."""
    try:
        root = detached(mounts)
    except errors.Unimplemented:
        for step in plan(mounts):
            _mount(step, os.path.join(target, step.target) if step.target else target)
        return
    try:
        calls.move_mount(root, -100, target)
    except OSError as exc:
        raise errors.from_os(exc, f"mounting on {target}") from exc
    finally:
        os.close(root)


def detach(target: str) -> None:
    """Unmount what is at `target`, lazily; nothing there is fine."""
    try:
        calls.umount2(target, MNT_DETACH | UMOUNT_NOFOLLOW)
    except OSError as exc:
        if exc.errno not in (errno.EINVAL, errno.ENOENT):
            raise errors.from_os(exc, f"unmounting {target}") from exc


def is_mount(path: str) -> bool:
    """Whether `path` is the root of a mount, bind mounts included."""
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        above = os.open("..", os.O_PATH | os.O_CLOEXEC, dir_fd=fd)
        try:
            return _mount_id(fd) != _mount_id(above)
        finally:
            os.close(above)
    finally:
        os.close(fd)


def private(directory: str) -> bool:
    """Make `directory` a mount of its own whose mounts reach nobody, unless it is one; whether it was made."""
    try:
        if is_mount(directory):
            return False
        calls.mount(directory, directory, "", MS_BIND)
        calls.mount("", directory, "", MS_PRIVATE)
    except OSError as exc:
        raise errors.from_os(exc, f"making {directory} a private mount") from exc
    return True


def _step(mount: Mount) -> Step:
    flags = 0
    parameters = []
    for option in mount.options:
        if option in _WORDS:
            bits, sets = _WORDS[option]
            flags = flags | bits if sets else flags & ~bits
        elif option.startswith("X-containerd."):
            raise errors.InvalidArgument(f"mounting {mount.type} {mount.source}: option {option} was not handled")
        else:
            key, _, value = option.partition("=")
            parameters.append((key, value))
    if mount.type == "bind":
        flags |= MS_BIND
    return Step(
        type=mount.type, source=mount.source, target=mount.target, flags=flags, parameters=tuple(parameters)
    )


def _make(step: Step) -> int:
    try:
        return _bind(step) if step.binds else _filesystem(step)
    except OSError as exc:
        raise errors.from_os(exc, f"mounting {step.type} {step.source or _summary(step)}") from exc


def _bind(step: Step) -> int:
    recursive = AT_RECURSIVE if step.flags & MS_REC else 0
    tree = calls.open_tree(-100, step.source, OPEN_TREE_CLONE | os.O_CLOEXEC | recursive)
    try:
        if step.attributes:
            calls.mount_setattr(tree, "", AT_EMPTY_PATH | recursive, *_set_and_clear(step.attributes))
        calls.mount_setattr(tree, "", AT_EMPTY_PATH | recursive, propagation=MS_PRIVATE)
    except BaseException:
        os.close(tree)
        raise
    return tree


def _filesystem(step: Step) -> int:
    context = calls.fsopen(step.type)
    try:
        if step.source and step.type != "overlay":
            calls.fsconfig(context, calls.FSCONFIG_SET_STRING, "source", step.source)
        for key, value in step.parameters:
            _set(context, step.type, key, value)
        if step.flags & MS_RDONLY:
            calls.fsconfig(context, calls.FSCONFIG_SET_FLAG, "ro")
        calls.fsconfig(context, calls.FSCONFIG_CMD_CREATE)
        return calls.fsmount(context, step.attributes)
    finally:
        os.close(context)


def _set(context: int, fstype: str, key: str, value: str) -> None:
    """One parameter. Overlay's layers go one by one: so no page limits how many there are (Linux 6.8)."""
    if (fstype, key) == ("overlay", "lowerdir"):
        try:
            for layer in value.split(":"):
                calls.fsconfig(context, calls.FSCONFIG_SET_STRING, "lowerdir+", layer)
            return
        except OSError as exc:
            if exc.errno != errno.EINVAL:
                raise
    if value:
        calls.fsconfig(context, calls.FSCONFIG_SET_STRING, key, value)
    else:
        calls.fsconfig(context, calls.FSCONFIG_SET_FLAG, key)


def _below(root: int, step: Step) -> None:
    """Attach a further mount inside the detached one."""
    part = _make(step)
    try:
        calls.move_mount(part, root, step.target.strip("/") or ".")
    except OSError as exc:
        raise errors.from_os(exc, f"mounting {step.type} {step.source} on {step.target}") from exc
    finally:
        os.close(part)


def _mount(step: Step, target: str) -> None:
    """By mount(2), for kernels before 5.2. An option string of a page or more is shortened by naming layers relative
    to the directory they share."""
    data = ",".join(f"{key}={value}" if value else key for key, value in step.parameters)
    here = None
    try:
        if len(data) >= PAGE and step.type == "overlay":
            here, data = _compact(step)
        calls.mount(step.source or step.type, target, step.type, step.flags, data)
        if step.binds and step.flags & MS_RDONLY:
            calls.mount("", target, "", step.flags | MS_REMOUNT)
    except OSError as exc:
        raise errors.from_os(exc, f"mounting {step.type} {step.source} on {target}") from exc
    finally:
        if here is not None:
            os.close(here)


def _compact(step: Step) -> tuple[int, str]:
    """A descriptor of the directory that all layers share, and the options with layers named through it."""
    layers = [layer for key, value in step.parameters if key == "lowerdir" for layer in value.split(":")]
    common = os.path.commonpath(layers)
    here = os.open(common, os.O_PATH | os.O_CLOEXEC | os.O_DIRECTORY)
    short = f"/proc/self/fd/{here}"
    data = ",".join(
        f"{key}={value.replace(common, short) if key == 'lowerdir' else value}" if value else key
        for key, value in step.parameters
    )
    return here, data


def _set_and_clear(attributes: int) -> tuple[int, int]:
    """Access-time attributes are one field, which must be cleared to be set (mount_setattr(2))."""
    return attributes, _ATTR_ATIME if attributes & _ATTR_ATIME else 0


def _mount_id(fd: int) -> str:
    with open(f"/proc/self/fdinfo/{fd}") as info:
        return next(line.split()[1] for line in info if line.startswith("mnt_id:"))


def _summary(step: Step) -> str:
    text = ",".join(f"{key}={value}" for key, value in step.parameters)
    return text if len(text) <= 200 else f"{text[:200]}..."
