"""ctr namespaces."""

import argparse

from ctr import output
from ctr.output import Out
from daemon.client.client import Client
from spec.api import namespaces as api
from spec.records import Namespace


def register(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    create = verbs.add_parser("create", aliases=["c"], help="create a namespace")
    create.add_argument("name")
    create.add_argument("labels", nargs="*", metavar="KEY=VALUE")
    create.set_defaults(do=_create)
    ls = verbs.add_parser("ls", aliases=["list"], help="list namespaces")
    output.register_list(ls)
    ls.set_defaults(do=_ls)
    rm = verbs.add_parser("rm", aliases=["remove"], help="remove namespaces that hold nothing")
    rm.add_argument("names", nargs="+", metavar="name")
    rm.set_defaults(do=_rm)
    label = verbs.add_parser("label", help="set labels; an empty value removes one")
    label.add_argument("name")
    label.add_argument("labels", nargs="+", metavar="KEY=VALUE")
    label.set_defaults(do=_label)


def run(args: argparse.Namespace, client: Client, out: Out) -> int:
    return args.do(args, client, out) or 0


def _create(args: argparse.Namespace, client: Client, out: Out) -> None:
    namespace = Namespace(name=args.name, labels=output.parse_labels(args.labels))
    client.namespaces.create(api.CreateRequest(namespace=namespace))


def _ls(args: argparse.Namespace, client: Client, out: Out) -> None:
    found = client.namespaces.list(api.ListRequest()).namespaces
    rows = [(row.name, "" if not row.labels else output.labels(row.labels)) for row in found]
    out.table(("NAME", "LABELS"), rows, found, [row.name for row in found])


def _rm(args: argparse.Namespace, client: Client, out: Out) -> int:
    def remove(name: str) -> None:
        client.namespaces.delete(api.DeleteRequest(name=name))
        out.line(name)

    return output.each(args.names, remove)


def _label(args: argparse.Namespace, client: Client, out: Out) -> None:
    labels = output.parse_labels(args.labels)
    namespace = Namespace(name=args.name, labels=labels)
    fields = [f"labels.{key}" for key in labels]
    client.namespaces.update(api.UpdateRequest(namespace=namespace, fields=fields))
