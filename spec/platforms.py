"""Platforms: `os/arch[/variant]`, normalised and matched in containerd's order of preference."""

import platform as machine_of
import re
from collections.abc import Sequence

from msgspec.structs import replace

from spec import errors
from spec.oci.image import Platform

MAX_TEXT = 255

_PART = re.compile(r"[A-Za-z0-9_.-]+", re.ASCII)
_SYSTEM = re.compile(
    r"(?P<os>[A-Za-z0-9_-]+)(?:\((?P<version>[A-Za-z0-9_.-]*)(?P<features>(?:\+[A-Za-z0-9_.-]+)*)\))?", re.ASCII
)
_LEVEL = re.compile(r"v([1-9])", re.ASCII)
_ARM64_LEVEL = re.compile(r"v([89])(?:\.([0-9]{1,2}))?", re.ASCII)
_DIGITS = re.compile(r"[0-9]+(?:\.[0-9]+)?", re.ASCII)
_ARCHITECTURES = {
    "i386": "386",
    "i686": "386",
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "armhf": "arm",
    "armel": "arm",
    "armv7l": "arm",
    "armv6l": "arm",
}
_VARIANTS = {"armhf": "v7", "armel": "v6", "armv7l": "v7", "armv6l": "v6"}
_SYSTEMS = {"macos": "darwin"}
_KNOWN_ARCHITECTURES = frozenset(
    {"386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64", "ppc64le", "riscv64",
     "s390x", "wasm"}
)  # fmt: skip
_KNOWN_SYSTEMS = frozenset(
    {"aix", "android", "darwin", "dragonfly", "freebsd", "illumos", "ios", "js", "linux", "netbsd", "openbsd", "plan9",
     "solaris", "wasip1", "windows"}
)  # fmt: skip


def default(machine: str = machine_of.machine()) -> Platform:
    """Linux on the machine that uname(2) names so."""
    return normalize(Platform(os="linux", architecture=machine))


def parse(text: str) -> Platform:
    """`os`, `arch`, `os/arch` or `os/arch/variant`, what is left out being the host's. InvalidArgument.

    The system may state a version and features, as in `linux(6.1+feature+feature)/amd64`.
    """
    first, *others = text.split("/", 3)
    stated = _SYSTEM.fullmatch(first)
    if len(text) > MAX_TEXT or not stated or len(others) > 2 or not all(_PART.fullmatch(part) for part in others):
        raise errors.InvalidArgument(f"platform {text[:100]!r} is not os/arch or os/arch/variant")
    name = stated["os"].lower()
    version, features = stated["version"] or "", tuple((stated["features"] or "").split("+")[1:])
    if others:
        architecture, variant = others[0], "".join(others[1:])
    elif _SYSTEMS.get(name, name) in _KNOWN_SYSTEMS:
        host = default()
        architecture, variant = host.architecture, host.variant
    elif _ARCHITECTURES.get(name, name) in _KNOWN_ARCHITECTURES and first == stated["os"]:
        return normalize(Platform(os=default().os, architecture=name))
    else:
        raise errors.InvalidArgument(f"platform {text!r}: neither an operating system nor an architecture")
    return normalize(
        Platform(os=name, architecture=architecture, variant=variant, os_version=version, os_features=features)
    )


def normalize(platform: Platform) -> Platform:
    """The one spelling of a platform."""
    system = platform.os.lower()
    named = platform.architecture.lower()
    architecture = _ARCHITECTURES.get(named, named)
    variant = platform.variant.lower() or _VARIANTS.get(named, "")
    if _DIGITS.fullmatch(variant):
        variant = f"v{variant}"
    if architecture == "amd64" and variant == "v1":
        variant = ""
    elif architecture == "arm64":
        variant = {"v8": "", "v8.0": "", "v9.0": "v9"}.get(variant, variant)
    elif architecture == "arm":
        variant = variant or "v7"
    return Platform(
        os=_SYSTEMS.get(system, system),
        architecture=architecture,
        variant=variant,
        os_version=platform.os_version,
        os_features=platform.os_features,
    )


def format(platform: Platform) -> str:
    """`os/arch[/variant]`."""
    return "/".join(part for part in (platform.os, platform.architecture, platform.variant) if part)


class Matcher:
    """Which platforms will do in place of one that is wanted, best first.

    One that needs features of the system will do when all of them are accepted. Versions are not compared: no kernel of
    Linux ever made an image of another one unusable.
    """

    def __init__(self, accepted: Sequence[Platform]) -> None:
        self._accepted = [(p.os, p.architecture, p.variant, frozenset(p.os_features)) for p in accepted]

    def match(self, platform: Platform) -> bool:
        return self.rank(platform) is not None

    def rank(self, platform: Platform) -> int | None:
        """0 is best; None will not do."""
        given = normalize(platform)
        key = (given.os, given.architecture, given.variant)
        for rank, (*accepted, features) in enumerate(self._accepted):
            if key == tuple(accepted) and features.issuperset(given.os_features):
                return rank
        return None


def only(platform: Platform) -> Matcher:
    """What runs on `platform`: itself, lower variants of it, then architectures it also runs."""
    return Matcher(_runnable(normalize(platform)))


def any_of(platforms: Sequence[Platform]) -> Matcher:
    """What runs on one of `platforms`, earlier ones preferred."""
    return Matcher([accepted for platform in platforms for accepted in _runnable(normalize(platform))])


class Every(Matcher):
    """Takes every platform."""

    def __init__(self) -> None:
        super().__init__(())

    def rank(self, platform: Platform) -> int | None:
        return 0


def _runnable(wanted: Platform) -> list[Platform]:
    """`wanted` and what else runs there, best first."""
    return [replace(wanted, architecture=a, variant=v) for a, v in _machines(wanted.architecture, wanted.variant)]


def _machines(architecture: str, variant: str) -> list[tuple[str, str]]:
    """(architecture, variant) pairs, best first; of a variant that we do not know, itself alone."""
    if architecture == "arm64":
        level = _ARM64_LEVEL.fullmatch(variant or "v8")
        below = _arm64(int(level[1]), int(level[2] or 0)) if level else [("arm64", variant)]
        return [*below, *_arm(8)]
    level = _LEVEL.fullmatch(variant or "v1")
    if level and architecture == "amd64":
        return [*(("amd64", f"v{n}") for n in range(int(level[1]), 1, -1)), ("amd64", ""), ("386", "")]
    if level and architecture == "arm":
        return _arm(int(level[1]))
    return [(architecture, variant)]


def _arm(level: int) -> list[tuple[str, str]]:
    """Down to v5, below which nothing runs Linux containers; a lower one runs itself."""
    return [("arm", f"v{n}") for n in range(level, min(level, 5) - 1, -1)]


def _arm64(major: int, minor: int) -> list[tuple[str, str]]:
    """v9.n runs v9 below it and v8.(n+5) and below; v8.n what is below it."""
    newer = [("arm64", f"v9.{n}" if n else "v9") for n in range(minor, -1, -1)] if major == 9 else []
    return newer + [("arm64", f"v8.{n}" if n else "") for n in range(minor + (5 if newer else 0), -1, -1)]
