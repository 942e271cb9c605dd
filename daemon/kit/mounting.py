"""The consumer of `Mount`: what filesystems planned is mounted here, detached where the kernel can.

A detached mount is a descriptor that no mount table shows: it goes when the descriptor goes, so nothing that dies can
leak one. What only mount(2) can make is made in a mount namespace that a passing thread has for itself, and taken out
of it detached. Kernels before 5.2 get ordinary mounts.

`steps` says what is to be called, `making` calls it, `placing` puts together what takes a place.
"""

import errno
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import msgspec

from daemon.kit.making import AT_FDCWD, make
from daemon.kit.placing import apart, assembled, attach_each, needs_place
from daemon.kit.steps import MNT_DETACH, MS_BIND, MS_PRIVATE, MS_REMOUNT, UMOUNT_NOFOLLOW, doing, plan
from pyx import fs, proc
from pyx import mount as calls
from spec import errors
from spec.types import Mount

_VOLATILE = ("volatile", "fsync=volatile")


def detached(mounts: Sequence[Mount]) -> int:
    """The mounts as one detached mount; its descriptor is the caller's. Unimplemented on a kernel without the calls."""
    steps = plan(mounts)
    if not steps:
        raise errors.InvalidArgument("mounting: there is nothing to mount")
    if steps[0].target:
        raise errors.InvalidArgument(f"mounting {steps[0]}: the first mount cannot have a target")
    if steps[0].flags & MS_REMOUNT:
        raise errors.InvalidArgument(f"mounting {steps[0]}: there is nothing to remount yet")
    with doing(steps[0]):
        if len(steps) == 1 and not needs_place(steps[0]):
            return make(steps[0])
        return apart(proc.CLONE_NEWNS, lambda: assembled(steps))


@contextmanager
def opened(mounts: Sequence[Mount]) -> Iterator[int]:
    """A descriptor of the directory that the mounts show, for as long as the block runs.

    An overlay is not mounted as volatile, which could be done only once.
    """
    mounts = [_lasting(mount) for mount in mounts]
    with ExitStack() as stack:
        try:
            root = detached(mounts)
            stack.callback(os.close, root)
            fd = _open_directory(".", root)
        except errors.Unimplemented:
            directory = tempfile.mkdtemp(prefix="holdd-mount-")
            stack.callback(os.rmdir, directory)  # never recursively: should it still be mounted, that must fail
            attach(mounts, directory)
            stack.callback(detach, directory)
            fd = _open_directory(directory)
        stack.callback(os.close, fd)
        yield fd


def attach(mounts: Sequence[Mount], target: str) -> None:
    """Mount them at `target`, for all to see; `detach` undoes it."""
    try:
        root = detached(mounts)
    except errors.Unimplemented:
        attach_each(plan(mounts), target)
        return
    try:
        calls.move_mount(root, AT_FDCWD, target)
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


def has(type: str) -> bool:
    """Whether the kernel has filesystems of `type`, or loads them now. True, too, where it cannot be asked."""
    try:
        os.close(calls.fsopen(type))
    except OSError as exc:
        return exc.errno != errno.ENODEV
    return True


def is_mount(path: str) -> bool:
    """Whether `path`, which is not followed when it is a link, is the root of a mount, bind mounts included."""
    found = fs.is_mount_root(AT_FDCWD, path)
    if found is not None:
        return found
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW)
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
        directory = os.path.realpath(directory)
        if is_mount(directory):
            return False
        calls.mount(directory, directory, "", MS_BIND)
        try:
            calls.mount("", directory, "", MS_PRIVATE)
        except BaseException:
            calls.umount2(directory, MNT_DETACH | UMOUNT_NOFOLLOW)
            raise
    except OSError as exc:
        raise errors.from_os(exc, f"making {directory} a private mount") from exc
    return True


def _lasting(mount: Mount) -> Mount:
    return msgspec.structs.replace(mount, options=[option for option in mount.options if option not in _VOLATILE])


def _open_directory(path: str, folder: int | None = None) -> int:
    # A descriptor of a detached mount is good for no reading: its directory is opened through it.
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    except OSError as exc:
        raise errors.from_os(exc, "opening the directory that was mounted") from exc


def _mount_id(fd: int) -> str:
    with open(f"/proc/self/fdinfo/{fd}") as info:
        return next(line.split()[1] for line in info if line.startswith("mnt_id:"))
