"""What the daemon takes when a flag names nothing: by label of the namespace, else by its configuration."""

import argparse

from daemon.client.client import Client
from spec.api.introspection import ServerRequest


def fill(args: argparse.Namespace, client: Client) -> None:
    """Set `snapshotter` and `runtime`, where a command has them and its flags left them empty."""
    empty = [name for name in ("snapshotter", "runtime") if getattr(args, name, None) == ""]
    if empty:
        server = client.introspection.server(ServerRequest())
        for name in empty:
            setattr(args, name, getattr(server, f"default_{name}"))
