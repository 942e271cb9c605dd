"""The maps that a snapshot's labels name: as whom the owners of its files shall be seen."""

from collections.abc import Mapping
from typing import NamedTuple

from spec import errors, names

IDS = 1 << 32  # user and group ids are below


class IdMaps(NamedTuple):
    """Both as "inside:outside:length", several of them separated by commas (containerd's labels)."""

    users: str
    groups: str

    @property
    def options(self) -> tuple[str, str]:
        """Of a mount that shows owners so."""
        return f"uidmap={self.users}", f"gidmap={self.groups}"

    @property
    def root(self) -> tuple[int, int]:
        """The owner and group outside that are root inside."""
        return _outside(self.users), _outside(self.groups)


def of(labels: Mapping[str, str] | None) -> IdMaps | None:
    """None without the labels; InvalidArgument for what is no map, or none of root."""
    found = labels or {}
    users, groups = found.get(names.UID_MAPPING, ""), found.get(names.GID_MAPPING, "")
    if not users and not groups:
        return None
    maps = IdMaps(users, groups)
    _ = maps.root
    return maps


def ranges(text: str) -> list[tuple[int, int, int]]:
    """(inside, outside, length) of each range. InvalidArgument."""
    found = []
    for part in text.split(","):
        words = part.split(":")
        # int() of a long text takes time that grows with its square
        if len(words) != 3 or not all(word.isascii() and word.isdigit() and len(word) <= 10 for word in words):
            raise errors.InvalidArgument(f"id map {text[:100]!r}: {part[:40]!r} is not inside:outside:length")
        inside, outside, length = map(int, words)
        if not length or inside + length > IDS or outside + length > IDS:
            raise errors.InvalidArgument(f"id map {text[:100]!r}: {part!r} goes beyond what ids there are")
        found.append((inside, outside, length))
    return found


def _outside(text: str) -> int:
    for inside, outside, _ in ranges(text):
        if inside == 0:
            return outside
    raise errors.InvalidArgument(f"id map {text[:100]!r} has no root")
