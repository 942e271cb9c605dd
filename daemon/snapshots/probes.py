"""What this kernel and the filesystem below a directory can do for overlay. Each answer is found by trying, once, with
mounts that nobody sees; it is no answer when there is no room to try."""

import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property

from daemon.kit import mounting
from pyx import fs
from spec import errors
from spec.types import Mount

INDEX = "/sys/module/overlay/parameters/index"
UID_MAP = "/proc/self/uid_map"
MAPS = ("uidmap=0:1:1", "gidmap=0:1:1")


class Probes:
    """`root` is an existing directory, where layers will be."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._found: dict[tuple[str, ...], bool] = {}

    @cached_property
    def names_types(self) -> bool:
        """Whether a directory's entries tell what they are (d_type), without which overlay sees whiteouts as files. The
        root's own tell where it has some: so a full disk is no hindrance."""
        if os.listdir(self._root):
            return _names_types(self._root)
        with tempfile.TemporaryDirectory(prefix="probe-", dir=self._root) as place:
            os.mkdir(os.path.join(place, "entry"))
            return _names_types(place)

    @cached_property
    def has_index(self) -> bool:
        return os.path.exists(INDEX)

    @cached_property
    def in_user_namespace(self) -> bool:
        """Whether the daemon is root only there (user_namespaces(7): the first one maps all ids to themselves)."""
        with suppress(OSError), open(UID_MAP) as file:
            return file.read().split() != ["0", "0", str((1 << 32) - 1)]
        return False

    @property
    def wants_user_xattr(self) -> bool:
        """Whether overlay must keep its marks in user.* attributes, as trusted.* ones are root's outside."""
        return self.in_user_namespace and self._mounts("userxattr")

    @property
    def maps_ids(self) -> bool:
        """Whether an overlay stands on layers that are shown through id maps (Linux 5.19, and the filesystem's)."""
        return self._mounts(*MAPS)

    @property
    def takes_volatile(self) -> bool:
        """Whether overlay can do without syncing (Linux 5.10)."""
        return self._mounts("volatile")

    def _mounts(self, *more: str) -> bool:
        """Whether such an overlay can be mounted. For want of room it cannot for now, and the next who asks tries."""
        if more not in self._found:
            try:
                with tempfile.TemporaryDirectory(prefix="probe-", dir=self._root) as place:
                    os.close(mounting.detached([_overlay(place, more)]))
                self._found[more] = True
            except (errors.Error, OSError) as exc:
                told = errors.from_os(exc, "probing") if isinstance(exc, OSError) else exc
                if isinstance(told, errors.ResourceExhausted):
                    return False
                self._found[more] = False
        return self._found[more]


def _names_types(path: str) -> bool:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return fs.names_types(folder)
    finally:
        os.close(folder)


def _overlay(place: str, more: Sequence[str]) -> Mount:
    for name in ("lower", "upper", "work"):
        os.mkdir(os.path.join(place, name))
    options = (f"workdir={place}/work", f"upperdir={place}/upper", f"lowerdir={place}/lower", *more)
    return Mount(type="overlay", source="overlay", options=options)
