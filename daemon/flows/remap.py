"""Snapshots whose files shall be seen as others': by id maps where the snapshotter has them, else by new owners."""

import errno
from collections.abc import Sequence

from daemon.kit import mounting
from pyx import walk
from spec import errors, idmaps
from spec.ports import Snapshotter
from spec.records import Labels
from spec.types import Mount


def prepare(snapshotter: Snapshotter, key: str, parent: str, labels: Labels) -> Sequence[Mount]:
    """As Snapshotter.prepare, with the maps that labels name heeded by every snapshotter: one that cannot map gives its
    files away one by one, unless it forbids that (Unimplemented). InvalidArgument for an owner that a map lacks."""
    maps = _owners(snapshotter, key, labels)
    mounts = snapshotter.prepare(key, parent, labels)
    if maps is None:
        return mounts
    try:
        with mounting.opened(mounts) as root:
            walk.shift(root, idmaps.ranges(maps.users), idmaps.ranges(maps.groups))
    except BaseException as exc:
        snapshotter.remove(key)
        if not isinstance(exc, OSError):
            raise
        if exc.errno == errno.EOVERFLOW:
            raise errors.InvalidArgument(f"preparing snapshot {key}: no map has the owner of {exc.filename}") from exc
        raise errors.from_os(exc, f"preparing snapshot {key}: giving its files away") from exc
    return mounts


def view(snapshotter: Snapshotter, key: str, parent: str, labels: Labels) -> Sequence[Mount]:
    """As Snapshotter.view; what cannot be mapped cannot be given away either."""
    if _owners(snapshotter, key, labels) is not None:
        raise errors.Unimplemented(f"preparing snapshot {key}: this snapshotter maps no ids, and a view has no owners")
    return snapshotter.view(key, parent, labels)


def _owners(snapshotter: Snapshotter, key: str, labels: Labels) -> idmaps.IdMaps | None:
    """By which maps files must be given away; None when none must."""
    maps = idmaps.of(labels)
    if maps is None or "remap-ids" in snapshotter.capabilities:
        return None
    if "only-remap-ids" in snapshotter.capabilities:
        raise errors.Unimplemented(f"preparing snapshot {key}: this host cannot map ids, and owners are not changed")
    return maps
