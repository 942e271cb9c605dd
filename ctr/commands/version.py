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
        ours = {"version": VERSION, "revision": REVISION, "python_version": python}
        theirs = {"version": version.version, "revision": version.revision, "uuid": server.uuid}
        out.json({"client": ours, "server": theirs})
    else:
        out.line(f"Server:\n  Version:  {version.version}\n  Revision: {version.revision}\n  UUID: {server.uuid}")
    for warning in mismatches((VERSION, REVISION), (version.version, version.revision)):
        print(f"ctr: warning: {warning}", file=sys.stderr)
    return 0


def mismatches(client: tuple[str, str], server: tuple[str, str]) -> list[str]:
    """A warning for each of version and revision that is not the same."""
    return [
        f"client and server differ in {name}: {ours!r} and {theirs!r}"
        for name, ours, theirs in zip(("version", "revision"), client, server, strict=True)
        if ours != theirs
    ]
