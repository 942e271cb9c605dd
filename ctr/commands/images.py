"""ctr images."""

import argparse
import os

import msgspec
from msgspec.structs import replace

from ctr import archives, check, convert, defaults, garbage, image, mount, output, progress, referrers, registry
from ctr.output import Out
from daemon.client.client import Client
from spec import errors, platforms, reference
from spec.api import content, snapshots, transfer
from spec.api import images as api
from spec.oci import graph
from spec.oci.image import OCI_MANIFEST, Descriptor
from spec.records import Image


def register(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    _register_pull(verbs.add_parser("pull", help="pull an image from a registry and unpack it"))
    _register_push(verbs.add_parser("push", help="send an image to a registry"))
    archives.register(verbs)
    convert.register(verbs)
    referrers.register(verbs)
    ls = verbs.add_parser("ls", aliases=["list"], help="list images")
    output.register_list(ls)
    ls.add_argument("filters", nargs="*")
    ls.set_defaults(do=_ls)
    rm = verbs.add_parser("rm", aliases=["remove", "delete", "del"], help="remove images by name")
    rm.add_argument("--sync", action="store_true", help="wait until their space is given back")
    rm.add_argument("names", nargs="+", metavar="ref")
    rm.set_defaults(do=_rm)
    tag = verbs.add_parser("tag", help="give an image another name")
    tag.add_argument("--force", action="store_true", help="take the name from the image that has it")
    tag.add_argument("--skip-reference-check", action="store_true", help="allow any name")
    output.accept(tag, "--local")
    tag.add_argument("source")
    tag.add_argument("targets", nargs="+", metavar="target")
    tag.set_defaults(do=_tag)
    label = verbs.add_parser("label", help="set labels; an empty value removes one")
    label.add_argument("--replace-all", "-r", action="store_true", help="instead of all that it has")
    label.add_argument("name", metavar="ref")
    label.add_argument("labels", nargs="+", metavar="KEY=VALUE")
    label.set_defaults(do=_label)
    inspect = verbs.add_parser("inspect", aliases=["i"], help="show what an image consists of")
    inspect.add_argument("--content", action="store_true", help="with the documents themselves")
    inspect.add_argument("--timing", action="store_true", help="how long each phase of its pull or import took")
    inspect.add_argument("name", metavar="ref")
    inspect.set_defaults(do=_inspect)
    _register_snapshots(verbs)
    check.register(verbs)
    garbage.register_images(verbs)
    mount.register(verbs)


def _register_snapshots(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    usage = verbs.add_parser("usage", help="show what an image's snapshots take")
    usage.add_argument("--platform", default="", help="instead of the host's")
    usage.set_defaults(do=_usage)
    unpack = verbs.add_parser("unpack", help="make an image's snapshots of its content")
    unpack.add_argument("--platform", action="append", default=[], help="instead of the host's; may be repeated")
    progress.register(unpack)
    unpack.set_defaults(do=_unpack)
    for verb in (usage, unpack):
        verb.add_argument("--snapshotter", default=os.environ.get("HOLDD_SNAPSHOTTER", ""))
        verb.add_argument("ref")


def run(args: argparse.Namespace, client: Client, out: Out) -> int:
    defaults.fill(args, client)
    return args.do(args, client, out) or 0


def _register_pull(pull: argparse.ArgumentParser) -> None:
    registry.register(pull)
    pull.add_argument("--platform", action="append", default=[], help="instead of the host's; may be repeated")
    pull.add_argument("--all-platforms", action="store_true", help="content of every platform")
    registry.register_metadata(pull)
    pull.add_argument("--snapshotter", default=os.environ.get("HOLDD_SNAPSHOTTER", ""), help="unpack into this one")
    pull.add_argument("--label", action="append", default=[], metavar="KEY=VALUE", help="of the image")
    pull.add_argument("--snapshotter-label", action="append", default=[], metavar="KEY=VALUE", help="of its snapshots")
    pull.add_argument("--max-concurrent-downloads", type=int, default=0, metavar="N", help="layers at once")
    pull.add_argument("--print-chainid", action="store_true", help="print the name of its uppermost snapshot")
    progress.register(pull)
    output.accept(pull, "--local", "--sync-fs")
    pull.add_argument("ref")
    pull.set_defaults(do=_pull)


def _pull(args: argparse.Namespace, client: Client, out: Out) -> None:
    destination = transfer.ImageStore(
        name=args.ref,
        labels=output.parse_labels(args.label),
        platforms=args.platform,
        all_platforms=args.all_platforms,
        unpacks=image.into(args.snapshotter, args.platform, output.parse_labels(args.snapshotter_label)),
        all_metadata=not args.skip_metadata,
    )
    source = replace(registry.source(args, args.ref), concurrency=args.max_concurrent_downloads)
    request = transfer.TransferRequest(source=source, destination=destination)
    progress.show(client.transfer.transfer(request), args)
    if args.print_chainid:
        for platform in args.platform or [""]:
            out.line(image.resolve(client, args.ref, platform).chain_id)


def _register_push(push: argparse.ArgumentParser) -> None:
    registry.register(push)
    push.add_argument("--platform", action="append", default=[], help="of an index this one's manifest alone")
    push.add_argument("--manifest", default="", metavar="DIGEST", help="push this one, of no image")
    push.add_argument("--manifest-type", default=OCI_MANIFEST, metavar="TYPE", help="its media type")
    push.add_argument("--max-concurrent-uploaded-layers", type=int, default=0, metavar="N", help="at once")
    push.add_argument(
        "--allow-non-distributable-blobs", action="store_true", help="layers that may not be redistributed, too"
    )
    progress.register(push)
    output.accept(push, "--local")
    push.add_argument("remote")
    push.add_argument("local", nargs="?", default="", help="the image, if its name is another")
    push.set_defaults(do=_push)


def _push(args: argparse.Namespace, client: Client, out: Out) -> None:
    target = None
    if args.manifest:
        size = client.content.info(content.InfoRequest(digest=args.manifest)).size
        target = Descriptor(media_type=args.manifest_type, digest=args.manifest, size=size)
    source = transfer.ImageStore(
        name=args.local or args.remote,
        platforms=args.platform,
        target=target,
        non_distributable=args.allow_non_distributable_blobs,
    )
    destination = replace(registry.source(args, args.remote), concurrency=args.max_concurrent_uploaded_layers)
    request = transfer.TransferRequest(source=source, destination=destination)
    progress.show(client.transfer.transfer(request), args)


def _ls(args: argparse.Namespace, client: Client, out: Out) -> None:
    found = list(image.every(client, args.filters))
    rows = [] if args.quiet or args.json else [_row(client, record) for record in found]
    header = ("REF", "TYPE", "DIGEST", "SIZE", "PLATFORMS", "LABELS")
    out.table(header, rows, found, [record.name for record in found])


def _row(client: Client, record: Image) -> tuple[str, ...]:
    target = record.target
    try:
        measured = image.measure(client, target)
    except errors.Error:  # an image whose content is partly gone is still listed
        size, offered = "-", "-"
    else:
        size, offered = output.size(measured.size), ",".join(measured.offered) or "-"
    return record.name, target.media_type, target.digest, size, offered, output.labels(record.labels)


def _rm(args: argparse.Namespace, client: Client, out: Out) -> int:
    def remove(name: str) -> None:
        client.images.delete(api.DeleteRequest(name=name, sync=args.sync and name == args.names[-1]))
        out.line(name)

    return output.each(args.names, remove)


def _tag(args: argparse.Namespace, client: Client, out: Out) -> None:
    source = transfer.ImageStore(name=args.source)
    for name in args.targets:
        if not args.skip_reference_check:
            reference.parse(name)
        destination = transfer.ImageStore(name=name, force=args.force)
        progress.finish(client.transfer.transfer(transfer.TransferRequest(source=source, destination=destination)))
        out.line(name)


def _label(args: argparse.Namespace, client: Client, out: Out) -> None:
    labels = output.parse_labels(args.labels)
    record = replace(client.images.get(api.GetRequest(name=args.name)), labels=labels)
    fields = ["labels"] if args.replace_all else [f"labels.{key}" for key in labels]
    out.line(output.labels(client.images.update(api.UpdateRequest(image=record, fields=fields)).labels))


def _inspect(args: argparse.Namespace, client: Client, out: Out) -> None:
    record = client.images.get(api.GetRequest(name=args.name))
    if args.timing:
        output.timing(record.timing, out)
        return
    target = record.target
    out.line(args.name)
    _draw(client, out, target, "", args.content)


def _draw(client: Client, out: Out, descriptor: Descriptor, indent: str, content: bool) -> None:
    """One document or layer and, below it, what it points at."""
    here = image.has(client, descriptor.digest)
    platform = f" {platforms.format(descriptor.platform)}" if descriptor.platform else ""
    size = output.size(descriptor.size) + ("" if here else ", missing")
    out.line(f"{indent}\\_ {descriptor.media_type}{platform} {descriptor.digest} ({size})")
    opens = graph.is_index(descriptor.media_type) or graph.is_manifest(descriptor.media_type)
    if not here or not (opens or graph.is_config(descriptor.media_type)):
        return
    body = image.read(client, descriptor.digest)
    if content:
        for line in msgspec.json.format(body, indent=2).decode().splitlines():
            out.line(f"{indent}   {line}")
    for child in graph.children(descriptor, body):
        _draw(client, out, child, f"{indent}   ", content)


def _usage(args: argparse.Namespace, client: Client, out: Out) -> None:
    rows = []
    for chain_id in image.resolve(client, args.ref, args.platform).chain_ids:
        usage = client.snapshots.usage(snapshots.UsageRequest(snapshotter=args.snapshotter, key=chain_id))
        rows.append((chain_id, output.size(usage.size), str(usage.inodes)))
    out.columns([("KEY", "SIZE", "INODES"), *rows])


def _unpack(args: argparse.Namespace, client: Client, out: Out) -> None:
    progress.show(image.unpack(client, args.ref, args.snapshotter, args.platform), args)
