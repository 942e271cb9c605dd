"""Directories of snapshots: `snapshots/ID/`, made under a passing name, removed by way of `trash/`.

What a snapshotter's tree says is the truth; a directory that it does not know is rubbish, from a crash or a removal.
"""

import contextlib
import itertools
import os
import time

from pyx import walk
from spec import errors
from spec.types import Usage

_sequence = itertools.count()


class Folders:
    """Below `root`, which nobody else may enter (mode 0700)."""

    def __init__(self, root: str) -> None:
        self._snapshots = os.path.join(root, "snapshots")
        self._trash = os.path.join(root, "trash")
        for path in (root, self._snapshots, self._trash):
            os.makedirs(path, mode=0o700, exist_ok=True)
            os.chmod(path, 0o700)

    def path(self, id: int, *parts: str) -> str:
        return os.path.join(self._snapshots, str(id), *parts)

    def new(self) -> str:
        """An empty directory that no id names yet."""
        path = os.path.join(self._snapshots, f"new-{time.time_ns():x}-{next(_sequence):x}")
        os.mkdir(path, 0o700)
        return path

    def settle(self, new: str, id: int) -> None:
        """Give a new directory its id. One that a crash left there is rubbish."""
        try:
            os.rename(new, self.path(id))
        except OSError:
            self.discard(os.path.basename(self.path(id)))
            os.rename(new, self.path(id))

    def discard(self, name: str) -> None:
        """Take `snapshots/NAME` out of the way, at once, to be removed by `empty`; not there is fine."""
        with contextlib.suppress(FileNotFoundError):
            os.rename(
                os.path.join(self._snapshots, name),
                os.path.join(self._trash, f"{name}-{time.time_ns():x}-{next(_sequence):x}"),
            )

    def sweep(self, known: set[int]) -> None:
        """Discard what is none of `known`."""
        for name in os.listdir(self._snapshots):
            if not name.isdigit() or int(name) not in known:
                self.discard(name)

    def empty(self) -> None:
        """Remove what was discarded; what cannot be removed stays for the next time."""
        fd = os.open(self._trash, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name in os.listdir(fd):
                with contextlib.suppress(OSError):
                    walk.remove(fd, name)
        finally:
            os.close(fd)


def usage(path: str) -> Usage:
    """What the tree at `path` takes."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        raise errors.from_os(exc, f"measuring {path}") from exc
    try:
        size, inodes = walk.usage(fd)
    except OSError as exc:
        raise errors.from_os(exc, f"measuring {path}") from exc
    finally:
        os.close(fd)
    return Usage(size=size, inodes=inodes)
