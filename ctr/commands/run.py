"""ctr run: create, start, wait, and with --rm remove."""

import argparse
import contextlib
import sys

from msgspec.structs import replace

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
    policies = "always, unless-stopped, on-failure or on-failure:N, with --detach: when it is started again"
    parser.add_argument("--restart", default="", metavar="POLICY", help=policies)
    process.register(parser)
    container.register(parser)


def run(args: argparse.Namespace, client: Client, out: Out) -> int:
    if args.rm and args.detach:
        raise errors.InvalidArgument("--rm and --detach exclude one another")
    if args.restart and not args.detach:
        raise errors.InvalidArgument("--restart is for a container that nobody waits for: give --detach")
    if args.restart and args.rootfs and args.uidmap:
        raise errors.InvalidArgument("--restart knows no directory whose ids are mapped: use an image")
    marks: dict[str, str] = {}
    if args.restart:
        from ctr import restart

        marks = restart.asked(args.restart, args.log_uri)
    phases = Phases(sys.stderr)
    with phases.phase("reading the image"):
        plan = container.describe(args, client)
    plan = plan._replace(record=replace(plan.record, labels={**plan.record.labels, **marks}))
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
    if args.restart:
        restart.begin(client, args.id)
    if args.rm:
        container.remove(client, args.id)
    return code
