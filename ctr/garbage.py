"""ctr's verbs about what is kept and what goes: why, and prune."""

import argparse

from ctr import image
from ctr.output import Out
from daemon.client.client import Client
from spec import names
from spec.api import containers, content, images, leases
from spec.records import ContentInfo, LeaseResource

_LAYER = f"{names.GC_REF_CONTENT}.l."


def register(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Of `ctr content`."""
    why = verbs.add_parser("why", help="show who keeps a blob from collection")
    why.add_argument("digest")
    why.set_defaults(do=_why)
    prune = verbs.add_parser("prune", help="give back the space of what is not needed to run")
    what = prune.add_subparsers(metavar="WHAT", required=True)
    references = what.add_parser("references", help="compressed layers: manifests no longer keep them")
    references.add_argument("--async", dest="wait", action="store_false", help="do not wait for the collection")
    references.add_argument("--dry", action="store_true", help="say what would be done")
    references.set_defaults(do=_prune_references)


def register_images(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Of `ctr images`."""
    prune = verbs.add_parser("prune", help="remove images that no container uses")
    prune.add_argument("--all", action="store_true", help="without it nothing is done")
    prune.set_defaults(do=_prune_images)


def _why(args: argparse.Namespace, client: Client, out: Out) -> int:
    """A line a root, the root first; 1 when nothing keeps it."""
    request = leases.HoldersRequest(resource=LeaseResource(id=args.digest, type="content"))
    ways = client.leases.holders(request).ways
    for way in ways:
        out.line(" > ".join(f"{step.type} {step.id}" for step in way))
    return 0 if ways else 1


def _prune_references(args: argparse.Namespace, client: Client, out: Out) -> None:
    for info in [info for block in client.content.list(content.ListRequest()) for info in block.info]:
        layers = [key for key in info.labels if key.startswith(_LAYER)]
        if not layers:
            continue
        for key in layers:
            out.line(f"{info.digest} no longer keeps {info.labels[key]}")
        if not args.dry:
            changed = ContentInfo(digest=info.digest, labels=dict.fromkeys(layers, ""))
            client.content.update(content.UpdateRequest(info=changed, fields=[f"labels.{key}" for key in layers]))
    if args.wait and not args.dry:
        lease = client.leases.create(leases.CreateRequest())
        client.leases.delete(leases.DeleteRequest(id=lease.id, sync=True))


def _prune_images(args: argparse.Namespace, client: Client, out: Out) -> None:
    blocks = client.containers.list_stream(containers.ListRequest())
    used = {record.image for block in blocks for record in block.containers}
    idle = [record.name for record in image.every(client) if record.name not in used]
    if not args.all:
        out.line(f"{len(idle)} images are used by no container; --all removes them")
        return
    for name in idle:
        client.images.delete(images.DeleteRequest(name=name, sync=name == idle[-1]))
        out.line(name)
