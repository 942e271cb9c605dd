"""Directories of snapshots: `snapshots/ID/`, made under a passing name, removed by way of `trash/`.

Whoever removes a snapshot waits for a rename alone. What is in `trash/` is removed by one thread, at low priority, that
is there only while there is something to remove; what it did not come to is removed after the next start.

What a snapshotter's tree says is the truth; a directory that it does not know is rubbish, from a crash or a removal.
"""

import contextlib
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator

from daemon.kit import atomic
from pyx import walk
from spec import errors
from spec.types import Usage

PAUSE_S = 0.05  # a thread for each of many removals took a sixth more CPU than one for all of this while
READ = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_sequence = itertools.count()


class Folders:
    """Below `root`, which nobody else may enter (mode 0700)."""

    def __init__(self, root: str) -> None:
        root = os.path.abspath(root)
        self._snapshots = os.path.join(root, "snapshots")
        self._trash = os.path.join(root, "trash")
        self._making: set[str] = set()
        self._removing = threading.Lock()  # held by whoever removes
        self._remover = Remover(self.empty)
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

    def sync(self, id: int) -> None:
        """Make the directory durable, and the names in it, but not what is below these. OSError.

        Its own name, too: ext4, xfs and btrfs write the rename that gave it with the directory. One flush of the disk.
        """
        atomic.sync_directory(self.path(id))

    def discard(self, name: str, at_once: bool) -> None:
        """Take `snapshots/NAME` out of the way and remove it, now or by `empty`. What cannot be moved or removed stays
        for `sweep` and `empty`: whoever says that a snapshot is gone has said so already."""
        rubbish = f"{name}-{time.time_ns():x}-{next(_sequence):x}"
        with contextlib.suppress(OSError):
            os.rename(os.path.join(self._snapshots, name), os.path.join(self._trash, rubbish))
            if at_once:
                self._remove([rubbish])
            else:
                self._remover.wake()

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
        with contextlib.suppress(FileNotFoundError):  # whoever owns the root took it away
            self._remove(os.listdir(self._trash))

    def close(self) -> None:
        """What is being removed is not waited for."""
        self._remover.close()

    def _remove(self, names: list[str]) -> None:
        fd = os.open(self._trash, READ)
        try:
            for name in names:
                with contextlib.suppress(OSError), self._removing:
                    walk.remove(fd, name)
        finally:
            os.close(fd)


class Remover:
    """One thread that calls `work` some time after `wake`, once for all that came meanwhile, and is gone when there is
    nothing to do. Whoever works on snapshots comes first: it is as nice as can be."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._wanted = False
        self._runs = False
        self._closed = threading.Event()

    def wake(self) -> None:
        with self._lock:
            self._wanted = True
            if self._runs or self._closed.is_set():
                return
            self._runs = True
        threading.Thread(target=self._run, name="snapshots-trash", daemon=True).start()

    def close(self) -> None:
        self._closed.set()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        while True:
            self._closed.wait(PAUSE_S)
            with self._lock:
                if not self._wanted or self._closed.is_set():
                    self._runs = False
                    return
                self._wanted = False
            with contextlib.suppress(OSError):
                self._work()


def usage(path: str) -> Usage:
    """What the tree at `path` takes."""
    try:
        fd = os.open(path, READ)
        try:
            size, inodes = walk.usage(fd)
        finally:
            os.close(fd)
    except OSError as exc:
        raise errors.from_os(exc, f"measuring {path}") from exc
    return Usage(size=size, inodes=inodes)


def follow(directory: str, below: str) -> None:
    """Give a layer's root the owner and mode of the root below it. OSError."""
    found = os.stat(below)
    if (found.st_uid, found.st_gid) != (os.geteuid(), os.getegid()):
        os.chown(directory, found.st_uid, found.st_gid)
    os.chmod(directory, found.st_mode & 0o7777)  # after the owner, whose change clears setgid
