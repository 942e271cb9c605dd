"""What all snapshotters have in common that keep each snapshot in a directory: the tree's record and the directory are
made, found again and removed together. Knows not what is in a directory, nor how it is mounted."""

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar

from daemon.snapshots import folders
from daemon.snapshots.folders import Folders
from daemon.snapshots.tree import Node, Tree
from spec import errors
from spec.ports import KV
from spec.records import Kind, Labels, SnapshotInfo
from spec.types import Mount, Usage


class DirectorySnapshotter(ABC):
    """A ports.Snapshotter below `root`, whose truth is in `kv`.

    Order of a creation: the directory under a passing name, the record, the directory's own name. So a crash in between
    leaves rubbish for `cleanup`, or a record whose directory is made again at the next start; never half a snapshot.
    What is committed has its directory after a power loss, too; what was written into it its writer has to sync.
    Of a removal: the record, then the directory.
    """

    FOLDERS: ClassVar[type[Folders]] = Folders

    def __init__(self, root: str, kv: KV, sync_remove: bool = False) -> None:
        """With `sync_remove` a removal returns once the disk space is given back; else a thread does that later."""
        self._folders = self.FOLDERS(root)
        self._tree = Tree(kv)
        self._sync_remove = sync_remove
        self._recover()

    @property
    def capabilities(self) -> frozenset[str]:
        """None, unless a room says otherwise."""
        return frozenset()

    @abstractmethod
    def _fill(self, directory: str, kind: Kind, parent: int | None) -> None:
        """Make a new directory what a snapshot on top of the one with id `parent` starts as. OSError."""

    def _label(self, directory: str, labels: Labels) -> None:  # noqa: B027 (few ask for anything)
        """Make a filled directory what its snapshot's labels ask for. OSError."""

    @abstractmethod
    def _mounts(self, node: Node) -> Sequence[Mount]:
        """What shows an active snapshot or a view."""

    @abstractmethod
    def _own(self, id: int) -> str:
        """The path of the tree that counts as a snapshot's own."""

    def _rebase(self, node: Node, below: Node) -> None:  # noqa: B027 (most cannot)
        """Make a snapshot without a parent one that stands on `below`. OSError."""

    def prepare(self, key: str, parent: str = "", labels: Labels | None = None) -> Sequence[Mount]:
        return self._create(Kind.ACTIVE, key, parent, labels)

    def view(self, key: str, parent: str = "", labels: Labels | None = None) -> Sequence[Mount]:
        return self._create(Kind.VIEW, key, parent, labels)

    def mounts(self, key: str) -> Sequence[Mount]:
        return self._mounts(self._tree.active(key))

    def commit(
        self, name: str, key: str, labels: Labels | None = None, usage: Usage | None = None, parent: str = ""
    ) -> None:
        node, below = self._tree.committing(name, key, parent)
        if below is not None:
            if "rebase" not in self.capabilities:
                raise errors.Unimplemented(f"committing snapshot {key} on top of {parent}: it cannot be rebased")
            try:
                self._rebase(node, below)
            except OSError as exc:
                raise errors.from_os(exc, f"committing snapshot {key} on top of {parent}") from exc
        try:
            self._folders.sync(node.id)
        except OSError as exc:
            raise errors.from_os(exc, f"committing snapshot {key}") from exc
        self._tree.commit(name, key, labels, usage or Usage(), parent)

    def remove(self, key: str) -> None:
        self._folders.discard(str(self._tree.remove(key).id), self._sync_remove)

    def stat(self, key: str) -> SnapshotInfo:
        return self._tree.get(key).info

    def update(self, info: SnapshotInfo, fields: Sequence[str] = ()) -> SnapshotInfo:
        return self._tree.update(info, fields)

    def usage(self, key: str) -> Usage:
        """What is committed is walked once at most: when it is first asked for, so that no commit takes longer for a
        larger tree."""
        node = self._tree.get(key)
        if node.usage.inodes:
            return node.usage
        usage = folders.usage(self._own(node.id))
        if node.kind == Kind.COMMITTED:
            self._tree.measured(node, usage)
        return usage

    def list(self, filters: Sequence[str] = ()) -> Iterator[SnapshotInfo]:
        return self._tree.list(filters)

    def cleanup(self) -> None:
        self._folders.sweep(self._tree.ids)
        self._folders.empty()

    def close(self) -> None:
        self._folders.close()

    def _create(self, kind: Kind, key: str, parent: str, labels: Labels | None) -> Sequence[Mount]:
        try:
            below = self._tree.parent_of(key, parent)
            with self._folders.making() as new:
                self._fill(new, kind, below.id if below else None)
                self._label(new, labels or {})
                node = self._tree.create(kind, key, parent, labels)
                try:
                    self._folders.settle(new, node.id)
                except OSError:
                    self._tree.remove(key)
                    raise
        except OSError as exc:
            raise errors.from_os(exc, f"preparing snapshot {key}") from exc
        return self._mounts(node)

    def _recover(self) -> None:
        """Make the directories that a crash kept from their names. Nobody had been told of them, or the host went down
        before it wrote what was in them."""
        for node in self._tree.nodes():
            if node.kind == Kind.COMMITTED or os.path.isdir(self._folders.path(node.id)):
                continue
            # One that cannot be made fails whoever mounts it, not all others.
            with contextlib.suppress(OSError, errors.Error), self._folders.making() as new:
                self._fill(new, node.kind, node.parents[0] if node.parents else None)
                self._label(new, node.info.labels)
                self._folders.settle(new, node.id)
