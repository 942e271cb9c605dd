"""What mounts come to without mounting them: stacks of directories, and which one a stack has over another."""

from collections.abc import Sequence

from msgspec.structs import replace

from spec.types import Mount

_BINDS = frozenset({"ro", "rw", "bind", "rbind"})
_MAPPED = frozenset({"uidmap", "gidmap"})


class Stack:
    """`layers`, uppermost first, and the prefix of what overlay keeps about their entries in extended attributes."""

    def __init__(self, layers: Sequence[str], prefix: str = "") -> None:
        self.layers = list(layers)
        self.prefix = prefix


def of(mounts: Sequence[Mount]) -> Stack | None:
    """None for what is no plain stack: several mounts, other filesystems, owners that are not what they seem."""
    if len(mounts) != 1:
        return None
    mount = mounts[0]
    if mount.type == "bind" and _BINDS.issuperset(mount.options):
        return Stack([mount.source])
    given = dict(option.partition("=")[::2] for option in mount.options)
    below = given.get("lowerdir", "")
    if mount.type != "overlay" or not below or not _MAPPED.isdisjoint(given) or "\\" in below or "::" in below:
        return None
    upper = [given["upperdir"]] if "upperdir" in given else []
    return Stack([*upper, *below.split(":")], "user.overlay." if "userxattr" in given else "trusted.overlay.")


def top(lower: Sequence[Mount], upper: Sequence[Mount]) -> tuple[str, str] | None:
    """The directory that alone makes `upper` another stack than `lower`, and its prefix; None when it takes more."""
    below, above = of(lower), of(upper)
    if below is None or above is None or not above.prefix or above.layers[1:] != below.layers:
        return None
    return above.layers[0], above.prefix


def read_only(mounts: Sequence[Mount]) -> list[Mount]:
    """Mounts that show the same and can be mounted beside those they are of."""
    return [_read_only(mount) for mount in mounts]


def _read_only(mount: Mount) -> Mount:
    if mount.type != "overlay":
        return replace(mount, options=(*(option for option in mount.options if option not in ("rw", "ro")), "ro"))
    options = []
    upper = next((option.partition("=")[2] for option in mount.options if option.startswith("upperdir=")), "")
    for option in mount.options:
        key, _, value = option.partition("=")
        if key == "lowerdir" and upper:
            options.append(f"lowerdir={_escaped(upper)}:{value}")
        elif key not in ("upperdir", "workdir"):
            options.append(option)
    return replace(mount, options=tuple(options))


def _escaped(path: str) -> str:
    """As one of several layers (kernel documentation, overlayfs)."""
    return path.replace("\\", "\\\\").replace(":", "\\:")
