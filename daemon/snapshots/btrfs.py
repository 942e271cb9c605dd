"""Snapshots as subvolumes of btrfs: the filesystem itself copies on write, and a chain of layers is never stacked.

Layout: `snapshots/ID/active` is the subvolume of an active snapshot, `snapshots/ID/committed` the read-only one that it
becomes, `snapshots/ID/view` a plain directory for a view of nothing; a view of a parent is the parent's, read-only.

Mounts are binds of these directories, not mounts of the filesystem with `subvolid=`: those would need its device, which
may be one of many, and would take none of the options that the administrator mounted it with.
"""

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence

from daemon.kit.keylock import KeyLock
from daemon.snapshots.directory import DirectorySnapshotter
from daemon.snapshots.folders import READ, Folders
from daemon.snapshots.tree import Node
from pyx import btrfs, fs, walk
from spec import errors
from spec.ports import KV
from spec.records import Kind, Labels
from spec.types import Mount, Usage

ACTIVE, COMMITTED, VIEW = "active", "committed", "view"
PATIENCE = 8  # how often a subvolume may turn out to hold another one that somebody made meanwhile


class Subvolumes(Folders):
    """Folders whose entries may be subvolumes: those are destroyed, not emptied."""

    def _remove(self, names: list[str]) -> None:
        for name in names:
            with contextlib.suppress(OSError), _opened(os.path.join(self._trash, name)) as fd:
                for inner in os.listdir(fd):
                    with contextlib.suppress(OSError):
                        destroy(fd, inner)
        super()._remove(names)  # what is left


class Btrfs(DirectorySnapshotter):
    """A ports.Snapshotter below `root`; Unimplemented when that is on no btrfs."""

    FOLDERS = Subvolumes

    def __init__(self, root: str, kv: KV, sync_remove: bool = False) -> None:
        self._commits = KeyLock()
        with _opened(_existing(root)) as fd:
            if not btrfs.is_btrfs(fd):
                raise errors.Unimplemented(f"snapshots below {root}: it is on no btrfs")
        super().__init__(root, kv, sync_remove)

    def commit(
        self, name: str, key: str, labels: Labels | None = None, usage: Usage | None = None, parent: str = ""
    ) -> None:
        """What is written to the active one through descriptors that are still open does not reach the committed
        one, which is durable before its record."""
        with self._commits.held(key):
            node, _ = self._tree.committing(name, key, parent)
            try:
                with _opened(self._folders.path(node.id)) as folder:
                    measured = _freeze(folder)
                    with contextlib.ExitStack() as undo:
                        undo.callback(destroy, folder, COMMITTED)
                        super().commit(name, key, labels, usage or measured, parent)
                        undo.pop_all()
                    with contextlib.suppress(OSError):  # what stays is for `cleanup`
                        destroy(folder, ACTIVE)
            except OSError as exc:
                raise errors.from_os(exc, f"committing snapshot {key}") from exc

    def usage(self, key: str) -> Usage:
        """Of an active one: what has been written out."""
        node = self._tree.get(key)
        if node.kind != Kind.ACTIVE:
            return node.usage
        try:
            with _opened(self._own(node.id)) as fd:
                return _measured(fd, btrfs.subvolume(fd)[1])
        except OSError as exc:
            raise errors.from_os(exc, f"measuring snapshot {key}") from exc

    def cleanup(self) -> None:
        """Also of commits that a crash cut short: before their record, or after it."""
        for node in self._tree.nodes():
            rest = ACTIVE if node.kind == Kind.COMMITTED else COMMITTED
            if os.path.lexists(self._folders.path(node.id, rest)):
                self._finish(node, rest)
        super().cleanup()

    def _finish(self, node: Node, rest: str) -> None:
        with self._commits.held(node.info.name), contextlib.suppress(OSError, errors.NotFound):
            if self._tree.get(node.info.name).id == node.id:  # as it was before we waited
                with _opened(self._folders.path(node.id)) as folder:
                    destroy(folder, rest)

    def _fill(self, directory: str, kind: Kind, parent: int | None) -> None:
        if kind == Kind.VIEW:
            if parent is None:
                os.mkdir(os.path.join(directory, VIEW))
                os.chmod(os.path.join(directory, VIEW), 0o755)
            return
        with _opened(directory) as folder:
            if parent is None:
                btrfs.create(folder, ACTIVE)
                os.chmod(ACTIVE, 0o755, dir_fd=folder)
            else:
                with _opened(self._folders.path(parent, COMMITTED)) as source:
                    btrfs.snapshot(source, folder, ACTIVE)

    def _mounts(self, node: Node) -> Sequence[Mount]:
        if node.kind == Kind.ACTIVE:
            return (Mount(type="bind", source=self._own(node.id), options=("rw", "rbind")),)
        parent = self._folders.path(node.parents[0], COMMITTED) if node.parents else ""
        return (Mount(type="bind", source=parent or self._folders.path(node.id, VIEW), options=("ro", "rbind")),)

    def _own(self, id: int) -> str:
        return self._folders.path(id, ACTIVE)


def destroy(folder: int, name: str) -> None:
    """Destroy the subvolume `name` of the directory `folder` and all inside it; not there is fine. OSError."""
    for patience in range(PATIENCE, 0, -1):
        try:
            btrfs.destroy(folder, name)
            return
        except FileNotFoundError:
            return
        except OSError as exc:
            if exc.errno != errno.ENOTEMPTY or patience == 1:
                raise
        with _opened(name, folder) as fd:
            _destroy_inner(fd)


def _destroy_inner(fd: int) -> None:
    """Of the subvolumes inside the one that `fd` is: a container may make some. By their ids, as its paths are not to
    be trusted, and the innermost first."""
    ids = [btrfs.subvolume(fd)[0]]
    for id in ids:
        ids += btrfs.inside(fd, id)
    for id in reversed(ids[1:]):
        with contextlib.suppress(FileNotFoundError):
            btrfs.destroy_id(fd, id)


def _freeze(folder: int) -> Usage:
    """Make COMMITTED what ACTIVE is now, read-only and durable; what it takes by itself."""
    destroy(folder, COMMITTED)  # of a commit that a crash cut short
    with _opened(ACTIVE, folder) as source:
        id, since = btrfs.subvolume(source)
        if btrfs.inside(source, id):
            _copy(source, folder)
        else:
            btrfs.snapshot(source, folder, COMMITTED, readonly=True)
    with _opened(COMMITTED, folder) as made:
        return _measured(made, since)


def _copy(source: int, folder: int) -> None:
    """A snapshot would leave out the subvolumes inside `source`: a copy, whose files share all blocks, has them as
    plain directories."""
    btrfs.create(folder, COMMITTED)
    try:
        with _opened(COMMITTED, folder) as made:
            walk.copy(source, made)
            fs.syncfs(made)
            btrfs.set_readonly(made, True)
    except BaseException:
        destroy(folder, COMMITTED)
        raise


def _measured(fd: int, since: int) -> Usage:
    size, inodes = btrfs.changed(fd, since)
    return Usage(size=size, inodes=inodes)


def _existing(path: str) -> str:
    """`path`, or the nearest directory above that there is."""
    path = os.path.realpath(path)
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


@contextlib.contextmanager
def _opened(path: str, folder: int | None = None) -> Iterator[int]:
    fd = os.open(path, READ, dir_fd=folder)
    try:
        yield fd
    finally:
        os.close(fd)
