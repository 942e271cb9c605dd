"""ctr info."""

import argparse

from ctr.output import Out
from daemon.client.client import Client
from spec.api.introspection import ServerRequest


def register(parser: argparse.ArgumentParser) -> None:
    """No flags: it is JSON."""


def run(args: argparse.Namespace, client: Client, out: Out) -> int:
    server = client.introspection.server(ServerRequest())
    out.json(
        {
            "uuid": server.uuid,
            "pid": server.pid,
            "pidns": server.pidns,
            "default_snapshotter": server.default_snapshotter,
            "default_runtime": server.default_runtime,
            "deprecations": server.deprecations,
        }
    )
    return 0
