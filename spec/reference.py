"""Image references: `host[:port]/repository[:tag][@digest]` (distribution spec, pulling manifests).

Parsing takes linear time and refuses what is too long before it looks closer.
"""

import ipaddress
import re

from spec import digest as digests
from spec import errors
from spec.base import Record

MAX_NAME = 255
MAX_TAG = 128
MAX_PORT = 65535
_MAX_TEXT = MAX_NAME + MAX_TAG + 140

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_HOST = re.compile(rf"(?:\[[0-9A-Fa-f:]+\]|{_LABEL}(?:\.{_LABEL})*)(?::[0-9]{{1,5}})?", re.ASCII)
_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*", re.ASCII)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", re.ASCII)

DOCKER_HUB = "docker.io"


class Reference(Record, frozen=True):
    """`host` is a registry's name as written, with its port; `repository` has no host; tag or digest is given."""

    host: str
    repository: str
    tag: str = ""
    digest: str = ""

    @property
    def locator(self) -> str:
        """Host and repository."""
        return f"{self.host}/{self.repository}"

    @property
    def object(self) -> str:
        """What names the manifest in its repository: the digest, which pins it, else the tag."""
        return self.digest or self.tag

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.locator}{tag}{'@' + self.digest if self.digest else ''}"


def parse(text: str) -> Reference:
    """A whole reference, host included; InvalidArgument names it."""
    if len(text) > _MAX_TEXT:
        raise _bad(text, "it is too long")
    host, slash, rest = text.partition("/")
    if not slash or not _HOST.fullmatch(host):
        raise _bad(text, "it must begin with a registry's host, as in docker.io/library/busybox:latest")
    if (port := host.rpartition("]")[2].partition(":")[2]) and int(port) > MAX_PORT:
        raise _bad(text, f"{port} is no port")
    if host.startswith("[") and not _is_address(host[1 : host.index("]")]):
        raise _bad(text, "what stands in brackets is no address")
    rest, _, digest = rest.partition("@")
    repository, _, tag = rest.partition(":")
    if digest or text.endswith("@"):
        digests.check(digest)
    if (tag or rest.endswith(":")) and not _TAG.fullmatch(tag):
        raise _bad(text, f"{tag!r} is not a tag")
    if not all(_COMPONENT.fullmatch(part) for part in repository.split("/")):
        raise _bad(text, f"{repository!r} is not a repository's name")
    if len(host) + 1 + len(repository) > MAX_NAME:
        raise _bad(text, f"its name is longer than {MAX_NAME} characters")
    if not tag and not digest:
        raise _bad(text, "it has neither a tag nor a digest")
    return Reference(host=host, repository=repository, tag=tag, digest=digest)


def normalize(text: str) -> Reference:
    """A reference as people write it: `busybox` is docker.io/library/busybox:latest. InvalidArgument as `parse`."""
    if len(text) > _MAX_TEXT:
        raise _bad(text, "it is too long")
    host, slash, path = text.partition("/")
    if not slash or not ("." in host or ":" in host or host == "localhost" or host != host.lower()):
        host, path = DOCKER_HUB, text
    if host in (DOCKER_HUB, f"index.{DOCKER_HUB}"):
        host, path = DOCKER_HUB, path if "/" in path else f"library/{path}"
    tail = path.rpartition("/")[2]
    return parse(f"{host}/{path}" if ":" in tail or "@" in tail else f"{host}/{path}:latest")


def _is_address(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _bad(text: str, why: str) -> errors.InvalidArgument:
    return errors.InvalidArgument(f"image reference {text[:200]!r}: {why}")
