"""What an OCI runtime tells of itself, and what is known of its version. Runs nothing."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from spec.base import Doc
from spec.records import RuntimeVersion

# "runc version 1.1.5", "crun version 1.8.1", "kata-runtime  : 3.2.0"
_FIRST = re.compile(r"(?P<name>[\w.-]+)\s+(?:version\s+|:\s*)v?(?P<version>\S+)")
_COMMIT = re.compile(r"\s*commit\s*:\s*(?P<revision>\S+)", re.IGNORECASE)
_NUMBERS = re.compile(r"v?(\d+)\.(\d+)(?:\.(\d+))?(?:-rc\.?(\d+))?")

_FINAL = 1 << 30  # in place of a release candidate's number


class Advisory(NamedTuple):
    """`fixed` are the first releases without it, of each line that got one, oldest first."""

    id: str
    fixed: tuple[str, ...]


# As the projects published them; those whose first fixed release is known.
ADVISORIES: Mapping[str, Sequence[Advisory]] = {
    "runc": (
        Advisory("CVE-2019-5736", ("1.0.0-rc7",)),
        Advisory("CVE-2019-16884", ("1.0.0-rc9",)),
        Advisory("CVE-2019-19921", ("1.0.0-rc10",)),
        Advisory("CVE-2021-30465", ("1.0.0-rc95",)),
        Advisory("CVE-2021-43784", ("1.0.3",)),
        Advisory("CVE-2022-29162", ("1.1.2",)),
        Advisory("CVE-2023-25809", ("1.1.5",)),
        Advisory("CVE-2023-27561", ("1.1.5",)),
        Advisory("CVE-2023-28642", ("1.1.5",)),
        Advisory("CVE-2024-21626", ("1.1.12",)),
        Advisory("CVE-2024-45310", ("1.1.14", "1.2.0-rc.3")),
        Advisory("CVE-2025-31133", ("1.2.8", "1.3.3", "1.4.0-rc.3")),
        Advisory("CVE-2025-52565", ("1.2.8", "1.3.3", "1.4.0-rc.3")),
        Advisory("CVE-2025-52881", ("1.2.8", "1.3.3", "1.4.0-rc.3")),
        Advisory("CVE-2026-41579", ("1.3.6", "1.4.3")),
    ),
    "crun": (
        Advisory("CVE-2019-18837", ("0.10.5",)),
        Advisory("CVE-2022-27650", ("1.4.4",)),
        Advisory("CVE-2025-24965", ("1.20",)),
        Advisory("CVE-2026-30892", ("1.27",)),
    ),
    "youki": (Advisory("CVE-2025-27612", ("0.5.3",)),),
}


class _Idmap(Doc, frozen=True):
    enabled: bool | None = None


class _MountExtensions(Doc, frozen=True):
    idmap: _Idmap | None = None


class _Linux(Doc, frozen=True):
    mount_extensions: _MountExtensions | None = None


class Features(Doc, frozen=True):
    """OCI runtime spec, features: what we read of it."""

    oci_version_min: str = ""
    linux: _Linux | None = None
    annotations: dict[str, str] | None = None

    @property
    def maps_mounts(self) -> bool:
        """Whether mounts can have id mappings of their own."""
        extensions = self.linux and self.linux.mount_extensions
        return bool(extensions and extensions.idmap and extensions.idmap.enabled)


def version(output: bytes) -> tuple[str, RuntimeVersion]:
    """The name of a program and its version, from what it prints for `--version`; empty when it does not tell."""
    lines = output.decode(errors="replace").splitlines()
    first = next((found for line in lines if (found := _FIRST.match(line))), None)
    if first is None:
        return "", RuntimeVersion()
    commit = next((found["revision"] for line in lines if (found := _COMMIT.match(line))), "")
    return first["name"], RuntimeVersion(version=first["version"], revision=commit)


def features(output: bytes) -> tuple[bytes, Features]:
    """The document in what a program prints for `features`, and what we read of it; b"" when it prints none."""
    begin, end = output.find(b"{"), output.rfind(b"}") + 1
    document = output[begin:end] if begin >= 0 else b""
    try:
        read = msgspec.json.decode(document, type=Features)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return b"", Features()
    return (document, read) if read.oci_version_min else (b"", Features())


def advisories(name: str, version: str) -> list[Advisory]:
    """Those known of the program `name` that its `version` is too old to have fixed; none for what is no version."""
    numbers = _numbers(version)
    if numbers is None:
        return []
    return [advisory for advisory in ADVISORIES.get(name, ()) if not _has(numbers, advisory.fixed)]


def warning(name: str, path: str, version: str) -> str:
    """What is known against it, in a sentence; "" when nothing is."""
    known = advisories(name, version)
    if not known:
        return ""
    told = ", ".join(f"{advisory.id} ({', '.join(advisory.fixed)})" for advisory in known)
    return (
        f"{path} is {name} {version}, older than the releases that fixed {told}: "
        "replace it, unless whoever built it has brought the fixes to this version"
    )


def _has(numbers: tuple[int, ...], fixed: Sequence[str]) -> bool:
    """Whether a version is at or past the fix of its own line, or past all of them."""
    fixes = [found for text in fixed if (found := _numbers(text))]
    return any(numbers >= fix for fix in fixes if fix[:2] == numbers[:2]) or numbers >= max(fixes)


def _numbers(version: str) -> tuple[int, ...] | None:
    """To compare by; what a builder has appended does not count."""
    found = _NUMBERS.match(version)
    if found is None:
        return None
    major, minor, patch, candidate = found.groups()
    return int(major), int(minor), int(patch or 0), int(candidate) if candidate else _FINAL
