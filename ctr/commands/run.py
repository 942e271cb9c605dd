"""ctr run: create, start, wait, and with --rm remove."""

import argparse
import contextlib
import sys

from ctr import container, process
from ctr.output import Out
from ctr.phases import Phases
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
    phases = Phases(sys.stderr)
    with phases.phase("reading the image"):
        plan = container.describe(args, client)
    if args.dump_config:
        sys.stdout.buffer.write(plan.record.spec + b"\n")
        return 0
    terminal = process.has_terminal(plan.record)
    with contextlib.ExitStack() as undo:
        container.create(client, plan, undo, phases, ephemeral=args.rm)
        stdio, fds = process.streams(args, terminal)
        request = tasks.CreateRequest(container_id=args.id, rootfs=plan.mounts, stdio=stdio)
        with phases.phase(f"creating task {args.id}"):
            pid = client.tasks.create(request, fds=fds).pid
        try:
            code = process.launch(args, client, pid, terminal)
        except process.Left:
            undo.pop_all()
            return 0
        undo.pop_all()
    if args.rm:
        container.remove(client, args.id)
    return code
