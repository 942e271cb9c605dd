"""ctr snapshots."""

import argparse
import os
from collections.abc import Sequence

from ctr import output
from ctr.output import Out
from daemon.client.client import Client
from spec.api import snapshots as api
from spec.records import SnapshotInfo


def register(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--snapshotter", default=os.environ.get("HOLDD_SNAPSHOTTER") or "overlayfs")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    ls = verbs.add_parser("ls", aliases=["list"], help="list snapshots")
    output.register_list(ls)
    ls.add_argument("filters", nargs="*")
    ls.set_defaults(do=_ls)
    verbs.add_parser("tree", help="show who stands on whom").set_defaults(do=_tree)
    rm = verbs.add_parser("rm", aliases=["remove", "delete", "del"], help="remove snapshots")
    rm.add_argument("keys", nargs="+", metavar="key")
    rm.set_defaults(do=_rm)
    info = verbs.add_parser("info", help="show one snapshot")
    info.add_argument("key")
    info.set_defaults(do=_info)
    usage = verbs.add_parser("usage", help="show what snapshots take, without their parents")
    usage.add_argument("-b", dest="bytes", action="store_true", help="in bytes")
    usage.add_argument("keys", nargs="*", metavar="key")
    usage.set_defaults(do=_usage)


def run(args: argparse.Namespace, client: Client, out: Out) -> int:
    return args.do(args, client, out) or 0


def _found(args: argparse.Namespace, client: Client, filters: Sequence[str] = ()) -> list[SnapshotInfo]:
    request = api.ListRequest(snapshotter=args.snapshotter, filters=filters)
    return [info for block in client.snapshots.list(request) for info in block.info]


def _ls(args: argparse.Namespace, client: Client, out: Out) -> None:
    found = _found(args, client, args.filters)
    rows = [(info.name, info.parent, info.kind.name.capitalize()) for info in found]
    out.table(("KEY", "PARENT", "KIND"), rows, found, [info.name for info in found])


def _tree(args: argparse.Namespace, client: Client, out: Out) -> None:
    children: dict[str, list[str]] = {}
    for info in _found(args, client):
        children.setdefault(info.parent, []).append(info.name)
    rows = [(name, 0) for name in reversed(children.get("", []))]
    while rows:
        name, depth = rows.pop()
        out.line(f"{'  ' * depth}\\_ {name}" if depth else name)
        rows += [(child, depth + 1) for child in reversed(children.get(name, []))]


def _rm(args: argparse.Namespace, client: Client, out: Out) -> int:
    def remove(key: str) -> None:
        client.snapshots.remove(api.RemoveRequest(snapshotter=args.snapshotter, key=key))

    return output.each(args.keys, remove)


def _info(args: argparse.Namespace, client: Client, out: Out) -> None:
    out.json(client.snapshots.stat(api.StatRequest(snapshotter=args.snapshotter, key=args.key)))


def _usage(args: argparse.Namespace, client: Client, out: Out) -> None:
    keys = args.keys or [info.name for info in _found(args, client)]
    rows = []
    for key in keys:
        usage = client.snapshots.usage(api.UsageRequest(snapshotter=args.snapshotter, key=key))
        rows.append((key, str(usage.size) if args.bytes else output.size(usage.size), str(usage.inodes)))
    out.columns([("KEY", "SIZE", "INODES"), *rows])
