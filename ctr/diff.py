"""`ctr snapshots diff`: what makes one snapshot of another, as a layer on standard output."""

import argparse
import contextlib
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

from ctr import output
from ctr.output import Out
from daemon.client.client import Client
from spec import errors, names
from spec.api import content, diff, leases
from spec.api import snapshots as api
from spec.oci.image import OCI_LAYER_GZIP
from spec.records import Kind
from spec.types import Mount

EPOCH = "SOURCE_DATE_EPOCH"  # reproducible-builds.org: no time is later, in seconds
HOUR = timedelta(hours=1)  # what is left when we are killed stays no longer


def register(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verb = verbs.add_parser("diff", help="write what a snapshot has other than its parent, or another, as a layer")
    verb.add_argument("--media-type", default=OCI_LAYER_GZIP, metavar="TYPE", help=f"instead of {OCI_LAYER_GZIP}")
    verb.add_argument("--ref", default="", help="the ingest to write to")
    verb.add_argument("--keep", action="store_true", help="keep the blob, whose digest is printed to standard error")
    verb.add_argument("--label", action="append", default=[], metavar="KEY=VALUE", help="of the blob")
    verb.add_argument("key")
    verb.add_argument("other", nargs="?", default="", help="what this one has other than the first")
    verb.set_defaults(do=_diff)


def _diff(args: argparse.Namespace, client: Client, out: Out) -> None:
    labels = output.parse_labels(args.label)
    if args.keep:
        labels[names.GC_ROOT] = output.timestamp()
    with leased(client) as held, contextlib.ExitStack() as undo:
        if args.other:
            left = _look(args.snapshotter, held, args.key, undo)
            right = _look(args.snapshotter, held, args.other, undo)
        else:
            left, right = own(args.snapshotter, held, args.key, undo)
        request = diff.DiffRequest(
            left=left, right=right, media_type=args.media_type, ref=args.ref, labels=labels,
            source_date_epoch_s=_epoch(),
        )  # fmt: skip
        made = held.diff.diff(request).diff
        _, fds = held.content.open(content.OpenRequest(digest=made.digest))
        with os.fdopen(fds[0], "rb") as blob:
            sys.stdout.flush()
            shutil.copyfileobj(blob, sys.stdout.buffer)
            sys.stdout.buffer.flush()
    if args.keep:
        print(made.digest, file=sys.stderr)


def own(
    snapshotter: str, client: Client, key: str, undo: contextlib.ExitStack
) -> tuple[Sequence[Mount], Sequence[Mount]]:
    """Mounts that show what a snapshot was made on, and the snapshot."""
    info = client.snapshots.stat(api.StatRequest(snapshotter=snapshotter, key=key))
    left = _view(snapshotter, client, info.parent, undo) if info.parent else ()
    return left, _look(snapshotter, client, key, undo)


def _look(snapshotter: str, client: Client, key: str, undo: contextlib.ExitStack) -> Sequence[Mount]:
    """Mounts that show a snapshot; of a committed one, by a view that goes again."""
    info = client.snapshots.stat(api.StatRequest(snapshotter=snapshotter, key=key))
    if info.kind == Kind.COMMITTED:
        return _view(snapshotter, client, key, undo)
    return client.snapshots.mounts(api.MountsRequest(snapshotter=snapshotter, key=key)).mounts


def _view(snapshotter: str, client: Client, name: str, undo: contextlib.ExitStack) -> Sequence[Mount]:
    key = f"diff-{os.getpid()}-{os.urandom(4).hex()}"
    mounts = client.snapshots.view(api.ViewRequest(snapshotter=snapshotter, key=key, parent=name)).mounts
    undo.callback(client.snapshots.remove, api.RemoveRequest(snapshotter=snapshotter, key=key))
    return mounts


@contextlib.contextmanager
def leased(client: Client) -> Iterator[Client]:
    """A client whose work stays until the block ends, and is no longer needed then."""
    expires = (datetime.now(UTC) + HOUR).isoformat(timespec="seconds")
    lease = client.leases.create(leases.CreateRequest(labels={names.GC_EXPIRE: expires}))
    try:
        yield client.using(lease=lease.id)
    finally:
        with contextlib.suppress(errors.Error):
            client.leases.delete(leases.DeleteRequest(id=lease.id))


def _epoch() -> int | None:
    text = os.environ.get(EPOCH, "")
    try:
        return int(text) if text else None
    except ValueError:
        raise errors.InvalidArgument(f"{EPOCH} is {text!r}, no number of seconds") from None
