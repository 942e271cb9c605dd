"""Which hosts serve a registry, and how: the default rules, containerd's hosts.toml, and Docker's certs.d.

`DIRECTORY/REGISTRY/hosts.toml` (a port's colon may be written `_5000_`; `_default` serves the rest) lists hosts in the
order in which they are tried, the registry's own server last. Without that file the directory's `*.crt` are
authorities, `*.cert` and the `*.key` of the same name what we show of ourselves.
"""

import ipaddress
import os
import re
import socket
import tomllib
from collections.abc import Sequence
from urllib.parse import urlsplit

import msgspec
from msgspec.structs import replace

from spec import errors
from spec.base import Record

CAPABILITIES = ("pull", "resolve", "push", "referrers")
HUB = "registry-1.docker.io"
ALIASES = {"docker.io": HUB}
MAX_FILE = 1 << 20  # bytes of a hosts.toml

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ns|us|µs|ms|s|m|h)", re.ASCII)
_DURATION = re.compile(rf"(?:{_PART.pattern})+", re.ASCII)


class Host(Record, frozen=True):
    """One place to ask. `base` ends where a repository's name begins (`https://host/v2`). `fallback` is the base over
    plain http, tried when the host turns out to speak no TLS; "" forbids it. `ca` and `client` are files,
    `authorities` and `identities` the same in PEM. `dial_s` bounds connecting (0: as always)."""

    base: str
    capabilities: Sequence[str] = CAPABILITIES
    ca: Sequence[str] = ()
    client: Sequence[tuple[str, str]] = ()
    skip_verify: bool = False
    headers: dict[str, str] = {}
    fallback: str = ""
    mirror: bool = False
    dial_s: float = 0.0
    authorities: Sequence[str] = ()
    identities: Sequence[tuple[str, str]] = ()

    @property
    def name(self) -> str:
        """Host and port."""
        return urlsplit(self.base).netloc


class Trust(Record, frozen=True):
    """What the caller adds for the registry itself, in PEM: authorities, and a certificate with its key."""

    authorities: str = ""
    certificate: str = ""
    key: str = ""

    def __bool__(self) -> bool:
        return bool(self.authorities or self.certificate)


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    """What hosts.toml says of one host."""

    capabilities: Sequence[str] = CAPABILITIES
    ca: str | Sequence[str] = ()
    client: str | Sequence[str | Sequence[str]] = ()
    skip_verify: bool = False
    header: dict[str, str | Sequence[str]] = {}
    override_path: bool = False
    dial_timeout: str = ""


class _File(_Entry):
    server: str = ""
    host: dict[str, _Entry] = {}


def lookup(
    registry: str, hosts_dir: str = "", plain_http: bool = False, skip_verify: bool = False, trust: Trust = Trust()
) -> list[Host]:
    """Hosts to try for `registry`, in order; the first of the directories `hosts_dir` (between colons) that has
    something for it counts. InvalidArgument names the file that is wrong."""
    directory = _directory(registry, hosts_dir)
    found = [_default(registry, plain_http, skip_verify, trust)]
    if directory is not None:
        path = os.path.join(directory, "hosts.toml")
        try:
            with open(path, "rb") as file:
                text = file.read(MAX_FILE)
        except FileNotFoundError:
            text = b""
        except OSError as exc:
            raise errors.from_os(exc, f"reading {path}") from exc
        found = _read(path, text, found[0], skip_verify) if text.strip() else [_certified(found[0], directory)]
    *mirrors, own = found
    return [*mirrors, _trusting(own, trust)]


def _read(path: str, text: bytes, default: Host, skip_verify: bool) -> list[Host]:
    """The hosts of hosts.toml."""
    directory = os.path.dirname(path)
    try:
        said = msgspec.convert(tomllib.loads(text.decode()), _File)
        mirrors = [_host(url, entry, directory, True) for url, entry in said.host.items()]
        own = _host(said.server or default.base.removesuffix("/v2"), said, directory, False)
    except (ValueError, msgspec.ValidationError, errors.InvalidArgument) as exc:  # the decoders' errors are ValueErrors
        raise errors.InvalidArgument(f"reading {path}: {exc}") from exc
    own = replace(own, skip_verify=own.skip_verify or skip_verify)
    if not said.server:
        verify = own.skip_verify or default.skip_verify
        own = replace(own, base=default.base, fallback=default.fallback, skip_verify=verify)
    return [*mirrors, own]


def _certified(host: Host, directory: str) -> Host:
    """With what Docker's certs.d has for it."""
    try:
        names = sorted(os.listdir(directory))
    except OSError as exc:
        raise errors.from_os(exc, f"reading {directory}") from exc
    authorities = [os.path.join(directory, name) for name in names if name.endswith(".crt")]
    pairs = []
    for name in names:
        if name.endswith(".cert"):
            key = f"{name.removesuffix('.cert')}.key"
            if key not in names:
                raise errors.InvalidArgument(f"reading {directory}: {name} has no {key} beside it")
            pairs.append((os.path.join(directory, name), os.path.join(directory, key)))
    return replace(host, ca=authorities, client=pairs)


def _trusting(host: Host, trust: Trust) -> Host:
    identities = ((trust.certificate, trust.key or trust.certificate),) if trust.certificate else ()
    return replace(host, authorities=(trust.authorities,) if trust.authorities else (), identities=identities)


def is_local(host: str) -> bool:
    """Whether a host (with or without a port) is this machine: localhost, 127/8, ::1."""
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def is_private(hostname: str) -> bool:
    """Whether it is an address, not a name, of no public network."""
    if is_inward(hostname):
        return True
    try:
        return ipaddress.ip_address(hostname.rstrip(".").partition("%")[0]).is_private
    except ValueError:
        return False


def is_inward(hostname: str) -> bool:
    """Whether it is this machine's or this link's, however it is written: loopback, link-local or unspecified.

    The resolver takes every form of inet_aton(3): 127.1, 2130706433, 0x7f.1.
    """
    name = hostname.rstrip(".").partition("%")[0].lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    address: ipaddress.IPv4Address | ipaddress.IPv6Address
    try:
        address = ipaddress.IPv6Address(name) if ":" in name else ipaddress.IPv4Address(socket.inet_aton(name))
    except (OSError, ValueError):
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    address = mapped or address
    return address.is_loopback or address.is_link_local or address.is_unspecified


def _default(registry: str, plain_http: bool, skip_verify: bool, trust: Trust) -> Host:
    """https; on this machine http is tried where https is not spoken, unless the port says which it is. So it is where
    http was asked for, and something of TLS beside it."""
    server = ALIASES.get(registry, registry)
    port = urlsplit(f"//{registry}").port
    plain = f"http://{server}/v2"
    local = is_local(registry)
    secured = plain_http and (skip_verify or bool(trust)) and port != 80
    if (plain_http and not secured) or (local and port == 80):
        return Host(base=plain)
    lenient = local and port not in (None, 443) and not trust
    fallback = plain if secured or (local and port not in (None, 443)) else ""
    return Host(base=f"https://{server}/v2", fallback=fallback, skip_verify=skip_verify or lenient)


def _directory(registry: str, hosts_dir: str) -> str | None:
    name, colon, port = registry.rpartition(":")
    candidates = [f"{name}_{port}_"] if colon else []
    for root in filter(None, hosts_dir.split(":")):
        for candidate in (*candidates, registry, "_default"):
            path = os.path.join(root, candidate)
            if os.path.isdir(path):
                return path
    return None


def _host(url: str, entry: _Entry, directory: str, mirror: bool) -> Host:
    unknown = set(entry.capabilities) - set(CAPABILITIES)
    if unknown:
        raise errors.InvalidArgument(f"host {url}: capability {', '.join(sorted(unknown))} is unknown")
    base = (url if "://" in url else f"https://{url}").rstrip("/")
    if urlsplit(base).scheme not in ("http", "https") or not urlsplit(base).netloc:
        raise errors.InvalidArgument(f"host {url}: not an http or https address")
    if not entry.override_path and not base.endswith("/v2"):
        base += "/v2"
    fallback, parts = "", urlsplit(base)
    if parts.scheme == "http" and parts.port != 80 and (entry.ca or entry.client or entry.skip_verify):
        fallback, base = base, base.replace("http:", "https:", 1)
    return Host(
        base=base,
        fallback=fallback,
        capabilities=entry.capabilities,
        ca=[os.path.join(directory, path) for path in _listed(entry.ca)],
        client=_pairs(entry.client, directory),
        skip_verify=entry.skip_verify,
        headers={name: ", ".join(_listed(value)) for name, value in entry.header.items()},
        mirror=mirror,
        dial_s=_seconds(entry.dial_timeout),
    )


def _seconds(duration: str) -> float:
    """A Go duration: `1m30s`, `500ms`; 0.0 for "". InvalidArgument."""
    if duration and not _DURATION.fullmatch(duration):
        raise errors.InvalidArgument(f"dial_timeout {duration!r} is no duration such as 10s")
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(duration))


def _listed(value: str | Sequence[str]) -> Sequence[str]:
    return [value] if isinstance(value, str) else value


def _pairs(client: str | Sequence[str | Sequence[str]], directory: str) -> list[tuple[str, str]]:
    """Certificate and key; one file may hold both."""
    entries = [client] if isinstance(client, str) else client
    pairs = []
    for entry in entries:
        files = [os.path.join(directory, path) for path in ([entry] if isinstance(entry, str) else entry)]
        if not 1 <= len(files) <= 2:
            raise errors.InvalidArgument("client: takes a file, or pairs of certificate and key")
        pairs.append((files[0], files[-1]))
    return pairs
