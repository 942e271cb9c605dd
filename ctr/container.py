"""From flags to a container: its spec, its snapshot, its record. Shared by `run` and `containers create`."""

import argparse
import contextlib
import os
import socket
from collections.abc import Sequence

from ctr import image, output
from daemon.client.client import Client
from spec import errors, names
from spec.api import containers, snapshots
from spec.oci import build, runtime
from spec.records import Container, RuntimeRef, SnapshotInfo
from spec.types import Mount


def register(parser: argparse.ArgumentParser) -> None:
    """Flags that say what a container is."""
    add = parser.add_argument
    add("--rootfs", action="store_true", help="the first argument is a directory, not an image")
    add("--config", "-c", default="", metavar="FILE", help="an OCI runtime spec to take as it is")
    add("--snapshotter", default=os.environ.get("HOLDD_SNAPSHOTTER") or "overlayfs")
    add("--runtime", default="runc", help="a configured runtime's name, or an absolute path")
    add("--platform", default="", help="instead of the host's")
    add("--tty", "-t", action="store_true", help="give it a terminal")
    add("--env", action="append", default=[], metavar="KEY=VALUE")
    add("--env-file", default="", metavar="FILE", help="one KEY=VALUE a line")
    add("--mount", action="append", default=[], metavar="type=bind,src=A,dst=B,options=rbind:ro")
    add("--cwd", default="", metavar="DIR")
    add("--user", "-u", default="", metavar="USER[:GROUP]")
    add("--hostname", default="")
    add("--net-host", action="store_true", help="share the host's network")
    add("--with-ns", action="append", default=[], metavar="TYPE:PATH", help="join a namespace")
    add("--read-only", action="store_true", help="a root filesystem that cannot be written")
    add("--privileged", action="store_true", help="all capabilities and devices")
    add("--allow-new-privs", action="store_true")
    add("--cap-add", action="append", default=[], metavar="CAP")
    add("--cap-drop", action="append", default=[], metavar="CAP")
    add("--memory-limit", type=int, default=0, metavar="BYTES")
    add("--cpus", type=float, default=0.0)
    add("--cpu-shares", type=int, default=0)
    add("--pids-limit", type=int, default=0)
    add("--label", action="append", default=[], metavar="KEY=VALUE")
    add("--annotation", action="append", default=[], metavar="KEY=VALUE")
    add("source", metavar="IMAGE|ROOTFS")
    add("id", metavar="CONTAINER")
    add("args", nargs=argparse.REMAINDER, metavar="COMMAND")


def describe(args: argparse.Namespace, client: Client) -> tuple[Container, str, Sequence[Mount]]:
    """The record that the flags ask for, the snapshot to stand on, and the root filesystem's mounts (--rootfs)."""
    labels = output.parse_labels(args.label)
    spec = build.default_spec(client.namespace, args.id)
    parent, name = "", ""
    mounts: Sequence[Mount] = ()
    if args.rootfs:
        mounts = (Mount(type="bind", source=os.path.abspath(args.source), options=("rbind", "rw")),)
        spec = build.with_env(build.with_args(spec, args.args or ("sh",)), (build.DEFAULT_PATH,))
    else:
        resolved = image.resolve(client, args.source, args.platform)
        name, parent = resolved.image.name, resolved.chain_id
        spec = build.with_image(spec, resolved.config, args.args)
        said = resolved.config.config
        inherited = names.inherited_labels((said and said.labels) or {})
        stop = {names.STOP_SIGNAL: said.stop_signal} if said and said.stop_signal else {}
        labels = {**inherited, **stop, **labels}
    document = build.encode(_options(spec, args))
    if args.config:
        with open(args.config, "rb") as file:
            document = file.read()
    record = Container(
        id=args.id,
        labels=labels,
        image=name,
        runtime=RuntimeRef(name=args.runtime),
        spec=document,
        snapshotter="" if args.rootfs else args.snapshotter,
        snapshot_key="" if args.rootfs else args.id,
    )
    return record, parent, mounts


def create(
    client: Client, record: Container, parent: str, undo: contextlib.ExitStack, ephemeral: bool = False
) -> None:
    """Record and snapshot; `undo` takes them back. What an ephemeral one writes is never synced.

    The record comes first: it keeps the snapshot from garbage collection.
    """
    client.containers.create(containers.CreateRequest(container=record))
    undo.callback(client.containers.delete, containers.DeleteRequest(id=record.id))
    if record.snapshot_key:
        snapshotter, key = record.snapshotter, record.snapshot_key
        labels = {names.VOLATILE: "true"} if ephemeral else {}
        request = snapshots.PrepareRequest(snapshotter=snapshotter, key=key, parent=parent, labels=labels)
        try:
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


def _options(spec: runtime.Spec, args: argparse.Namespace) -> runtime.Spec:
    env = list(args.env)
    if args.env_file:
        with open(args.env_file) as file:
            env = [line.strip() for line in file if line.strip() and not line.startswith("#")] + env
    spec = build.with_env(spec, env)
    spec = build.with_mounts(spec, [build.parse_mount(text) for text in args.mount])
    spec = _identity(spec, args)
    spec = _isolation(spec, args)
    return _resources(spec, args)


def _identity(spec: runtime.Spec, args: argparse.Namespace) -> runtime.Spec:
    if args.tty:
        spec = build.with_terminal(spec)
    if args.cwd:
        spec = build.with_cwd(spec, args.cwd)
    if args.user:
        spec = build.with_user(spec, args.user)
    if args.hostname:
        spec = build.with_hostname(spec, args.hostname)
    annotations = output.parse_labels(args.annotation) | output.parse_labels(args.label)
    return build.with_annotations(spec, annotations) if annotations else spec


def _isolation(spec: runtime.Spec, args: argparse.Namespace) -> runtime.Spec:
    if args.net_host:
        spec = build.with_host_network(spec, socket.gethostname())
    for text in args.with_ns:
        kind, _, path = text.partition(":")
        spec = build.with_namespace(spec, kind, path)
    if args.read_only:
        spec = build.with_readonly_root(spec)
    if args.privileged:
        spec = build.with_privileged(spec, _held_capabilities())
    if args.allow_new_privs:
        spec = build.with_new_privileges(spec)
    if args.cap_add or args.cap_drop:
        spec = build.with_capabilities(spec, args.cap_add, args.cap_drop)
    return spec


def _resources(spec: runtime.Spec, args: argparse.Namespace) -> runtime.Spec:
    if args.memory_limit:
        spec = build.with_memory_limit(spec, args.memory_limit)
    if args.cpus:
        spec = build.with_cpus(spec, args.cpus)
    if args.cpu_shares:
        spec = build.with_cpu(spec, shares=args.cpu_shares)
    if args.pids_limit:
        spec = build.with_pids_limit(spec, args.pids_limit)
    return spec


def _held_capabilities() -> list[str]:
    """Those in our bounding set: nobody can give away more than he may have."""
    with open("/proc/self/status") as status:
        mask = next(line.split()[1] for line in status if line.startswith("CapBnd:"))
    return build.capabilities_of(int(mask, 16))
