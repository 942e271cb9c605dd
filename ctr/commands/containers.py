"""ctr containers."""

import argparse
import contextlib
import sys

import msgspec

from ctr import checkpoint, container, output
from ctr.output import Out
from ctr.phases import Phases
from daemon.client.client import Client
from spec import errors
from spec.api import containers as api
from spec.api import tasks
from spec.records import Container, Status


def register(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    create = verbs.add_parser("create", help="create a container")
    container.register(create)
    create.set_defaults(do=_create)
    ls = verbs.add_parser("ls", aliases=["list"], help="list containers")
    output.register_list(ls)
    ls.add_argument("filters", nargs="*")
    ls.set_defaults(do=_ls)
    info = verbs.add_parser("info", help="show one container")
    info.add_argument("--spec", action="store_true", help="only its OCI runtime spec")
    info.add_argument("--timing", action="store_true", help="how long each phase of its task's creation and start took")
    info.add_argument("id")
    info.set_defaults(do=_info)
    rm = verbs.add_parser("rm", aliases=["remove", "delete", "del"], help="remove containers")
    rm.add_argument("--keep-snapshot", action="store_true")
    rm.add_argument("ids", nargs="+", metavar="id")
    rm.set_defaults(do=_rm)
    label = verbs.add_parser("label", help="set labels; an empty value removes one")
    label.add_argument("id")
    label.add_argument("labels", nargs="+", metavar="KEY=VALUE")
    label.set_defaults(do=_label)
    checkpoint.register(verbs)


def run(args: argparse.Namespace, client: Client, out: Out) -> int:
    return args.do(args, client, out) or 0


def _create(args: argparse.Namespace, client: Client, out: Out) -> None:
    phases = Phases(sys.stderr)
    with phases.phase("reading the image"):
        plan = container.describe(args, client)
    if args.rootfs and args.uidmap:
        raise errors.InvalidArgument(
            f"creating container {args.id}: a directory whose ids are mapped is for `ctr run`, which hands it over"
        )
    with contextlib.ExitStack() as undo:
        container.create(client, plan, undo, phases)
        undo.pop_all()


def _ls(args: argparse.Namespace, client: Client, out: Out) -> None:
    blocks = client.containers.list_stream(api.ListRequest(filters=args.filters))
    found = [record for block in blocks for record in block.containers]
    rows = [(record.id, record.image or "-", record.runtime.name) for record in found]
    shown = [_shown(record) for record in found] if args.json else ()
    out.table(("CONTAINER", "IMAGE", "RUNTIME"), rows, shown, [record.id for record in found])


def _info(args: argparse.Namespace, client: Client, out: Out) -> None:
    if args.timing:
        output.timing(client.tasks.get(tasks.GetRequest(container_id=args.id)).timing, out)
        return
    record = client.containers.get(api.GetRequest(id=args.id))
    out.json(msgspec.json.decode(record.spec) if args.spec else _shown(record))


def _shown(record: Container) -> dict[str, object]:
    """A record with its spec decoded."""
    fields = msgspec.structs.asdict(record)
    fields["runtime"] = {"name": record.runtime.name, "options": msgspec.msgpack.decode(record.runtime.options)}
    fields["extensions"] = {name: msgspec.msgpack.decode(value) for name, value in record.extensions.items()}
    return {**fields, "spec": msgspec.Raw(record.spec)}


def _rm(args: argparse.Namespace, client: Client, out: Out) -> int:
    def remove(id: str) -> None:
        _end_task(client, id)
        container.remove(client, id, args.keep_snapshot)

    return output.each(args.ids, remove)


def _end_task(client: Client, id: str) -> None:
    """Delete the container's task, if it has one that does not run."""
    try:
        process = client.tasks.get(tasks.GetRequest(container_id=id))
    except errors.NotFound:
        return
    if process.status not in (Status.STOPPED, Status.CREATED):
        raise errors.FailedPrecondition(
            f"removing container {id}: its task is {process.status.name.lower()}; kill it first"
        )
    client.tasks.delete(tasks.DeleteRequest(container_id=id))


def _label(args: argparse.Namespace, client: Client, out: Out) -> None:
    labels = output.parse_labels(args.labels)
    record = client.containers.get(api.GetRequest(id=args.id))
    changed = msgspec.structs.replace(record, labels=labels)
    fields = [f"labels.{key}" for key in labels]
    out.line(output.labels(client.containers.update(api.UpdateRequest(container=changed, fields=fields)).labels))
