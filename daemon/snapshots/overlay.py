"""Snapshots as layers of overlayfs: each has the directory of its own changes, and mounts stack them.

Layout: `snapshots/ID/fs`, and `snapshots/ID/work` for an active one. Mounts are containerd's: a lone layer is bound, a
stack is an overlay with the newest layer first.
"""

import os
import threading
from collections.abc import Iterator, Sequence

from daemon.snapshots import folders
from daemon.snapshots.folders import Folders
from daemon.snapshots.tree import Snapshot, Tree
from spec import errors
from spec.base import Record
from spec.ports import KV
from spec.records import Kind, Labels, SnapshotInfo
from spec.types import Mount, Usage

INDEX = "/sys/module/overlay/parameters/index"


class OverlayConfig(Record, frozen=True):
    """`mount_options` are added to every overlay mount. `sync_remove` false leaves the space of what was removed to
    `cleanup`."""

    mount_options: Sequence[str] = ()
    sync_remove: bool = True


class Overlay:
    """A ports.Snapshotter below `root`, whose filesystem must be fit for overlay's upper layers."""

    def __init__(self, root: str, kv: KV, config: OverlayConfig = OverlayConfig()) -> None:
        self._folders = Folders(root)
        self._tree = Tree(kv)
        self._config = config
        given = config.mount_options
        index_off = os.path.exists(INDEX) and not any(option.startswith("index=") for option in given)
        self._options = (*(("index=off",) if index_off else ()), *given)
        self._emptying = threading.Lock()

    def prepare(self, key: str, parent: str = "", labels: Labels | None = None) -> Sequence[Mount]:
        return self._create(Kind.ACTIVE, key, parent, labels)

    def view(self, key: str, parent: str = "", labels: Labels | None = None) -> Sequence[Mount]:
        return self._create(Kind.VIEW, key, parent, labels)

    def mounts(self, key: str) -> Sequence[Mount]:
        return self._mounts(self._tree.active(key))

    def commit(self, name: str, key: str, labels: Labels | None = None, usage: Usage | None = None) -> None:
        if usage is None:
            usage = folders.usage(self._folders.path(self._tree.get(key).id, "fs"))
        self._tree.commit(name, key, labels, usage)

    def remove(self, key: str) -> None:
        node = self._tree.remove(key)
        self._folders.discard(str(node.id))
        if self._config.sync_remove:
            self._empty()

    def stat(self, key: str) -> SnapshotInfo:
        return self._tree.get(key).info

    def update(self, info: SnapshotInfo, fields: Sequence[str] = ()) -> SnapshotInfo:
        return self._tree.update(info, fields)

    def usage(self, key: str) -> Usage:
        node = self._tree.get(key)
        if node.info.kind == Kind.COMMITTED:
            return node.usage
        return folders.usage(self._folders.path(node.id, "fs"))

    def list(self, filters: Sequence[str] = ()) -> Iterator[SnapshotInfo]:
        return self._tree.list(filters)

    def cleanup(self) -> None:
        self._folders.sweep(self._tree.ids())
        self._folders.empty()

    def close(self) -> None:
        """Nothing is held open."""

    def _create(self, kind: Kind, key: str, parent: str, labels: Labels | None) -> Sequence[Mount]:
        """Directory first, then the record, then the directory's name: a crash in between leaves rubbish, or a record
        whose directory `_settled` makes again."""
        new = None
        try:
            new = self._folders.new()
            self._fill(new, kind)
            snapshot = self._tree.create(kind, key, parent, labels)
            if snapshot.parents:
                self._inherit(os.path.join(new, "fs"), snapshot.parents[0])
            self._folders.settle(new, snapshot.id)
        except OSError as exc:
            raise errors.from_os(exc, f"preparing snapshot {key}") from exc
        except errors.Error:
            if new is not None:
                self._folders.discard(os.path.basename(new))
                self._empty()
            raise
        return self._mounts(snapshot)

    def _fill(self, directory: str, kind: Kind) -> None:
        os.mkdir(os.path.join(directory, "fs"), 0o755)
        os.chmod(os.path.join(directory, "fs"), 0o755)  # whatever the umask
        if kind == Kind.ACTIVE:
            os.mkdir(os.path.join(directory, "work"), 0o711)

    def _inherit(self, fs: str, parent: int) -> None:
        """The root of a layer belongs to whom its parent's does."""
        owner = os.stat(self._folders.path(parent, "fs"))
        if (owner.st_uid, owner.st_gid) != (0, 0):
            os.chown(fs, owner.st_uid, owner.st_gid)
        if owner.st_mode & 0o7777 != 0o755:
            os.chmod(fs, owner.st_mode & 0o7777)

    def _mounts(self, snapshot: Snapshot) -> Sequence[Mount]:
        own = self._folders.path(snapshot.id, "fs")
        lowers = [self._folders.path(parent, "fs") for parent in snapshot.parents]
        if snapshot.kind == Kind.VIEW and len(lowers) <= 1:
            return (Mount(type="bind", source=lowers[0] if lowers else own, options=("ro", "rbind")),)
        if not lowers:
            return (Mount(type="bind", source=own, options=("rw", "rbind")),)
        options = []
        if snapshot.kind == Kind.ACTIVE:
            options += [f"workdir={self._folders.path(snapshot.id, 'work')}", f"upperdir={own}"]
        options.append(f"lowerdir={':'.join(lowers)}")
        return (Mount(type="overlay", source="overlay", options=(*options, *self._options)),)

    def _empty(self) -> None:
        """One at a time: whoever comes while another empties the trash has nothing to wait for."""
        if self._emptying.acquire(blocking=False):
            try:
                self._folders.empty()
            finally:
                self._emptying.release()
