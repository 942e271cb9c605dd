"""`ctr containers checkpoint` and `restore`: a container as an image, and back. CRIU writes and reads its processes.

A checkpoint is trusted as a spec is: what it says of mounts and hooks is done. What it says of images and runtimes is
not: an image is found by its digest, and a runtime that is a path has to be named anew.
"""

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Iterator

import msgspec
from msgspec.structs import replace

from ctr import container, defaults, diff, image, process
from ctr.output import Out
from ctr.phases import Phases
from daemon.client.client import Client
from spec import errors
from spec.api import containers, images, snapshots, tasks
from spec.api import diff as diff_api
from spec.base import pack
from spec.oci import checkpoint
from spec.oci.checkpoint import Parts
from spec.oci.image import OCI_INDEX, OCI_LAYER_GZIP, Descriptor
from spec.records import CheckpointOptions, Container, Image, RuntimeOptions, RuntimeRef, Status

TRUSTED = ("systemd_cgroup", "no_pivot_root", "no_new_keyring")  # of a checkpoint's options of its runtime


def register(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    make = verbs.add_parser("checkpoint", help="make an image of a container")
    make.add_argument("--rw", action="store_true", help="with what it wrote to its root filesystem")
    make.add_argument("--image", action="store_true", help="with the image that it stands on")
    make.add_argument("--task", action="store_true", help="with the state of its processes, by CRIU")
    make.add_argument("id", metavar="CONTAINER")
    make.add_argument("ref", metavar="REF")
    make.set_defaults(do=_checkpoint)
    restore = verbs.add_parser("restore", help="make a container of such an image, and run it")
    restore.add_argument("--rw", action="store_true", help="with what it wrote")
    restore.add_argument("--live", action="store_true", help="its processes go on where they were, by CRIU")
    restore.add_argument("--snapshotter", default=os.environ.get("HOLDD_SNAPSHOTTER") or "", help="else the image's")
    restore.add_argument("--runtime", default="", help="else the image's")
    process.register(restore)
    restore.add_argument("id", metavar="CONTAINER")
    restore.add_argument("ref", metavar="REF")
    restore.set_defaults(do=_restore, pid_file="")


def _checkpoint(args: argparse.Namespace, client: Client, out: Out) -> None:
    options = CheckpointOptions() if args.task else None
    save(client, args.id, args.ref, args.image, args.rw, options)
    out.line(args.ref)


def save(
    client: Client,
    id: str,
    ref: str = "",
    with_image: bool = False,
    with_writes: bool = False,
    task: CheckpointOptions | None = None,
) -> str:
    """Make an image `ref` ("" for a name of its own) of a container, with the parts that are asked for; its name."""
    ref = ref or f"containerd.io/checkpoint/{id}:{time.strftime('%m-%d-%Y-%H-%M-%S')}"
    with contextlib.suppress(errors.NotFound):
        client.images.get(images.GetRequest(name=ref))
        raise errors.AlreadyExists(f"checkpointing container {id}: image {ref} exists")
    record = client.containers.get(containers.GetRequest(id=id))
    if with_image and not record.image:
        raise errors.FailedPrecondition(f"checkpointing container {id}: it stands on no image")
    if with_writes and not record.snapshot_key:
        raise errors.FailedPrecondition(f"checkpointing container {id}: it has no snapshot")
    parts = Parts(record.image, record.runtime.name, record.snapshotter)
    with diff.leased(client) as held:
        parts = parts._replace(spec=_stored(held, checkpoint.SPEC, record.spec))
        if record.runtime.options != RuntimeRef(name="").options:
            parts = parts._replace(options=_stored(held, checkpoint.RUNTIME_OPTIONS, bytes(record.runtime.options)))
        if with_image:
            parts = parts._replace(image=client.images.get(images.GetRequest(name=record.image)).target)
        with _paused(client, id) if not (task and task.exit) else contextlib.nullcontext():
            if with_writes:
                parts = parts._replace(rw=_writes(held, record))
            if task is not None:
                made = held.tasks.checkpoint(tasks.CheckpointRequest(container_id=id, options=task)).descriptors
                parts = parts._replace(criu=next(part for part in made if part.media_type == checkpoint.CRIU))
        target = _stored(held, OCI_INDEX, checkpoint.index(parts, ref), checkpoint.kept(parts))
        record_of = Image(name=ref, target=target, labels={checkpoint.LABEL: "true"})
        held.images.create(images.CreateRequest(image=record_of))
    return ref


@contextlib.contextmanager
def _paused(client: Client, id: str) -> Iterator[None]:
    """All parts shall be of one moment."""
    try:
        running = client.tasks.get(tasks.GetRequest(container_id=id)).status is Status.RUNNING
    except errors.NotFound:
        running = False
    if not running:
        yield
        return
    client.tasks.pause(tasks.PauseRequest(container_id=id))
    try:
        yield
    finally:
        client.tasks.resume(tasks.ResumeRequest(container_id=id))


def _writes(client: Client, record: Container) -> Descriptor:
    with contextlib.ExitStack() as undo:
        left, right = diff.own(record.snapshotter, client, record.snapshot_key, undo)
        request = diff_api.DiffRequest(left=left, right=right, media_type=OCI_LAYER_GZIP)
        return client.diff.diff(request).diff


def _stored(client: Client, media_type: str, data: bytes, labels: dict[str, str] | None = None) -> Descriptor:
    from daemon.client.proxies import RemoteContent

    with RemoteContent(client).writer(f"checkpoint-{os.getpid()}-{os.urandom(4).hex()}", len(data)) as writer:
        writer.write(data)
        digest = writer.digest()
        with contextlib.suppress(errors.AlreadyExists):
            writer.commit(len(data), digest, labels)
    return Descriptor(media_type=media_type, digest=digest, size=len(data))


def _restore(args: argparse.Namespace, client: Client, out: Out) -> int:
    target = client.images.get(images.GetRequest(name=args.ref)).target
    parts = checkpoint.parts(target, image.read(client, target.digest), args.ref)
    plan = _plan(args, client, parts)
    terminal = process.has_terminal(plan.record)
    if args.live and terminal and not args.detach:
        raise errors.InvalidArgument(f"restoring {args.ref}: give --detach, and join its terminal by ctr tasks attach")
    phases = Phases(sys.stderr)
    with contextlib.ExitStack() as undo:
        container.create(client, plan, undo, phases)
        if args.rw:
            with phases.phase("writing what it wrote"):
                key = snapshots.MountsRequest(snapshotter=plan.record.snapshotter, key=args.id)
                mounts = client.snapshots.mounts(key).mounts
                client.diff.apply(diff_api.ApplyRequest(diff=_part(args, parts, "rw"), mounts=mounts))
        stdio, fds = process.streams(args, terminal)
        live = _part(args, parts, "criu") if args.live else None
        request = tasks.CreateRequest(container_id=args.id, stdio=stdio, checkpoint=live)
        with phases.phase(f"creating task {args.id}"):
            pid = client.tasks.create(request, fds=fds).pid
        code = 0
        with contextlib.suppress(process.Left):
            code = process.launch(args, client, pid, terminal)
        undo.pop_all()
    return code


def _plan(args: argparse.Namespace, client: Client, parts: Parts) -> container.Plan:
    """The container as it was. Its image's name is that of the checkpoint, where it has the same target here, or else
    the checkpoint's own."""
    for wanted, name in ((args.rw, "rw"), (args.live, "criu")):
        if wanted:
            _part(args, parts, name)
    options = RuntimeOptions()
    if not args.runtime and parts.runtime.startswith("/"):
        raise errors.FailedPrecondition(
            f"restoring {args.ref}: it ran by the program {parts.runtime}; name a runtime with --runtime"
        )
    if parts.options is not None and not args.runtime:
        options = _options(image.read(client, parts.options.digest), args.ref)
    args.runtime, args.snapshotter = args.runtime or parts.runtime, args.snapshotter or parts.snapshotter
    defaults.fill(args, client)
    spec = image.read(client, _part(args, parts, "spec").digest)
    chain_id, name = "", ""
    if parts.image is not None:
        name = _name(client, parts, args.ref)
        chain_id = image.look(client, Image(name=name, target=parts.image)).chain_id
    elif parts.image_name:
        raise errors.FailedPrecondition(f"restoring {args.ref}: it was made without --image")
    runtime = RuntimeRef(name=args.runtime)
    if options != RuntimeOptions():
        runtime = replace(runtime, options=msgspec.Raw(pack(options)))
    record = Container(
        id=args.id,
        image=name,
        runtime=runtime,
        spec=checkpoint.restored(spec, args.ref, client.namespace, args.id),
        snapshotter=args.snapshotter if name else "",
        snapshot_key=args.id if name else "",
    )
    return container.Plan(record, chain_id)


def _name(client: Client, parts: Parts, ref: str) -> str:
    with contextlib.suppress(errors.NotFound):
        there = client.images.get(images.GetRequest(name=parts.image_name)) if parts.image_name else None
        if there is not None and parts.image is not None and there.target.digest == parts.image.digest:
            return parts.image_name
    return ref


def _options(data: bytes, ref: str) -> RuntimeOptions:
    try:
        given = msgspec.msgpack.decode(data, type=RuntimeOptions)
    except msgspec.DecodeError as exc:
        raise errors.InvalidArgument(f"restoring {ref}: the options of its runtime: {exc}") from exc
    return replace(RuntimeOptions(), **{name: getattr(given, name) for name in TRUSTED})


def _part(args: argparse.Namespace, parts: Parts, name: str) -> Descriptor:
    found: Descriptor | None = getattr(parts, name)
    if found is None:
        flag = {"rw": "--rw", "criu": "--task"}[name]
        raise errors.FailedPrecondition(f"restoring {args.ref}: it was made without {flag}")
    return found
