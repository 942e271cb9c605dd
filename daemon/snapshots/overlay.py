"""Snapshots as layers of overlayfs: each has the directory of its own changes, and mounts stack them.

Layout: `snapshots/ID/fs`, and `snapshots/ID/work` for an active one. Mounts are containerd's: a lone layer is bound, a
stack is an overlay with the newest layer first.

Labels of a snapshot that it heeds (`spec.names`): UID_MAPPING and GID_MAPPING show the layers below through these maps;
what is written is owned by who writes it, so nothing else should stand on it. VOLATILE is for a snapshot that ends with
its container: its overlay never syncs, and cannot be mounted again once it was written through.
"""

import os
from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from daemon.kit import mounting
from daemon.snapshots import folders
from daemon.snapshots.directory import DirectorySnapshotter
from daemon.snapshots.probes import Probes
from daemon.snapshots.tree import Node
from spec import errors, idmaps, names
from spec.ports import KV
from spec.records import Kind, Labels, SnapshotInfo
from spec.types import Mount

SPECIAL = ":,\\"  # in overlay's option strings


class Overlay(DirectorySnapshotter):
    """A ports.Snapshotter below `root`, whose filesystem must be fit for overlay's upper layers.

    `mount_options` are added to every overlay mount. `upperdir_label` tells the directory of a snapshot's changes in a
    label (UPPER_DIRECTORY). Where id maps cannot be had, `slow_chown` lets owners be changed one by one instead.
    """

    def __init__(
        self,
        root: str,
        kv: KV,
        mount_options: Sequence[str] = (),
        sync_remove: bool = False,
        upperdir_label: bool = False,
        slow_chown: bool = False,
    ) -> None:
        if not set(root).isdisjoint(SPECIAL):
            raise errors.InvalidArgument(f"overlay below {root}: its options cannot name a path with one of {SPECIAL}")
        if not mounting.has("overlay"):
            raise errors.FailedPrecondition(f"overlay below {root}: the kernel has none; is its module loaded?")
        self._root = root
        self._given = tuple(mount_options)
        self._upperdir_label = upperdir_label
        self._slow_chown = slow_chown
        self._probes = Probes(root)
        super().__init__(root, kv, sync_remove)
        if not self._probes.names_types:
            raise errors.FailedPrecondition(
                f"overlay below {root}: the filesystem does not tell types of files (d_type); xfs must be made with"
                " -n ftype=1"
            )

    @property
    def capabilities(self) -> frozenset[str]:
        found = {
            "rebase": not self._probes.in_user_namespace,
            "remap-ids": self._probes.maps_ids,
            "only-remap-ids": not self._slow_chown,
        }
        return frozenset(name for name, has in found.items() if has)

    def stat(self, key: str) -> SnapshotInfo:
        return self._shown(super().stat(key))

    def update(self, info: SnapshotInfo, fields: Sequence[str] = ()) -> SnapshotInfo:
        return self._shown(super().update(info, fields))

    def list(self, filters: Sequence[str] = ()) -> Iterator[SnapshotInfo]:
        return map(self._shown, super().list(filters))

    def _shown(self, info: SnapshotInfo) -> SnapshotInfo:
        if not self._upperdir_label:
            return info
        try:
            labels = {**info.labels, names.UPPER_DIRECTORY: self._own(self._tree.get(info.name).id)}
        except errors.NotFound:
            return info  # it was removed since it was listed
        return replace(info, labels=labels)

    def _create(self, kind: Kind, key: str, parent: str, labels: Labels | None) -> Sequence[Mount]:
        if idmaps.of(labels) is not None and "remap-ids" not in self.capabilities and not self._slow_chown:
            raise errors.Unimplemented(
                f"preparing snapshot {key}: this host cannot map ids of overlays; slow_chown would change owners"
            )
        return super()._create(kind, key, parent, labels)

    def _fill(self, directory: str, kind: Kind, parent: int | None) -> None:
        """The root of a layer belongs to whom its parent's does."""
        fs = os.path.join(directory, "fs")
        os.mkdir(fs, 0o755)
        if parent is None:
            os.chmod(fs, 0o755)  # whatever the umask
        else:
            folders.follow(fs, self._own(parent))
        if kind == Kind.ACTIVE:
            os.mkdir(os.path.join(directory, "work"), 0o711)

    def _label(self, directory: str, labels: Labels) -> None:
        """Who is root inside owns the root. A change of owner clears setgid."""
        maps = idmaps.of(labels)
        if maps is not None and "remap-ids" in self.capabilities:
            fs = os.path.join(directory, "fs")
            mode = os.stat(fs).st_mode & 0o7777
            os.chown(fs, *maps.root)
            os.chmod(fs, mode)

    def _rebase(self, node: Node, below: Node) -> None:
        """A layer's own directory holds the same on whatever it stands; but its root stands for theirs."""
        own = self._own(node.id)
        found = os.stat(own)
        if (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (os.geteuid(), os.getegid(), 0o755):
            folders.follow(own, self._own(below.id))

    def _mounts(self, node: Node) -> Sequence[Mount]:
        own = self._own(node.id)
        lowers = [self._own(parent) for parent in node.parents]
        maps = idmaps.of(node.info.labels) if "remap-ids" in self.capabilities else None
        mapped = maps.options if maps and lowers else ()
        if node.kind == Kind.VIEW and len(lowers) <= 1:
            return (Mount(type="bind", source=lowers[0] if lowers else own, options=("ro", "rbind", *mapped)),)
        if not lowers:
            return (Mount(type="bind", source=own, options=("rw", "rbind")),)
        options = [f"lowerdir={':'.join(lowers)}", *self._options, *mapped]
        if node.kind == Kind.ACTIVE:
            options = [f"workdir={self._folders.path(node.id, 'work')}", f"upperdir={own}", *options]
            if node.info.labels.get(names.VOLATILE) and "volatile" not in options and self._probes.takes_volatile:
                options.append("volatile")
        return (Mount(type="overlay", source="overlay", options=tuple(options)),)

    @property
    def _options(self) -> tuple[str, ...]:
        """Of every overlay: what the host needs, unless the configuration says otherwise, and what that adds."""
        words = {option.partition("=")[0] for option in self._given}
        index = ("index=off",) if self._probes.has_index and "index" not in words else ()
        xattr = ("userxattr",) if self._probes.wants_user_xattr and "userxattr" not in words else ()
        return (*index, *xattr, *self._given)

    def _own(self, id: int) -> str:
        return self._folders.path(id, "fs")
