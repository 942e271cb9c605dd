"""ctr tasks."""

import argparse
import contextlib
import json
import os
import signal
import sys

from msgspec.structs import replace

from ctr import figures, output, process, restart, runtimes, top
from ctr.output import Out
from ctr.phases import Phases
from daemon.client.client import Client
from spec import errors
from spec.api import containers
from spec.api import tasks as api
from spec.base import to_json
from spec.names import STOP_SIGNAL
from spec.oci import build, runtime
from spec.records import CheckpointOptions, RuntimeOptions

CLEAR = "\x1b[H\x1b[J"  # of a terminal (console_codes(4))
ALIASES = {"metrics": ("metric",)}


def register(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    start = _verb(verbs, "start", _start, "run a container that exists")
    start.add_argument("--pid-file", default="", metavar="FILE")
    start.add_argument("--no-pivot", action="store_true", help="do not change roots by pivot_root, this time")
    process.register(start)
    ls = verbs.add_parser("ls", aliases=["list"], help="list tasks")
    output.register_list(ls)
    ls.set_defaults(do=_ls)
    ps = _verb(verbs, "ps", _ps, "list a task's processes")
    ps.add_argument("--json", action="store_true", help="print JSON")
    _register_exec(_verb(verbs, "exec", _exec, "run another process in a task"))
    kill = _verb(verbs, "kill", _kill, "send a signal")
    kill.add_argument("--signal", "-s", default="", help="a name or a number; the image's stop signal, or SIGTERM")
    kill.add_argument("--exec-id", default="")
    kill.add_argument("--all", "-a", action="store_true", help="to all of its processes")
    rm = verbs.add_parser("rm", aliases=["remove", "delete", "del"], help="delete tasks; the exit code is theirs")
    rm.add_argument("--force", "-f", action="store_true", help="kill first")
    rm.add_argument("--exec-id", default="")
    rm.add_argument("ids", nargs="+", metavar="CONTAINER")
    rm.set_defaults(do=_rm)
    wait = _verb(verbs, "wait", _wait, "wait until it has ended; the exit code is its own")
    wait.add_argument("--exec-id", default="")
    attach = _verb(verbs, "attach", _attach, "join its terminal")
    attach.add_argument("--exec-id", default="")
    process.register_keys(attach, "ctrl-p,ctrl-q")
    metrics = _verb(verbs, "metrics", _metrics, "show what it uses")
    metrics.add_argument("--format", choices=("table", "json"), default="table")
    what = "write the state of its processes to an image, whose name is printed, or a directory, with CRIU"
    checkpoint = _verb(verbs, "checkpoint", _checkpoint, what)
    checkpoint.add_argument("--exit", action="store_true", help="end it")
    checkpoint.add_argument("--image-path", default="", metavar="DIR")
    checkpoint.add_argument("--work-path", default="", metavar="DIR", help="where CRIU leaves its log")
    top = verbs.add_parser("top", help="watch what tasks use")
    top.add_argument("--once", action="store_true", help="look once, for the length of an interval")
    top.add_argument("--interval", type=_seconds, default=1.0, metavar="SECONDS", help="between two looks; 1")
    top.add_argument("--json", action="store_true", help="print JSON, an array a look")
    top.add_argument("ids", nargs="*", metavar="CONTAINER", help="all without one")
    top.set_defaults(do=_top)
    _verb(verbs, "pause", _pause, "freeze all of its processes")
    _verb(verbs, "resume", _resume, "go on")


def run(args: argparse.Namespace, client: Client, out: Out) -> int:
    return args.do(args, client, out) or 0


def _verb(verbs: argparse._SubParsersAction, name: str, do: object, help: str) -> argparse.ArgumentParser:  # type: ignore[type-arg]
    parser: argparse.ArgumentParser = verbs.add_parser(name, aliases=ALIASES.get(name, ()), help=help)
    parser.add_argument("id", metavar="CONTAINER")
    parser.set_defaults(do=do)
    return parser


def _register_exec(exec: argparse.ArgumentParser) -> None:
    exec.add_argument("--exec-id", required=True)
    exec.add_argument("--cwd", default="", metavar="DIR")
    exec.add_argument("--tty", "-t", action="store_true", help="give it a terminal")
    exec.add_argument("--user", "-u", default="", metavar="USER[:GROUP]")
    exec.add_argument("--env", action="append", default=[], metavar="KEY=VALUE")
    process.register(exec)
    exec.add_argument("args", nargs=argparse.REMAINDER, metavar="COMMAND")


def _start(args: argparse.Namespace, client: Client, out: Out) -> int:
    record = client.containers.get(containers.GetRequest(id=args.id))
    terminal = process.has_terminal(record)
    stdio, fds = process.streams(args, terminal)
    restart.resume(client, record)
    with Phases(sys.stderr).phase(f"creating task {args.id}"):
        options = runtimes.packed(RuntimeOptions(no_pivot_root=args.no_pivot))
        pid = client.tasks.create(api.CreateRequest(container_id=args.id, stdio=stdio, options=options), fds=fds).pid
    with contextlib.suppress(process.Left):
        return process.launch(args, client, pid, terminal)
    return 0


def _ls(args: argparse.Namespace, client: Client, out: Out) -> None:
    found = client.tasks.list(api.ListRequest()).tasks
    rows = [(row.container_id, str(row.pid), row.status.name) for row in found]
    out.table(("TASK", "PID", "STATUS"), rows, found, [row.container_id for row in found])


def _ps(args: argparse.Namespace, client: Client, out: Out) -> None:
    found = client.tasks.list_pids(api.ListPidsRequest(container_id=args.id)).processes
    if args.json:
        out.json(list(found))
    else:
        out.columns([("PID", "INFO"), *((str(row.pid), row.exec_id or "-") for row in found)])


def _exec(args: argparse.Namespace, client: Client, out: Out) -> int:
    record = client.containers.get(containers.GetRequest(id=args.id))
    spec = build.with_args(runtime.decode(record.spec), args.args)
    spec = build.with_env(spec, args.env)
    if args.cwd:
        spec = build.with_cwd(spec, args.cwd)
    if args.user:
        spec = build.with_user(spec, args.user)
    if not args.args:
        raise errors.InvalidArgument(f"executing in {args.id}: no command was given")
    spec = build.with_terminal(spec) if args.tty else spec
    document = to_json(replace(spec.process or runtime.Process(), terminal=args.tty))
    stdio, fds = process.streams(args, args.tty)
    request = api.ExecRequest(container_id=args.id, exec_id=args.exec_id, spec=document, stdio=stdio)
    client.tasks.exec(request, fds=fds)
    with contextlib.ExitStack() as undo:
        undo.callback(_forget, client, args.id, args.exec_id)
        if not args.detach:
            try:
                return process.follow(client, args.id, args.exec_id, args.tty, args.detach_keys)
            except process.Left:
                undo.pop_all()
                return 0
        client.tasks.start(api.StartRequest(container_id=args.id, exec_id=args.exec_id))
        undo.pop_all()
    return 0


def _forget(client: Client, id: str, exec_id: str) -> None:
    """An exec'd process that has ended, or was never started; one that runs on keeps its id."""
    with contextlib.suppress(errors.NotFound, errors.FailedPrecondition):
        client.tasks.delete_process(api.DeleteProcessRequest(container_id=id, exec_id=exec_id))


def _kill(args: argparse.Namespace, client: Client, out: Out) -> None:
    number = _signal(args.signal or _stop_signal(client, args.id))
    request = api.KillRequest(container_id=args.id, exec_id=args.exec_id, signal=number, all=args.all)
    stops = not args.exec_id and (not args.signal or number in restart.ENDING)
    with restart.stopping(client, args.id) if stops else contextlib.nullcontext():
        client.tasks.kill(request)


def _stop_signal(client: Client, id: str) -> str:
    record = client.containers.get(containers.GetRequest(id=id))
    return record.labels.get(STOP_SIGNAL) or "SIGTERM"


def _signal(text: str) -> int:
    """`9`, `KILL` or `SIGKILL`."""
    if text.isascii() and text.isdigit() and 0 < int(text) < signal.NSIG:
        return int(text)
    name = text.upper()
    try:
        return signal.Signals[name if name.startswith("SIG") else f"SIG{name}"]
    except KeyError:
        raise errors.InvalidArgument(f"signal {text!r} is unknown") from None


def _rm(args: argparse.Namespace, client: Client, out: Out) -> int:
    """1 when any could not be deleted; else the last exit code that is not 0, and 0 with --force."""
    codes: list[int] = []
    failed = output.each(args.ids, lambda id: codes.append(_delete(client, id, args.exec_id, args.force)))
    ended = [code for code in codes if code and not args.force]
    return failed or (ended[-1] if ended else 0)


def _delete(client: Client, id: str, exec_id: str, force: bool) -> int:
    with contextlib.nullcontext() if exec_id else restart.stopping(client, id):
        return _deleted(client, id, exec_id, force)


def _deleted(client: Client, id: str, exec_id: str, force: bool) -> int:
    if force:
        with contextlib.suppress(errors.NotFound, errors.FailedPrecondition):  # ended, or never started
            client.tasks.kill(api.KillRequest(container_id=id, exec_id=exec_id, signal=9, all=not exec_id))
            process.wait(client, id, exec_id)
    if exec_id:
        return client.tasks.delete_process(api.DeleteProcessRequest(container_id=id, exec_id=exec_id)).exit_status
    return client.tasks.delete(api.DeleteRequest(container_id=id)).exit_status


def _wait(args: argparse.Namespace, client: Client, out: Out) -> int:
    return process.wait(client, args.id, args.exec_id)


def _attach(args: argparse.Namespace, client: Client, out: Out) -> int:
    with contextlib.suppress(process.Left):
        return process.attach(client, args.id, args.exec_id, args.detach_keys)
    return 0


def _metrics(args: argparse.Namespace, client: Client, out: Out) -> None:
    found = client.tasks.metrics(api.MetricsRequest(filters=[f"id=={json.dumps(args.id)}"])).metrics
    if not found:
        raise errors.NotFound(f"measuring {args.id}: no task of that id has a cgroup of its own")
    if args.format == "json":
        out.json(found[0])
        return
    out.columns([("METRIC", "VALUE"), *figures.rows(found[0].data)])


def _checkpoint(args: argparse.Namespace, client: Client, out: Out) -> None:
    paths = {"image_path": args.image_path, "work_path": args.work_path}
    options = CheckpointOptions(exit=args.exit, **{key: os.path.abspath(path) for key, path in paths.items() if path})
    if args.image_path:
        client.tasks.checkpoint(api.CheckpointRequest(container_id=args.id, options=options))
        return
    from ctr import checkpoint

    out.line(checkpoint.save(client, args.id, task=options))


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0.1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError("must be 0.1 to 3600")
    return seconds


def _top(args: argparse.Namespace, client: Client, out: Out) -> None:
    """On a terminal each look takes the place of the one before. An interrupt is how one stops looking."""
    with contextlib.suppress(KeyboardInterrupt):
        for found in top.looks(client, args.ids, args.interval):
            if sys.stdout.isatty() and not (args.once or args.json):
                sys.stdout.write(CLEAR)
            out.table(top.HEADER, [top.cells(used) for used in found], found, [used.id for used in found])
            sys.stdout.flush()
            if args.once:
                break


def _pause(args: argparse.Namespace, client: Client, out: Out) -> None:
    client.tasks.pause(api.PauseRequest(container_id=args.id))


def _resume(args: argparse.Namespace, client: Client, out: Out) -> None:
    client.tasks.resume(api.ResumeRequest(container_id=args.id))
