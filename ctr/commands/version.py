"""ctr version."""

import argparse

from ctr.output import Out
from daemon.client.client import Client
from spec.api.introspection import ServerRequest
from spec.api.version import VersionRequest


def register(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace, client: Client, out: Out) -> int:
    version = client.version.version(VersionRequest())
    server = client.introspection.server(ServerRequest())
    if args.json:
        out.json({"version": version.version, "revision": version.revision, "uuid": server.uuid})
        return 0
    out.line("Server:")
    out.line(f"  Version:  {version.version}")
    out.line(f"  Revision: {version.revision}")
    out.line(f"  UUID: {server.uuid}")
    return 0
