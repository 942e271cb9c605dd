"""Which hosts serve a registry, and how: the default rules, and containerd's hosts.toml.

`hosts_dir/REGISTRY/hosts.toml` (a port's colon may be written `_5000_`; `_default` serves the rest) lists hosts in the
order in which they are tried, the registry's own server last.
"""

import ipaddress
import os
import socket
import tomllib
from collections.abc import Sequence
from urllib.parse import urlsplit

import msgspec

from spec import errors
from spec.base import Record

CAPABILITIES = ("pull", "resolve", "push", "referrers")
HUB = "registry-1.docker.io"
ALIASES = {"docker.io": HUB}


class Host(Record, frozen=True):
    """One place to ask. `base` ends where a repository's name begins (`https://host/v2`). `fallback` is the base over
    plain http, tried when the host turns out to speak no TLS; "" forbids it. `ca` and `client` are files, `authorities` PEM.
    `dial_s` bounds connecting (0: as always)."""

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

    @property
    def name(self) -> str:
        """Host and port."""
        return urlsplit(self.base).netloc


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


def lookup(registry: str, hosts_dir: str = "", plain_http: bool = False, skip_verify: bool = False) -> list[Host]:
    """Hosts to try for `registry`, in order. InvalidArgument names the file that is wrong."""
    default = _default(registry, plain_http, skip_verify)
    directory = _directory(registry, hosts_dir)
    if directory is None:
        return [default]
    path = os.path.join(directory, "hosts.toml")
    try:
        with open(path, "rb") as file:
            said = msgspec.convert(tomllib.load(file), _File)
        mirrors = [_host(url, entry, directory, True) for url, entry in said.host.items()]
        own = _host(said.server or default.base.removesuffix("/v2"), said, directory, False)
    except FileNotFoundError:
        return [default]
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, errors.InvalidArgument) as exc:
        raise errors.InvalidArgument(f"reading {path}: {exc}") from exc
    own = msgspec.structs.replace(own, skip_verify=own.skip_verify or skip_verify)
    if not said.server:
        verify = own.skip_verify or default.skip_verify
        own = msgspec.structs.replace(own, base=default.base, fallback=default.fallback, skip_verify=verify)
    return [*mirrors, own]


def is_local(host: str) -> bool:
    """Whether a host (with or without a port) is this machine: localhost, 127/8, ::1."""
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
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


def _default(registry: str, plain_http: bool, skip_verify: bool) -> Host:
    """https; on this machine http is tried where https is not spoken, unless the port says which it is."""
    server = ALIASES.get(registry, registry)
    port = urlsplit(f"//{registry}").port
    plain = f"http://{server}/v2"
    local = is_local(registry)
    if plain_http or (local and port == 80):
        return Host(base=plain)
    fallback = plain if local and port not in (None, 443) else ""
    return Host(base=f"https://{server}/v2", fallback=fallback, skip_verify=skip_verify or bool(fallback))


def _directory(registry: str, hosts_dir: str) -> str | None:
    if not hosts_dir:
        return None
    name, colon, port = registry.rpartition(":")
    candidates = [f"{name}_{port}_"] if colon else []
    for candidate in (*candidates, registry, "_default"):
        path = os.path.join(hosts_dir, candidate)
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
    return Host(
        base=base,
        capabilities=entry.capabilities,
        ca=[os.path.join(directory, path) for path in _listed(entry.ca)],
        client=_pairs(entry.client, directory),
        skip_verify=entry.skip_verify,
        headers={name: ", ".join(_listed(value)) for name, value in entry.header.items()},
        mirror=mirror,
    )


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
