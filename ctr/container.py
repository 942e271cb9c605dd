"""From flags to a container: its record, its snapshot, its root filesystem. Shared by `run` and `containers create`."""

import argparse
import contextlib
import os
from collections.abc import Sequence
from typing import NamedTuple

from ctr import defaults, image, output, runtimes, specification
from ctr.phases import Phases
from daemon.client.client import Client
from spec import errors, names, platforms
from spec.api import containers, introspection, snapshots
from spec.oci import build, runtime
from spec.records import Container, SnapshotInfo
from spec.types import Mount


class Plan(NamedTuple):
    """What a container will be: its record, the snapshot that it stands on and the labels of its own, or the mounts of
    a directory (--rootfs)."""

    record: Container
    parent: str = ""
    labels: dict[str, str] = {}
    mounts: Sequence[Mount] = ()


def register(parser: argparse.ArgumentParser) -> None:
    """Flags that say what a container is."""
    add = parser.add_argument
    add("--rootfs", action="store_true", help="the first argument is a directory, not an image")
    add("--config", "-c", default="", metavar="FILE", help="an OCI runtime spec as it is; needs no image")
    add("--snapshotter", default=os.environ.get("HOLDD_SNAPSHOTTER") or "", help="else the namespace's default")
    add("--snapshotter-label", action="append", default=[], metavar="KEY=VALUE", help="of its snapshot")
    add("--remap-labels", action="store_true", help="refuse a snapshotter that would change owners to map ids")
    runtimes.register(parser)
    add("--no-pivot", action="store_true", help="do not change roots by pivot_root")
    add("--platform", default="", help="instead of the host's")
    add("--label", action="append", default=[], metavar="KEY=VALUE", help="also an annotation")
    specification.register(parser)
    add("source", metavar="IMAGE|ROOTFS")
    add("id", metavar="CONTAINER", nargs="?", default="")
    add("args", nargs=argparse.REMAINDER, metavar="COMMAND")


def describe(args: argparse.Namespace, client: Client) -> Plan:
    """What the flags ask for. NotFound, InvalidArgument."""
    if not args.id:
        if not args.config:
            raise errors.InvalidArgument(f"container {args.source}: give an image or a directory, then its id")
        args.source, args.id = "", args.source
    names.check_identifier(args.id, "container id")
    if args.platform:
        platforms.parse(args.platform)
    labels = output.parse_labels(args.label)
    spec = build.default_spec(client.namespace, args.id)
    parent, name = "", ""
    if args.rootfs:
        spec = build.with_root(spec, os.path.abspath(args.source))
        spec = build.with_env(build.with_args(spec, args.args or ("sh",)), (build.DEFAULT_PATH,))
    elif args.source:
        resolved = image.resolve(client, args.source, args.platform)
        name, parent = resolved.image.name, resolved.chain_id
        if not args.config:
            spec = build.with_image(spec, resolved.config, args.args)
        said = resolved.config.config
        inherited = names.inherited_labels((said and said.labels) or {})
        stop = {names.STOP_SIGNAL: said.stop_signal} if said and said.stop_signal else {}
        labels = {**inherited, **stop, **labels}
    stands = name != ""
    defaults.fill(args, client)
    snapshotter = args.snapshotter
    record = Container(
        id=args.id,
        labels=labels,
        image=name,
        runtime=runtimes.reference(args),
        spec=_document(spec, args),
        snapshotter=snapshotter if stands else "",
        snapshot_key=args.id if stands else "",
    )
    maps = _maps(args)
    if maps and args.remap_labels and stands:
        _require_maps(client, snapshotter)
    own = {**output.parse_labels(args.snapshotter_label), **maps}
    return Plan(record, parent, own, _mounts(args, maps) if args.rootfs else ())


def create(client: Client, plan: Plan, undo: contextlib.ExitStack, phases: Phases, ephemeral: bool = False) -> None:
    """Record and snapshot; `undo` takes them back. What an ephemeral one writes is never synced.

    The record comes first: it keeps the snapshot from garbage collection.
    """
    record = plan.record
    with phases.phase(f"recording container {record.id}"):
        client.containers.create(containers.CreateRequest(container=record))
    undo.callback(client.containers.delete, containers.DeleteRequest(id=record.id))
    if record.snapshot_key:
        snapshotter, key = record.snapshotter, record.snapshot_key
        labels = plan.labels | ({names.VOLATILE: "true"} if ephemeral else {})
        request = snapshots.PrepareRequest(snapshotter=snapshotter, key=key, parent=plan.parent, labels=labels)
        try:
            with phases.phase(f"preparing snapshot {key}"):
                client.snapshots.prepare(request)
        except errors.NotFound as exc:
            raise errors.FailedPrecondition(
                f"image {record.image} is not unpacked into snapshotter {record.snapshotter}: pull it again"
            ) from exc
        undo.callback(client.snapshots.remove, snapshots.RemoveRequest(snapshotter=snapshotter, key=key))


def remove(client: Client, id: str, keep_snapshot: bool = False) -> None:
    """The record and its snapshot, or that snapshot is kept: without its container nothing else would."""
    record = client.containers.get(containers.GetRequest(id=id))
    name, key = record.snapshotter, record.snapshot_key
    if key and keep_snapshot:
        root = SnapshotInfo(name=key, labels={names.GC_ROOT: output.timestamp()})
        request = snapshots.UpdateRequest(snapshotter=name, info=root, fields=[f"labels.{names.GC_ROOT}"])
        client.snapshots.update(request)
    client.containers.delete(containers.DeleteRequest(id=id))
    if key and not keep_snapshot:
        with contextlib.suppress(errors.NotFound):
            client.snapshots.remove(snapshots.RemoveRequest(snapshotter=name, key=key))


def _document(spec: runtime.Spec, args: argparse.Namespace) -> bytes:
    """config.json."""
    if args.config:
        with open(args.config, "rb") as file:
            return file.read()
    return build.encode(specification.shaped(spec, args))


def _maps(args: argparse.Namespace) -> dict[str, str]:
    """As labels of a snapshot, whose files are then seen as the container's."""
    return {names.UID_MAPPING: args.uidmap, names.GID_MAPPING: args.gidmap} if args.uidmap and args.gidmap else {}


def _mounts(args: argparse.Namespace, maps: dict[str, str]) -> list[Mount]:
    """Of the directory that is the root filesystem."""
    mapped = (f"uidmap={args.uidmap}", f"gidmap={args.gidmap}") if maps else ()
    return [Mount(type="bind", source=os.path.abspath(args.source), options=("rbind", "rw", *mapped))]


def _require_maps(client: Client, snapshotter: str) -> None:
    plugins = client.introspection.plugins(introspection.PluginsRequest(filters=[f'id=="{snapshotter}"'])).plugins
    if not any("remap-ids" in plugin.capabilities for plugin in plugins):
        raise errors.Unimplemented(f"snapshotter {snapshotter} does not map ids (remap-ids)")
