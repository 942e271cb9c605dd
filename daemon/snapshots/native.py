"""Snapshots as whole copies: works on any filesystem, shares blocks where it can.

Layout: `snapshots/ID/`. An active snapshot starts as a copy of its parent; a view of a parent is the parent, read-only.
"""

import os
from collections.abc import Iterator, Sequence

from daemon.snapshots import folders
from daemon.snapshots.folders import Folders
from daemon.snapshots.tree import Snapshot, Tree
from pyx import walk
from spec import errors
from spec.ports import KV
from spec.records import Kind, Labels, SnapshotInfo
from spec.types import Mount, Usage


class Native:
    """A ports.Snapshotter below `root`."""

    def __init__(self, root: str, kv: KV) -> None:
        self._folders = Folders(root)
        self._tree = Tree(kv)

    def prepare(self, key: str, parent: str = "", labels: Labels | None = None) -> Sequence[Mount]:
        return self._create(Kind.ACTIVE, key, parent, labels)

    def view(self, key: str, parent: str = "", labels: Labels | None = None) -> Sequence[Mount]:
        return self._create(Kind.VIEW, key, parent, labels)

    def mounts(self, key: str) -> Sequence[Mount]:
        return self._mounts(self._tree.active(key))

    def commit(self, name: str, key: str, labels: Labels | None = None, usage: Usage | None = None) -> None:
        """A given `usage` is of the change alone, while this snapshot holds it all: so it is measured."""
        self._tree.commit(name, key, labels, folders.usage(self._folders.path(self._tree.get(key).id)))

    def remove(self, key: str) -> None:
        node = self._tree.remove(key)
        self._folders.discard(str(node.id))
        self._folders.empty()

    def stat(self, key: str) -> SnapshotInfo:
        return self._tree.get(key).info

    def update(self, info: SnapshotInfo, fields: Sequence[str] = ()) -> SnapshotInfo:
        return self._tree.update(info, fields)

    def usage(self, key: str) -> Usage:
        node = self._tree.get(key)
        if node.info.kind == Kind.COMMITTED:
            return node.usage
        return folders.usage(self._folders.path(node.id))

    def list(self, filters: Sequence[str] = ()) -> Iterator[SnapshotInfo]:
        return self._tree.list(filters)

    def cleanup(self) -> None:
        self._folders.sweep(self._tree.ids())
        self._folders.empty()

    def close(self) -> None:
        """Nothing is held open."""

    def _create(self, kind: Kind, key: str, parent: str, labels: Labels | None) -> Sequence[Mount]:
        """The copy first, then the record, then the name, as overlay's."""
        new = None
        try:
            new = self._folders.new()
            os.chmod(new, 0o755)
            if parent and kind == Kind.ACTIVE:
                node = self._tree.get(parent)
                _copy(self._folders.path(node.id), new)
            snapshot = self._tree.create(kind, key, parent, labels)
            self._folders.settle(new, snapshot.id)
        except OSError as exc:
            raise errors.from_os(exc, f"preparing snapshot {key}") from exc
        except errors.Error:
            if new is not None:
                self._folders.discard(os.path.basename(new))
                self._folders.empty()
            raise
        return self._mounts(snapshot)

    def _mounts(self, snapshot: Snapshot) -> Sequence[Mount]:
        if snapshot.kind == Kind.VIEW:
            shown = snapshot.parents[0] if snapshot.parents else snapshot.id
            return (Mount(type="bind", source=self._folders.path(shown), options=("ro", "rbind")),)
        return (Mount(type="bind", source=self._folders.path(snapshot.id), options=("rw", "rbind")),)


def _copy(source: str, target: str) -> None:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    here = os.open(source, flags)
    try:
        there = os.open(target, flags)
        try:
            walk.copy(here, there)
        finally:
            os.close(there)
    finally:
        os.close(here)
