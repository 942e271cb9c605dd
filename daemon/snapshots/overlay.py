"""Snapshots as layers of overlayfs: each has the directory of its own changes, and mounts stack them.

Layout: `snapshots/ID/fs`, and `snapshots/ID/work` for an active one. Mounts are containerd's: a lone layer is bound, a
stack is an overlay with the newest layer first.
"""

import os
from collections.abc import Sequence

from daemon.snapshots.directory import DirectorySnapshotter
from daemon.snapshots.tree import Node
from spec import errors
from spec.base import Record
from spec.ports import KV
from spec.records import Kind
from spec.types import Mount

INDEX = "/sys/module/overlay/parameters/index"
SPECIAL = ":,\\"  # in overlay's option strings


class OverlayConfig(Record, frozen=True):
    """`mount_options` are added to every overlay mount. `sync_remove` false leaves the space of what was removed to
    `cleanup`."""

    mount_options: Sequence[str] = ()
    sync_remove: bool = True


class Overlay(DirectorySnapshotter):
    """A ports.Snapshotter below `root`, whose filesystem must be fit for overlay's upper layers."""

    capabilities = frozenset({"rebase"})

    def __init__(self, root: str, kv: KV, config: OverlayConfig = OverlayConfig()) -> None:
        if not set(root).isdisjoint(SPECIAL):
            raise errors.InvalidArgument(f"overlay below {root}: its options cannot name a path with one of {SPECIAL}")
        given = config.mount_options
        index_off = os.path.exists(INDEX) and not any(option.startswith("index=") for option in given)
        self._options = (*(("index=off",) if index_off else ()), *given)
        super().__init__(root, kv, config.sync_remove)

    def _rebase(self, node: Node, below: Node) -> None:
        """A layer's own directory holds the same on whatever it stands; but its root stands for theirs."""
        own = self._own(node.id)
        found = os.stat(own)
        if (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (os.geteuid(), os.getegid(), 0o755):
            _follow(own, self._own(below.id))

    def _fill(self, directory: str, kind: Kind, parent: int | None) -> None:
        """The root of a layer belongs to whom its parent's does."""
        fs = os.path.join(directory, "fs")
        os.mkdir(fs, 0o755)
        if parent is None:
            os.chmod(fs, 0o755)  # whatever the umask
        else:
            _follow(fs, self._own(parent))
        if kind == Kind.ACTIVE:
            os.mkdir(os.path.join(directory, "work"), 0o711)

    def _mounts(self, node: Node) -> Sequence[Mount]:
        own = self._own(node.id)
        lowers = [self._own(parent) for parent in node.parents]
        if node.kind == Kind.VIEW and len(lowers) <= 1:
            return (Mount(type="bind", source=lowers[0] if lowers else own, options=("ro", "rbind")),)
        if not lowers:
            return (Mount(type="bind", source=own, options=("rw", "rbind")),)
        options = []
        if node.kind == Kind.ACTIVE:
            options += [f"workdir={self._folders.path(node.id, 'work')}", f"upperdir={own}"]
        options.append(f"lowerdir={':'.join(lowers)}")
        return (Mount(type="overlay", source="overlay", options=(*options, *self._options)),)

    def _own(self, id: int) -> str:
        return self._folders.path(id, "fs")


def _follow(fs: str, below: str) -> None:
    """Give a layer's root the owner and mode of the root below it."""
    found = os.stat(below)
    if (found.st_uid, found.st_gid) != (os.geteuid(), os.getegid()):
        os.chown(fs, found.st_uid, found.st_gid)
    os.chmod(fs, found.st_mode & 0o7777)  # after the owner, whose change clears setgid
