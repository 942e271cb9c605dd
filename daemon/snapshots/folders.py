"""Directories of snapshots: `snapshots/ID/`, made under a passing name, removed by way of `trash/`.

What a snapshotter's tree says is the truth; a directory that it does not know is rubbish, from a crash or a removal.
"""

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterator

from pyx import walk
from spec import errors
from spec.types import Usage

_sequence = itertools.count()


class Folders:
    """Below `root`, which nobody else may enter (mode 0700)."""

    def __init__(self, root: str) -> None:
        root = os.path.abspath(root)
        self._snapshots = os.path.join(root, "snapshots")
        self._trash = os.path.join(root, "trash")
        self._making: set[str] = set()
        for path in (root, self._snapshots, self._trash):
            os.makedirs(path, mode=0o700, exist_ok=True)
            os.chmod(path, 0o700)

    def path(self, id: int, *parts: str) -> str:
        return os.path.join(self._snapshots, str(id), *parts)

    @contextlib.contextmanager
    def making(self) -> Iterator[str]:
        """An empty directory that no id names yet, for the block to fill and `settle`; else it is gone afterwards."""
        name = f"new-{time.time_ns():x}-{next(_sequence):x}"
        path = os.path.join(self._snapshots, name)
        self._making.add(name)  # before it can be seen: `sweep` leaves it alone
        try:
            os.mkdir(path, 0o700)
            try:
                yield path
            except BaseException:
                self.discard(name, at_once=True)
                raise
        finally:
            self._making.discard(name)

    def settle(self, new: str, id: int) -> None:
        """Give a new directory its id. One that a crash left there is rubbish."""
        try:
            os.rename(new, self.path(id))
        except OSError:
            self.discard(str(id), at_once=False)
            os.rename(new, self.path(id))

    def discard(self, name: str, at_once: bool) -> None:
        """Take `snapshots/NAME` out of the way and remove it, now or by `empty`. What cannot be moved or removed stays
        for `sweep` and `empty`: whoever says that a snapshot is gone has said so already."""
        rubbish = f"{name}-{time.time_ns():x}-{next(_sequence):x}"
        with contextlib.suppress(OSError):
            os.rename(os.path.join(self._snapshots, name), os.path.join(self._trash, rubbish))
            if at_once:
                self._remove([rubbish])

    def sweep(self, known: Callable[[], set[int]]) -> None:
        """Discard what is none of `known`, which is asked once the directories have been listed: each of them that was
        being made has its record by then, or is still in the making."""
        names = os.listdir(self._snapshots)
        making = set(self._making)
        ids = known()
        for name in names:
            if name not in making and not (name.isdecimal() and int(name) in ids):
                self.discard(name, at_once=False)

    def empty(self) -> None:
        """Remove what was discarded; what cannot be removed stays for the next time."""
        self._remove(os.listdir(self._trash))

    def _remove(self, names: list[str]) -> None:
        fd = os.open(self._trash, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name in names:
                with contextlib.suppress(OSError):
                    walk.remove(fd, name)
        finally:
            os.close(fd)


def usage(path: str) -> Usage:
    """What the tree at `path` takes."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            size, inodes = walk.usage(fd)
        finally:
            os.close(fd)
    except OSError as exc:
        raise errors.from_os(exc, f"measuring {path}") from exc
    return Usage(size=size, inodes=inodes)
