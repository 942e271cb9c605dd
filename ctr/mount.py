"""`ctr images mount` and `unmount`: a snapshot of an image, shown at a directory of the host."""

import argparse
import contextlib
import os
import tempfile

from ctr import image, output, progress
from ctr.output import Out
from daemon.client.client import Client
from spec import errors, names
from spec.api import leases
from spec.api import snapshots as api


def register(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    mount = verbs.add_parser("mount", help="show an image at a directory, whose path is printed")
    mount.add_argument("--rw", action="store_true", help="with a snapshot to write to")
    mount.add_argument("--platform", default="", help="instead of the host's")
    mount.add_argument("--snapshotter-label", action="append", default=[], metavar="KEY=VALUE", help="of the snapshot")
    mount.add_argument(
        "--expiration", "-x", type=output.duration, default="0", metavar="DURATION",
        help="how long the snapshot stays; 0: until it is removed",
    )  # fmt: skip
    mount.add_argument("ref")
    mount.add_argument("target", nargs="?", default="", help="a directory; one is made without")
    output.accept(mount, "--sync-fs")
    mount.set_defaults(do=_mount)
    unmount = verbs.add_parser("unmount", help="end what `mount` shows")
    unmount.add_argument("--rm", action="store_true", help="remove the snapshot, too")
    unmount.add_argument("target")
    unmount.set_defaults(do=_unmount)
    for verb in (mount, unmount):
        verb.add_argument("--snapshotter", default=os.environ.get("HOLDD_SNAPSHOTTER", ""))


def _mount(args: argparse.Namespace, client: Client, out: Out) -> None:
    """The snapshot is named after the directory, and stays until it is removed, or its lease ends."""
    from daemon.client import mounting

    resolved = image.resolve(client, args.ref, args.platform)
    if not image.is_unpacked(client, args.snapshotter, resolved.chain_id):
        progress.finish(image.unpack(client, args.ref, args.snapshotter, [args.platform]))
    labels = output.parse_labels(args.snapshotter_label)
    with contextlib.ExitStack() as undo:
        if args.expiration:
            kept = leases.CreateRequest(labels={names.GC_EXPIRE: output.after(args.expiration)})
            lease = client.leases.create(kept).id
            undo.callback(client.leases.delete, leases.DeleteRequest(id=lease))
            client = client.using(lease=lease)
        else:
            labels = {names.GC_ROOT: output.timestamp(), **labels}
        if args.target:
            target = os.path.abspath(args.target)
        else:
            target = tempfile.mkdtemp(prefix="holdd-image-")
            undo.callback(os.rmdir, target)
        kind = api.PrepareRequest if args.rw else api.ViewRequest
        make = client.snapshots.prepare if args.rw else client.snapshots.view
        request = kind(snapshotter=args.snapshotter, key=target, parent=resolved.chain_id, labels=labels)
        mounts = make(request).mounts
        undo.callback(client.snapshots.remove, api.RemoveRequest(snapshotter=args.snapshotter, key=target))
        mounting.attach(mounts, target)
        undo.pop_all()
    out.line(target)


def _unmount(args: argparse.Namespace, client: Client, out: Out) -> None:
    from daemon.client import mounting

    target = os.path.abspath(args.target)
    mounting.detach_all(target)
    if args.rm:
        try:
            client.snapshots.remove(api.RemoveRequest(snapshotter=args.snapshotter, key=target))
        except errors.NotFound as exc:
            raise errors.NotFound(f"unmounting {target}: it shows no snapshot of an image") from exc
    out.line(target)
