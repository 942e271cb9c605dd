"""Mounting what a snapshotter planned, in the client's own mount namespace: the daemon mounts nothing for clients."""

import errno
from collections.abc import Sequence

from daemon.kit import mounting
from daemon.kit.steps import UMOUNT_NOFOLLOW
from pyx import mount as calls
from spec import errors
from spec.types import Mount


def attach(mounts: Sequence[Mount], target: str) -> None:
    """Mount them at the directory `target`."""
    mounting.attach(mounts, target)


def detach_all(target: str) -> None:
    """Unmount all that is at `target`; nothing there is fine. Unavailable while it is in use."""
    while True:
        try:
            calls.umount2(target, UMOUNT_NOFOLLOW)
        except OSError as exc:
            if exc.errno in (errno.EINVAL, errno.ENOENT):
                return
            raise errors.from_os(exc, f"unmounting {target}") from exc
