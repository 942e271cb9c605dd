"""ctr run: create, start, wait, and with --rm remove."""

import argparse
import contextlib
import sys

from ctr import container, process
from ctr.output import Out
from daemon.client.client import Client
from spec import errors
from spec.api import tasks


def register(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rm", action="store_true", help="remove the container, which never syncs, when it has ended")
    parser.add_argument("--pid-file", default="", metavar="FILE")
    parser.add_argument("--dump-config", action="store_true", help="print the OCI runtime spec and run nothing")
    process.register(parser)
    container.register(parser)


def run(args: argparse.Namespace, client: Client, out: Out) -> int:
    if args.rm and args.detach:
        raise errors.InvalidArgument("--rm and --detach exclude one another")
    record, parent, mounts = container.describe(args, client)
    if args.dump_config:
        sys.stdout.buffer.write(record.spec + b"\n")
        return 0
    with contextlib.ExitStack() as undo:
        container.create(client, record, parent, undo, ephemeral=args.rm)
        stdio, fds = process.streams(args, args.tty)
        request = tasks.CreateRequest(container_id=args.id, rootfs=mounts, stdio=stdio)
        pid = client.tasks.create(request, fds=fds).pid
        try:
            code = process.launch(args, client, pid, args.tty)
        except process.Left:
            undo.pop_all()
            return 0
        undo.pop_all()
    if args.rm:
        container.remove(client, args.id)
    return code
