"""ctr leases."""

import argparse

from ctr import output
from ctr.output import Out
from daemon.client.client import Client
from spec import errors, names
from spec.api import leases as api
from spec.records import LeaseResource


def register(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    create = verbs.add_parser("create", help="make a lease and print its id")
    create.add_argument("--id", default="", help="instead of one made up")
    create.add_argument("--expires", "-x", type=output.duration, default="24h", metavar="TIME", help="24h; 0: never")
    create.add_argument("labels", nargs="*", metavar="KEY=VALUE")
    create.set_defaults(do=_create)
    ls = verbs.add_parser("ls", aliases=["list"], help="list leases")
    output.register_list(ls)
    ls.add_argument("filters", nargs="*")
    ls.set_defaults(do=_ls)
    rm = verbs.add_parser("rm", aliases=["remove", "delete", "del"], help="remove leases")
    rm.add_argument("--sync", action="store_true", help="wait until what they alone kept is gone")
    rm.add_argument("ids", nargs="+", metavar="id")
    rm.set_defaults(do=_rm)
    resources = verbs.add_parser("resources", help="list what a lease keeps")
    output.register_list(resources)
    resources.add_argument("id")
    resources.set_defaults(do=_resources)
    for name, do in (("add", _add), ("drop", _drop)):
        verb = verbs.add_parser(name, help=f"{name} a resource")
        verb.add_argument("id")
        verb.add_argument("type", help="content, ingests, images or snapshots/SNAPSHOTTER")
        verb.add_argument("resource", help="digest, ref, name or key")
        verb.set_defaults(do=do)


def run(args: argparse.Namespace, client: Client, out: Out) -> int:
    return args.do(args, client, out) or 0


def _create(args: argparse.Namespace, client: Client, out: Out) -> None:
    labels = output.parse_labels(args.labels)
    if args.expires:
        labels[names.GC_EXPIRE] = output.after(args.expires)
    out.line(client.leases.create(api.CreateRequest(id=args.id, labels=labels)).id)


def _ls(args: argparse.Namespace, client: Client, out: Out) -> None:
    blocks = client.leases.list_stream(api.ListRequest(filters=args.filters))
    found = [lease for block in blocks for lease in block.leases]
    rows = [(lease.id, output.moment(lease.created_at_ns), output.labels(lease.labels)) for lease in found]
    out.table(("ID", "CREATED AT", "LABELS"), rows, found, [lease.id for lease in found])


def _rm(args: argparse.Namespace, client: Client, out: Out) -> int:
    def remove(id: str) -> None:
        client.leases.delete(api.DeleteRequest(id=id, sync=args.sync and id == args.ids[-1]))
        out.line(id)

    return output.each(args.ids, remove)


def _resources(args: argparse.Namespace, client: Client, out: Out) -> None:
    blocks = client.leases.list_resources(api.ListResourcesRequest(id=args.id))
    found = [resource for block in blocks for resource in block.resources]
    rows = [(resource.type, resource.id) for resource in found]
    out.table(("TYPE", "RESOURCE"), rows, found, [resource.id for resource in found])


def _add(args: argparse.Namespace, client: Client, out: Out) -> None:
    client.leases.add_resource(api.AddResourceRequest(id=args.id, resource=_resource(args)))


def _drop(args: argparse.Namespace, client: Client, out: Out) -> None:
    client.leases.delete_resource(api.DeleteResourceRequest(id=args.id, resource=_resource(args)))


def _resource(args: argparse.Namespace) -> LeaseResource:
    if not args.type:
        raise errors.InvalidArgument("the resource's type is empty")
    return LeaseResource(id=args.resource, type=args.type)
