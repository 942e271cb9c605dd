"""What must hold before the daemon makes anything: told in one line each, with nothing left behind."""

import os
import tempfile
from collections.abc import Sequence

from daemon.config import Config
from daemon.kit import mounting
from daemon.transport.http import HttpServer
from daemon.transport.unix import clear_stale
from spec import errors

STATUS = "/proc/self/status"
CAP_SYS_ADMIN = 21


def check(config: Config, listens: bool) -> None:
    """PermissionDenied without root's rights, FailedPrecondition for a directory that cannot be written or a kernel
    that lacks what is asked of it, AlreadyExists when a daemon answers at the address, unless we are handed the socket
    (`listens` false), or somebody has that of the metrics, InvalidArgument for an address that is none."""
    _rights()
    for name in ("root", "state"):
        _writable(name, getattr(config, name))
    _temporary()
    if listens:
        if not _within(config.address, config.state):
            _writable("address", os.path.dirname(config.address) or ".")
        clear_stale(config.address)
    if config.metrics.address:
        HttpServer.check(config.metrics.address)
    if config.default_snapshotter == "overlayfs" and not mounting.has("overlay"):
        raise errors.FailedPrecondition(
            "default_snapshotter overlayfs: the kernel has no overlay; load its module, or choose another, as native"
        )


def missing(config: Config) -> Sequence[str]:
    """The directories that a start would make, those above first: what goes again when it fails."""
    found = []
    for path in (config.root, config.state):
        path = os.path.abspath(path)
        while not os.path.lexists(path):
            found.append(path)
            path = os.path.dirname(path)
    return sorted(found)


def _rights() -> None:
    wants = "mounts, namespaces and cgroups are made by root, or by root of a user namespace"
    if os.geteuid() != 0:
        raise errors.PermissionDenied(f"started by user {os.geteuid()}: {wants}")
    with open(STATUS) as status:
        effective = next(int(line.split()[1], 16) for line in status if line.startswith("CapEff:"))
    if not effective >> CAP_SYS_ADMIN & 1:
        raise errors.PermissionDenied(f"started without the capability CAP_SYS_ADMIN: {wants}")


def _writable(name: str, path: str) -> None:
    """Whether it is a directory that can be written, or could be made."""
    there = os.path.abspath(path)
    while not os.path.lexists(there):
        there = os.path.dirname(there)
    where = "it" if there == os.path.abspath(path) else there
    if not os.path.isdir(there):
        raise errors.FailedPrecondition(f"{name} {path}: {where} is not a directory")
    if not os.access(there, os.W_OK | os.X_OK):
        raise errors.FailedPrecondition(f"{name} {path}: {where} cannot be written")


def _temporary() -> None:
    try:
        tempfile.gettempdir()
    except FileNotFoundError as exc:
        raise errors.FailedPrecondition("no directory for temporary files can be written; TMPDIR may name one") from exc


def _within(path: str, directory: str) -> bool:
    return os.path.dirname(os.path.abspath(path)) == os.path.abspath(directory)
