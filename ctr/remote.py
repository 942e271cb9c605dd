"""ctr content: what is fetched from a registry and pushed to one, without being an image's."""

import argparse
import sys

from ctr import output, progress, registry
from ctr.output import Out
from daemon.client.client import Client
from spec.api import content, transfer
from spec.oci.image import Descriptor


def register(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    fetch = verbs.add_parser("fetch", help="fetch an image's content, and unpack nothing")
    fetch.add_argument("--label", action="append", default=[], metavar="KEY=VALUE", help="of the image")
    fetch.add_argument("--platform", action="append", default=[], help="instead of the host's; may be repeated")
    fetch.add_argument("--all-platforms", action="store_true", help="content of every platform")
    how = fetch.add_mutually_exclusive_group()
    registry.register_metadata(how)
    how.add_argument("--metadata-only", action="store_true", help="no layers at all")
    progress.register(fetch)
    fetch.set_defaults(do=_fetch)
    whole = verbs.add_parser("fetch-object", help="write what a reference names to standard output")
    whole.set_defaults(do=_fetch_object)
    blob = verbs.add_parser("fetch-blob", help="write blobs of a repository to standard output")
    blob.add_argument("--media-type", default="", metavar="TYPE", help="of what is fetched; of a manifest, say so")
    blob.set_defaults(do=_fetch_blob)
    push = verbs.add_parser("push-object", help="send one blob or manifest to a registry")
    progress.register(push)
    push.set_defaults(do=_push)
    for verb in (fetch, whole, blob, push):
        registry.register(verb)
        verb.add_argument("ref")
    whole.add_argument("object", nargs="?", default="", metavar="digest", help="another object of the repository")
    blob.add_argument("digests", nargs="+", metavar="digest")
    push.add_argument("digest")
    push.add_argument("type", metavar="media-type")


def _fetch(args: argparse.Namespace, client: Client, out: Out) -> None:
    destination = transfer.ImageStore(
        name=args.ref,
        labels=output.parse_labels(args.label),
        platforms=args.platform,
        all_platforms=args.all_platforms,
        all_metadata=not (args.skip_metadata or args.metadata_only),
        metadata_only=args.metadata_only,
    )
    request = transfer.TransferRequest(source=registry.source(args, args.ref), destination=destination)
    progress.show(client.transfer.transfer(request), args)


def _fetch_object(args: argparse.Namespace, client: Client, out: Out) -> None:
    _write(client, registry.source(args, args.ref), transfer.Raw(digest=args.object))


def _fetch_blob(args: argparse.Namespace, client: Client, out: Out) -> None:
    source = registry.source(args, args.ref)
    for digest in args.digests:
        _write(client, source, transfer.Raw(digest=digest, media_type=args.media_type))


def _write(client: Client, source: transfer.Registry, destination: transfer.Raw) -> None:
    """The daemon writes to our standard output."""
    sys.stdout.flush()
    request = transfer.TransferRequest(source=source, destination=destination)
    progress.finish(client.transfer.transfer(request, [sys.stdout.fileno()]))


def _push(args: argparse.Namespace, client: Client, out: Out) -> None:
    size = client.content.info(content.InfoRequest(digest=args.digest)).size
    target = Descriptor(media_type=args.type, digest=args.digest, size=size)
    request = transfer.TransferRequest(
        source=transfer.ImageStore(target=target), destination=registry.source(args, args.ref)
    )
    progress.show(client.transfer.transfer(request), args)
