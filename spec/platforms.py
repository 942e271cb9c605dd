"""Platforms: `os/arch[/variant]`, normalised and matched in containerd's order of preference."""

import platform as machine_of
import re
from collections.abc import Sequence

from spec import errors
from spec.oci.image import Platform

_PART = re.compile(r"[A-Za-z0-9_.-]+", re.ASCII)
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
    """`os`, `arch`, `os/arch` or `os/arch/variant`, what is left out being the host's. InvalidArgument."""
    parts = text.split("/")
    if not 1 <= len(parts) <= 3 or not all(_PART.fullmatch(part) for part in parts):
        raise errors.InvalidArgument(f"platform {text[:100]!r} is not os/arch or os/arch/variant")
    host = default()
    if len(parts) > 1:
        return normalize(Platform(os=parts[0], architecture=parts[1], variant="".join(parts[2:])))
    name = parts[0].lower()
    if _SYSTEMS.get(name, name) in _KNOWN_SYSTEMS:
        return normalize(Platform(os=name, architecture=host.architecture, variant=host.variant))
    if _ARCHITECTURES.get(name, name) in _KNOWN_ARCHITECTURES:
        return normalize(Platform(os=host.os, architecture=name))
    raise errors.InvalidArgument(f"platform {text!r}: neither an operating system nor an architecture")


def normalize(platform: Platform) -> Platform:
    """The one spelling of a platform."""
    system = platform.os.lower()
    named = platform.architecture.lower()
    architecture = _ARCHITECTURES.get(named, named)
    variant = platform.variant.lower() or _VARIANTS.get(named, "")
    if variant.isdigit():
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
    """Which platforms will do in place of one that is wanted, best first."""

    def __init__(self, accepted: Sequence[Platform]) -> None:
        self._accepted = [(p.os, p.architecture, p.variant) for p in accepted]

    def match(self, platform: Platform) -> bool:
        return self.rank(platform) is not None

    def rank(self, platform: Platform) -> int | None:
        """0 is best; None will not do."""
        given = normalize(platform)
        key = (given.os, given.architecture, given.variant)
        return self._accepted.index(key) if key in self._accepted else None


def only(platform: Platform) -> Matcher:
    """What runs on `platform`: itself, lower variants of it, then architectures it also runs."""
    wanted = normalize(platform)
    return Matcher([Platform(os=wanted.os, architecture=a, variant=v) for a, v in _runnable(wanted)])


def any_of(platforms: Sequence[Platform]) -> Matcher:
    """What runs on one of `platforms`, earlier ones preferred."""
    wanted = [normalize(platform) for platform in platforms]
    return Matcher([Platform(os=w.os, architecture=a, variant=v) for w in wanted for a, v in _runnable(w)])


class Every(Matcher):
    """Takes every platform."""

    def __init__(self) -> None:
        super().__init__(())

    def rank(self, platform: Platform) -> int | None:
        return 0


def _runnable(wanted: Platform) -> list[tuple[str, str]]:
    """(architecture, variant) pairs, best first."""
    architecture, variant = wanted.architecture, wanted.variant
    if architecture == "amd64":
        levels = [("amd64", f"v{n}") for n in range(_level(variant, 1), 1, -1)]
        return [*levels, ("amd64", ""), ("386", "")]
    if architecture == "arm":
        return _arm(_level(variant, 7))
    if architecture == "arm64":
        return [*_arm64(variant), *_arm(8), *_arm(7)]
    return [(architecture, variant)]


def _arm(level: int) -> list[tuple[str, str]]:
    return [("arm", f"v{n}") for n in range(level, 4, -1)] if level != 8 else [("arm", "v8")]


def _arm64(variant: str) -> list[tuple[str, str]]:
    """v9.n runs v9 below it and v8.(n+5) and below; v8.n what is below it."""
    major, _, minor = (variant or "v8").removeprefix("v").partition(".")
    number = int(minor) if minor.isdigit() else 0
    pairs: list[tuple[str, str]] = []
    if major == "9":
        pairs += [("arm64", f"v9.{n}" if n else "v9") for n in range(number, -1, -1)]
        number += 5
    return pairs + [("arm64", f"v8.{n}" if n else "") for n in range(number, -1, -1)]


def _level(variant: str, least: int) -> int:
    text = variant.removeprefix("v")
    return int(text) if text.isdigit() else least
