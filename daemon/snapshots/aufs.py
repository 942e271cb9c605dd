"""Snapshots as branches of aufs: each has the directory of its own changes, and mounts unite them.

Layout: `snapshots/ID/fs`. A lone layer is bound; a stack is one aufs whose first branch is written to (`rw`) and whose
others are only read, whiteouts and all (`ro+wh`), the newest first.

A branch marks what it hides as aufs does, by files `.wh.NAME` and `.wh..wh..opq`, which is how archives of layers do,
too; through an aufs neither is to be seen or made. So a layer is unpacked through the mounted union by deleting what it
hides, and aufs itself writes the marks.

How many branches a union may have is the kernel's configuration, 127 by default (CONFIG_AUFS_BRANCH_MAX_127): a deeper
chain fails when it is mounted.
"""

import os
import zlib
from collections.abc import Sequence

from daemon.snapshots import folders
from daemon.snapshots.directory import DirectorySnapshotter
from daemon.snapshots.tree import Node
from spec import errors
from spec.ports import KV
from spec.records import Kind
from spec.types import Mount

FILESYSTEMS = "/proc/filesystems"
SPECIAL = ":,="  # in aufs' option strings, which know no escape


class Aufs(DirectorySnapshotter):
    """A ports.Snapshotter below `root`; Unimplemented when the kernel has no aufs just now: no module is loaded.

    `mount_options` are added to every aufs mount, and replace ours of the same name: `dio` allows direct I/O, with
    `dirperm1` the topmost directory alone says who may enter, and `xino` is where the union's inode numbers are kept.
    """

    def __init__(self, root: str, kv: KV, mount_options: Sequence[str] = (), sync_remove: bool = False) -> None:
        if not set(root).isdisjoint(SPECIAL):
            raise errors.InvalidArgument(f"aufs below {root}: its options cannot name a path with one of {SPECIAL}")
        if not _offered():
            raise errors.Unimplemented(f"aufs below {root}: the kernel has none ({FILESYSTEMS}); is its module loaded?")
        self._given = tuple(mount_options)
        self._house = f"{zlib.crc32(os.path.abspath(root).encode()):08x}"
        super().__init__(root, kv, sync_remove)

    def _fill(self, directory: str, kind: Kind, parent: int | None) -> None:
        """The root of a layer belongs to whom its parent's does."""
        fs = os.path.join(directory, "fs")
        os.mkdir(fs, 0o755)
        if parent is None:
            os.chmod(fs, 0o755)  # whatever the umask
        else:
            folders.follow(fs, self._own(parent))

    def _mounts(self, node: Node) -> Sequence[Mount]:
        own = self._own(node.id)
        lowers = [self._own(parent) for parent in node.parents]
        view = node.kind == Kind.VIEW
        if not lowers or (view and len(lowers) == 1):
            return (Mount(type="bind", source=(lowers or [own])[0], options=("ro" if view else "rw", "rbind")),)
        branches = [*(() if view else (f"{own}=rw",)), *(f"{lower}=ro+wh" for lower in lowers)]
        options = (*(("ro",) if view else ()), f"br:{':'.join(branches)}", *self._options(node.id))
        return (Mount(type="aufs", source="none", options=options),)

    def _options(self, id: int) -> Sequence[str]:
        """The file of inode numbers is made for its union alone (O_EXCL), and has no name once that is mounted: under
        one name for all, of two who mount at a time one would fail."""
        given = {option.partition("=")[0] for option in self._given}
        ours = ("dio", "dirperm1", f"xino=/dev/shm/holdd-{self._house}-{id}.xino")
        return (*(option for option in ours if option.partition("=")[0] not in given), *self._given)

    def _own(self, id: int) -> str:
        return self._folders.path(id, "fs")


def _offered() -> bool:
    """Each line of the list is a filesystem, perhaps after the word nodev (proc(5))."""
    with open(FILESYSTEMS) as file:
        return any(line.split()[-1:] == ["aufs"] for line in file)
