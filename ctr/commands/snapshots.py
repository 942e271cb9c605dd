"""ctr snapshots."""

import argparse
import contextlib
import os
import shlex
from collections.abc import Sequence

from msgspec.structs import replace

from ctr import defaults, diff, image, output, progress
from ctr.output import Out
from daemon.client.client import Client
from spec import errors, names
from spec.api import snapshots as api
from spec.records import SnapshotInfo
from spec.types import Mount


def register(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--snapshotter", default=os.environ.get("HOLDD_SNAPSHOTTER", ""))
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    ls = verbs.add_parser("ls", aliases=["list"], help="list snapshots")
    output.register_list(ls)
    ls.add_argument("filters", nargs="*")
    ls.set_defaults(do=_ls)
    verbs.add_parser("tree", help="show who stands on whom").set_defaults(do=_tree)
    info = verbs.add_parser("info", help="show one snapshot")
    info.add_argument("key")
    info.set_defaults(do=_info)
    usage = verbs.add_parser("usage", help="show what snapshots take, without their parents")
    usage.add_argument("-b", dest="bytes", action="store_true", help="in bytes")
    usage.add_argument("keys", nargs="*", metavar="key")
    usage.set_defaults(do=_usage)
    _register_changes(verbs)
    diff.register(verbs)


def _register_changes(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    for name, do, text in (
        ("prepare", _prepare, "make a snapshot to write to; it stays until it is removed"),
        ("view", _view, "make a snapshot to read"),
    ):
        make = verbs.add_parser(name, help=text)
        make.add_argument("--target", "-t", default="", metavar="DIR", help="print the commands that mount it there")
        make.add_argument("--mounts", action="store_true", help="print its mounts as JSON")
        make.add_argument("key")
        make.add_argument("parent", nargs="?", default="")
        make.set_defaults(do=do)
    mounts = verbs.add_parser("mounts", aliases=["mount", "m"], help="print the commands that mount a snapshot")
    mounts.add_argument("target")
    mounts.add_argument("key")
    mounts.set_defaults(do=_mounts)
    commit = verbs.add_parser("commit", help="make an active snapshot one that others can stand on")
    commit.add_argument("name")
    commit.add_argument("key", metavar="active")
    commit.set_defaults(do=_commit)
    unpack = verbs.add_parser("unpack", help="make the snapshots of an image, and print the last one's name")
    unpack.add_argument("digest", help="of the image, of its manifest or of its config")
    unpack.set_defaults(do=_unpack)
    label = verbs.add_parser("label", help="set labels; an empty value removes one")
    label.add_argument("name")
    label.add_argument("labels", nargs="+", metavar="KEY=VALUE")
    label.set_defaults(do=_label)
    rm = verbs.add_parser("rm", aliases=["remove", "delete", "del"], help="remove snapshots")
    rm.add_argument("keys", nargs="+", metavar="key")
    rm.set_defaults(do=_rm)


def run(args: argparse.Namespace, client: Client, out: Out) -> int:
    defaults.fill(args, client)
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


def _info(args: argparse.Namespace, client: Client, out: Out) -> None:
    out.json(client.snapshots.stat(api.StatRequest(snapshotter=args.snapshotter, key=args.key)))


def _usage(args: argparse.Namespace, client: Client, out: Out) -> None:
    keys = args.keys or [info.name for info in _found(args, client)]
    rows = []
    for key in keys:
        usage = client.snapshots.usage(api.UsageRequest(snapshotter=args.snapshotter, key=key))
        rows.append((key, str(usage.size) if args.bytes else output.size(usage.size), str(usage.inodes)))
    out.columns([("KEY", "SIZE", "INODES"), *rows])


def _prepare(args: argparse.Namespace, client: Client, out: Out) -> None:
    labels = {names.GC_ROOT: output.timestamp()}
    request = api.PrepareRequest(snapshotter=args.snapshotter, key=args.key, parent=args.parent, labels=labels)
    _show(args, out, client.snapshots.prepare(request).mounts)


def _view(args: argparse.Namespace, client: Client, out: Out) -> None:
    request = api.ViewRequest(snapshotter=args.snapshotter, key=args.key, parent=args.parent)
    _show(args, out, client.snapshots.view(request).mounts)


def _show(args: argparse.Namespace, out: Out, mounts: Sequence[Mount]) -> None:
    if args.target:
        _print_commands(out, mounts, args.target)
    if args.mounts:
        out.json(list(mounts))


def _mounts(args: argparse.Namespace, client: Client, out: Out) -> None:
    request = api.MountsRequest(snapshotter=args.snapshotter, key=args.key)
    _print_commands(out, client.snapshots.mounts(request).mounts, args.target)


def _print_commands(out: Out, mounts: Sequence[Mount], target: str) -> None:
    """As a shell takes them."""
    for mount in mounts:
        where = os.path.join(target, mount.target) if mount.target else target
        options = ("-o", ",".join(mount.options)) if mount.options else ()
        out.line(shlex.join(("mount", "-t", mount.type, mount.source or mount.type, where, *options)))


def _commit(args: argparse.Namespace, client: Client, out: Out) -> None:
    labels = {names.GC_ROOT: output.timestamp()}
    client.snapshots.commit(
        api.CommitRequest(snapshotter=args.snapshotter, name=args.name, key=args.key, labels=labels)
    )


def _unpack(args: argparse.Namespace, client: Client, out: Out) -> None:
    name = _named_by(client, args.digest)
    progress.finish(image.unpack(client, name, args.snapshotter))
    out.line(image.resolve(client, name).chain_id)


def _named_by(client: Client, digest: str) -> str:
    """Name of an image that is, for this host, what `digest` names."""
    for record in image.every(client):
        with contextlib.suppress(errors.Error):  # others may be incomplete
            if record.target.digest == digest:
                return record.name
            resolved = image.resolve(client, record.name)
            if digest in (resolved.descriptor.digest, resolved.manifest.config.digest):
                return record.name
    raise errors.NotFound(f"unpacking {digest}: no image is it or has it for its manifest or config")


def _label(args: argparse.Namespace, client: Client, out: Out) -> None:
    labels = output.parse_labels(args.labels)
    info = client.snapshots.stat(api.StatRequest(snapshotter=args.snapshotter, key=args.name))
    fields = [f"labels.{key}" for key in labels]
    request = api.UpdateRequest(snapshotter=args.snapshotter, info=replace(info, labels=labels), fields=fields)
    out.line(output.labels(client.snapshots.update(request).labels))


def _rm(args: argparse.Namespace, client: Client, out: Out) -> int:
    def remove(key: str) -> None:
        client.snapshots.remove(api.RemoveRequest(snapshotter=args.snapshotter, key=key))

    return output.each(args.keys, remove)
