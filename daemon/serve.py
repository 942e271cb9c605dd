"""Serves a component from a process of its own, for holdd's `proxy_plugins` and whoever else speaks the protocol.

An author of a snapshotter writes a ports.Snapshotter, and

    from daemon.serve import serve
    serve("/run/mine.sock", snapshotter=Mine("/var/lib/mine"))

which returns on SIGTERM or SIGINT. `content` takes a ports.ContentStore, and `differ` a ports.Differ, which has the
daemon's blobs from the daemon (`daemon.client.proxies.RemoteContent`). The daemon's configuration then has

    [proxy_plugins.mine]
    type = "snapshot"
    address = "/run/mine.sock"

Keys come as `NAMESPACE/KEY`, so that those of two namespaces never meet; the namespace of the call under way is
`daemon.kit.context.namespace()`. The socket serves our own user, and root.

`python -m daemon.serve --address SOCKET --root DIR ID` serves the snapshotter of that id which comes with holdd.
"""

import argparse
import asyncio
import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Sequence

from daemon import builtin
from daemon.kit.threads import Pool
from daemon.metadata.kv import BucketKV
from daemon.metadata.store import Store
from daemon.services.content import Content
from daemon.services.diff import Diff
from daemon.services.snapshots import Snapshots
from daemon.transport.dispatch import Dispatcher
from daemon.transport.unix import UnixServer
from spec import errors
from spec.api import content as content_api
from spec.api import diff as diff_api
from spec.api import snapshots as snapshots_api
from spec.api.service import Service
from spec.ports import ContentStore, Differ, Snapshotter

THREADS = 16


def serve(
    address: str,
    snapshotter: Snapshotter | None = None,
    content: ContentStore | None = None,
    differ: Differ | None = None,
) -> None:
    """Serve at the unix socket `address`, of mode 0600, until told to stop. AlreadyExists when somebody does."""
    with Pool("serve", THREADS) as pool:
        asyncio.run(_serve(address, _services(snapshotter, content, differ, pool)))


def _services(
    snapshotter: Snapshotter | None, content: ContentStore | None, differ: Differ | None, pool: Pool
) -> Sequence[tuple[type[Service], object]]:
    services: list[tuple[type[Service], object]] = []
    if snapshotter is not None:
        services.append((snapshots_api.Snapshots, Snapshots(lambda namespace, name: snapshotter, pool)))
    if content is not None:
        services.append((content_api.Content, Content(lambda namespace: content, content, pool)))
    if differ is not None:
        services.append((diff_api.Diff, Diff(lambda namespace, payloads: differ, pool)))
    return services


async def _serve(address: str, services: Sequence[tuple[type[Service], object]]) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    server = UnixServer(Dispatcher(services))
    server.listen(address)
    try:
        await stopping.wait()
    finally:
        await server.close()


def main(argv: Sequence[str] | None = None) -> int:
    rows = {row.id: row for row in builtin.ROWS if row.type == builtin.SNAPSHOTTER}
    parser = argparse.ArgumentParser(prog="python -m daemon.serve", description="Serve a snapshotter to holdd.")
    parser.add_argument("--address", "-a", required=True, metavar="SOCKET", help="unix socket to serve on")
    parser.add_argument("--root", required=True, metavar="DIR", help="where snapshots and their records are kept")
    parser.add_argument("id", choices=sorted(rows), help="the snapshotter")
    args = parser.parse_args(argv)
    module, _, name = rows[args.id].target.partition(":")
    try:
        with contextlib.closing(Store(os.path.join(args.root, "metadata"))) as store:
            snapshotter = getattr(importlib.import_module(module), name)(
                os.path.join(args.root, args.id), BucketKV(store, "snapshots", args.id)
            )
            with contextlib.closing(snapshotter):
                snapshotter.cleanup()
                serve(args.address, snapshotter)
    except errors.Error as exc:
        print(f"{parser.prog}: {exc.message}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
