"""ctr version."""

import argparse
import platform
import sys

from ctr.output import Out
from daemon.client.client import Client
from spec.api.introspection import ServerRequest
from spec.api.version import VersionRequest
from spec.version import REVISION, VERSION


def register(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace, client: Client, out: Out) -> int:
    """The client's first, so that it is told even when no daemon answers."""
    python = platform.python_version()
    if not args.json:
        out.line(f"Client:\n  Version:  {VERSION}\n  Revision: {REVISION}\n  Python version: {python}\n")
        sys.stdout.flush()
    version = client.version.version(VersionRequest())
    server = client.introspection.server(ServerRequest())
    if args.json:
        own = {"version": VERSION, "revision": REVISION, "python_version": python}
        out.json({"client": own, "server": {"version": version.version, "revision": version.revision, "uuid": server.uuid}})
    else:
        out.line(f"Server:\n  Version:  {version.version}\n  Revision: {version.revision}\n  UUID: {server.uuid}")
    for name, ours, theirs in mismatches((VERSION, REVISION), (version.version, version.revision)):
        print(f"ctr: warning: {name} of client ({ours}) and server ({theirs}) differ", file=sys.stderr)
    return 0


def mismatches(client: tuple[str, str], server: tuple[str, str]) -> list[tuple[str, str, str]]:
    """(name, client's, server's) of each of version and revision that differs."""
    both = zip(("versions", "revisions"), client, server, strict=True)
    return [(name, ours, theirs) for name, ours, theirs in both if ours != theirs]
