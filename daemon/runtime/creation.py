"""Makes tasks, and undoes what was made of one by halves. Knows no task but the one it makes."""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

import msgspec

from daemon.kit import steps, threads, tracing
from daemon.runtime import cgroups, config, held, leftovers, living, loggers, restoring, roots, users
from daemon.runtime.attempts import Order
from daemon.runtime.bundle import Bundle, ProcessRecord, TaskRecord
from daemon.runtime.calls import Calls
from daemon.runtime.endings import watch_memory
from daemon.runtime.nursery import Nursery
from daemon.runtime.oci import Commands, Launch, RuntimeConfig, settle
from daemon.runtime.probes import Probes
from daemon.runtime.shim import Shim
from daemon.runtime.state import Host
from daemon.runtime.stdio import heard, open_streams, open_writer
from daemon.runtime.task import ContainerTask
from spec import errors, events
from spec.records import RuntimeRef
from spec.types import Mount

UNDO_SECONDS = 10.0  # for processes that are killed to end, and for the runtime to forget a container

log = logging.getLogger(__name__)


class Workshop:
    """Makes tasks for `host` below the directory `state`, their cgroups below `cgroup_parent`. `detached` turns mounts
    into the descriptor of one that nobody sees."""

    def __init__(
        self,
        host: Host,
        state: str,
        nursery: Nursery,
        runtimes: Mapping[str, RuntimeConfig],
        detached: Callable[[Sequence[Mount]], int],
        cgroup_parent: str = "",
    ) -> None:
        self.host = host
        self.state = state
        self.nursery = nursery
        self.runtimes = runtimes
        self._detached = detached
        self._cgroup_parent = cgroup_parent
        self._boot_id = living.boot_id()
        self._proven: set[str] = set()
        self.probes = Probes(f"{state}/probe", self._shim)
        self._undoing: dict[str, asyncio.Task[None]] = {}

    def calls(self, record: TaskRecord, bundle: Bundle) -> Calls:
        return Calls(Commands(record.launch, record.id), bundle, self._proven)

    def same_boot(self, record: TaskRecord) -> bool:
        return record.boot_id == self._boot_id

    def settled(self, runtime: RuntimeRef, namespace: str) -> Launch:
        """What it means here; see `settle`."""
        return settle(runtime, self.runtimes, f"{self.state}/runc", namespace)

    async def make(self, order: Order) -> ContainerTask:
        """A task whose init process waits to be started; nothing is left of one that fails."""
        spec = config.read_spec(order.spec, order.doing)
        if (spec.process is not None and spec.process.terminal) != order.stdio.terminal:
            raise errors.InvalidArgument(f"{order.doing}: its spec and its stdio disagree about a terminal")
        launch = self.settled(order.runtime, order.namespace)
        if spec.maps_mounts:
            await self._require_maps(launch, order.doing)
        record = TaskRecord(
            namespace=order.namespace,
            id=order.id,
            launch=launch,
            boot_id=self._boot_id,
            private_pids=spec.private_pids,
            cgroups_path=cgroups.below(self._cgroup_parent, spec.cgroups_path),
            logged=loggers.used(order.stdio),
            init=ProcessRecord(stdio=order.stdio),
        )
        with ExitStack() as stack:
            streams = open_streams(order.stdio, order.fds, stack, order.doing)
            piped, programs = loggers.open_loggers(order.stdio, stack, order.doing)
            writer = open_writer(order.stdio, streams, stack, order.doing)
            with tracing.span("bundle"):
                bundle = await self._bundle(f"{self.state}/tasks/{order.namespace}/{order.id}", record, spec.root_gid)
            forking = self.host.spawn(self.nursery.shim(bundle.path))
            try:
                await asyncio.sleep(0)  # the nursery is asked before a thread is in the way
                shim = await self._furnish(order, spec, bundle, forking, stack)
                if writer is not None:
                    await shim.keep(held.writer(""), writer)
                await loggers.start(programs, self.host, shim, order.namespace, order.id)
                streams |= piped
                if order.checkpoint is not None:
                    return await self._await_restore(order, record, bundle, shim, streams, order.checkpoint.fd)
                return await self._create(order, record, bundle, shim, streams)
            except BaseException:
                undoing = self.host.spawn(self._undo_forked(bundle, record, forking))
                await asyncio.shield(undoing)
                raise

    async def _require_maps(self, launch: Launch, doing: str) -> None:
        """Unimplemented when the runtime lists what it can and mounts of mapped ids are not in it: it would leave the
        mappings out unseen. One that lists nothing judges for itself."""
        about = await self.probes.about(launch.path)
        if about.document and not about.features.maps_mounts:
            raise errors.Unimplemented(f"{doing}: runtime {launch.name!r} ({launch.path}) does not map ids of mounts")

    async def _bundle(self, path: str, record: TaskRecord, root_gid: int | None) -> Bundle:
        """A new bundle, also where one is that could not be undone at the time."""
        try:
            return Bundle.make(path, record, root_gid)
        except errors.AlreadyExists:
            left = Bundle(path)
            other = left.load()
            if other.created:
                raise
        shim = None
        if path not in self._undoing:
            with contextlib.suppress(errors.Unavailable):
                shim = await Shim.connect(path)
        await asyncio.shield(self.undone(left, other, shim))
        return Bundle.make(path, record, root_gid)

    async def _furnish(
        self, order: Order, spec: config.Spec, bundle: Bundle, forking: "asyncio.Task[Shim]", stack: ExitStack
    ) -> Shim:
        """The shim, with the root filesystem in its mount namespace, and the bundle's config written."""
        try:
            with tracing.span("root filesystem"):
                mount = await threads.hop(self.host.pool, self._build, order, spec, bundle, stack)
        except errors.Unimplemented:
            shim = await self._forked(forking)
            await self._mount(order, bundle, shim)
            seen = f"/proc/{shim.pid}/root{bundle.at('rootfs')}"
            await threads.hop(self.host.pool, self._write_config, order, spec, bundle, seen, stack)
            return shim
        shim = await self._forked(forking)
        if mount is not None:
            with tracing.span("attach"):
                await shim.attach(mount, bundle.at("rootfs"))
        return shim

    async def _forked(self, forking: "asyncio.Task[Shim]") -> Shim:
        with tracing.span("shim"):
            return await asyncio.shield(forking)

    def _build(self, order: Order, spec: config.Spec, bundle: Bundle, stack: ExitStack) -> int | None:
        """The descriptor of the root filesystem, detached, which `stack` closes."""
        if not order.rootfs:
            path = spec.root.path if spec.root else ""
            self._write_config(order, spec, bundle, os.path.join(bundle.path, path), stack)
            return None
        mount = self._detached(order.rootfs)
        stack.callback(os.close, mount)
        self._write_config(order, spec, bundle, mount, stack)
        return mount

    async def _mount(self, order: Order, bundle: Bundle, shim: Shim) -> None:
        """For kernels without detached mounts: by mount(2) in the shim."""
        for step in steps.plan(order.rootfs):
            if step.target or step.loop or step.uid_map:
                raise errors.Unimplemented(f"{order.doing}: mounting {step} needs Linux 5.2")
            target = bundle.at("rootfs")
            await shim.mount(step.type, step.source or step.type, target, step.flags, step.data)
            if step.binds and step.flags & steps.MS_RDONLY:
                await shim.mount("", "", target, step.flags | steps.MS_REMOUNT, "")

    def _write_config(
        self, order: Order, spec: config.Spec, bundle: Bundle, root: int | str, stack: ExitStack
    ) -> None:
        """Its user is looked up below `root`: a descriptor, or a path."""
        if isinstance(root, str):
            root = self._open_root(order, root, stack)
        roots.check(root, order.doing)
        ids = None
        if spec.user.username:
            ids = users.identify(root, spec.user.username, spec.user.additional_gids or ())
        placed = cgroups.below(self._cgroup_parent, spec.cgroups_path)
        document = config.resolved_spec(order.spec, "rootfs" if order.rootfs else "", ids, placed)
        bundle.write("config.json", document)

    def _open_root(self, order: Order, path: str, stack: ExitStack) -> int:
        try:
            root = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as exc:
            raise errors.from_os(exc, f"{order.doing}: open its root filesystem {path}") from exc
        stack.callback(os.close, root)
        return root

    async def _create(
        self, order: Order, record: TaskRecord, bundle: Bundle, shim: Shim, streams: Mapping[int, int]
    ) -> ContainerTask:
        calls = self.calls(record, bundle)
        with tracing.span("runtime", runtime=record.launch.name):
            if order.stdio.terminal:
                pid = await calls.create(shim, {}, held.pty(""))
            else:
                null = dict.fromkeys(range(3), self.host.null)
                pid = await calls.create(shim, {**null, **streams}, heard=heard(order.stdio))
        self.host.spawn(watch_memory(shim, pid, order.id))  # the shim is told before it is to start the process
        return self._told(order, ContainerTask(self.host, bundle, _created(record, pid), calls), shim)

    async def _await_restore(
        self, order: Order, record: TaskRecord, bundle: Bundle, shim: Shim, streams: Mapping[int, int], images: int
    ) -> ContainerTask:
        """A task that its start will restore from a checkpoint, of which `images` can be read."""
        with tracing.span("checkpoint"):
            await threads.hop(self.host.pool, restoring.unpack, images, bundle, order.doing)
        await restoring.keep(shim, order.stdio, streams)
        record = msgspec.structs.replace(record, created=True, restores=True, timing=tracing.phases())
        return self._told(order, ContainerTask(self.host, bundle, record, self.calls(record, bundle)), shim)

    def _told(self, order: Order, task: ContainerTask, shim: Shim) -> ContainerTask:
        bundle, init = task.state.home, task.state.init
        bundle.save(task.state.record)
        event = events.TaskCreate(
            container_id=order.id,
            bundle=bundle.path,
            rootfs=order.rootfs,
            io=order.stdio,
            checkpoint=order.checkpoint.digest if order.checkpoint else "",
            pid=init.record.pid,
        )
        self.host.publisher.publish(order.namespace, events.topic_of(event), event)
        if init.record.pid:
            task.endings.expect(init)
        task.endings.adopt(shim)
        return task

    async def undertaker(self, directory: str) -> Shim:
        """A shim for the bundle in `directory`, whose own is dead."""
        return await self._shim(f"{directory}/undertaker")

    async def _shim(self, directory: str) -> Shim:
        """One that serves `directory`, perhaps started by an earlier daemon."""
        try:
            return await Shim.connect(directory)
        except errors.Unavailable:
            parent, name = os.path.split(directory)
            Bundle(parent).vacate(name)
            return await self.nursery.shim(directory)

    async def _undo_forked(self, bundle: Bundle, record: TaskRecord, forking: "asyncio.Task[Shim]") -> None:
        shim = None
        with contextlib.suppress(errors.Error):
            shim = await forking
        try:
            if shim is None:
                bundle.remove()
            else:
                await self.undo(bundle, record, shim)
        except errors.Error as exc:
            # the bundle stays, with its intent on record: the next start undoes it
            log.warning("undo the creation of task %s: %s", record.id, exc.message)

    def undone(self, bundle: Bundle, record: TaskRecord, shim: Shim | None) -> "asyncio.Task[None]":
        """The one `undo` of the bundle that is under way, or a new one."""
        if bundle.path not in self._undoing:

            def over(undoing: "asyncio.Task[None]") -> None:
                del self._undoing[bundle.path]
                if not undoing.cancelled() and (error := undoing.exception()) is not None:
                    log.error("undo the creation of task %s: %s", record.id, error)

            self._undoing[bundle.path] = self.host.spawn(self.undo(bundle, record, shim))
            self._undoing[bundle.path].add_done_callback(over)
        return self._undoing[bundle.path]

    async def undo(self, bundle: Bundle, record: TaskRecord, shim: Shim | None) -> None:
        """Remove everything of a task that was not created to its end."""
        buried = shim is None
        if shim is None:
            shim = await self.undertaker(bundle.path)
            await self._end_orphan(bundle, record)
        try:
            try:
                await living.end_descendants(shim.pid, UNDO_SECONDS)
            except TimeoutError:
                log.warning("task %s: processes of its creation do not end", record.id)
            await self._forget(bundle, record, shim)
        finally:
            await shim.shutdown()
        log.debug("creation of task %s undone%s", record.id, ", its shim was dead" if buried else "")
        leftovers.remove(record, cgroups.placed(record.cgroups_path))
        bundle.remove()

    async def _forget(self, bundle: Bundle, record: TaskRecord, shim: Shim) -> None:
        """Have the runtime forget the container, if it knows it."""
        try:
            await self.calls(record, bundle).delete(shim, force=True, at_most=UNDO_SECONDS)
        except errors.Error as exc:
            log.info("undo the creation of task %s: %s", record.id, exc.message)

    async def _end_orphan(self, bundle: Bundle, record: TaskRecord) -> None:
        """End the init process of a dead shim. Its pid is believed only if it is where the spec has put it."""
        pid = bundle.pid("init.pid")
        if not pid or not self.same_boot(record) or not cgroups.holds(record.cgroups_path, pid):
            return
        with contextlib.suppress(errors.DeadlineExceeded):
            await living.end(pid, living.started_ticks(pid), UNDO_SECONDS)


def _created(record: TaskRecord, pid: int) -> TaskRecord:
    init = msgspec.structs.replace(record.init, pid=pid, started_ticks=living.started_ticks(pid))
    return msgspec.structs.replace(record, created=True, init=init, timing=tracing.phases())
