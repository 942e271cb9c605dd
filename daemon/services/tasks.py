"""Tasks: containers made to run."""

import asyncio
import contextlib
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence

import msgspec
from msgspec.structs import replace

from daemon.kit import context, tracing
from daemon.kit.threads import Pool, hop
from daemon.metadata.store import Store
from daemon.metadata.tables import CONTAINERS
from spec import errors, filters
from spec.api import tasks as api
from spec.base import Empty, pack
from spec.filterable import TASK
from spec.ports import ContentStore, Meters, Runtime, Snapshotter, Task
from spec.records import Container, Exit, Process, RuntimeRef
from spec.types import Mount
from spec.wire import NIL, UNREADABLE

log = logging.getLogger(__name__)


class Tasks:
    """`snapshotter` makes a snapshotter, by name, of a namespace, and `content` its content store."""

    def __init__(
        self,
        store: Store,
        runtime: Runtime,
        snapshotter: Callable[[str, str], Snapshotter],
        meters: Meters,
        pool: Pool,
        content: Callable[[str], ContentStore],
    ) -> None:
        self._store = store
        self._runtime = runtime
        self._snapshotter = snapshotter
        self._meters = meters
        self._pool = pool
        self._content = content

    async def create(self, request: api.CreateRequest, fds: Sequence[int]) -> api.CreateReply:
        with tracing.timeline():
            return await self._create(request, fds)

    async def _create(self, request: api.CreateRequest, fds: Sequence[int]) -> api.CreateReply:
        namespace = context.namespace()
        with self._store.view() as view:
            container = CONTAINERS.get(view, namespace, request.container_id)
        runtime = _runtime(container, request)
        rootfs = request.rootfs
        if not rootfs:
            with tracing.span("mounts", snapshotter=container.snapshotter):
                rootfs = await asyncio.to_thread(self._mounts, namespace, container)
        checkpoint = None
        if request.checkpoint is not None:
            from daemon.flows.checkpoint import open_checkpoint  # when it is first used: a start does not pay for it

            checkpoint = await hop(self._pool, open_checkpoint, self._content(namespace), request.checkpoint)
        task = await self._runtime.create(
            namespace, container.id, container.spec, rootfs, request.stdio, runtime, fds, checkpoint
        )
        return api.CreateReply(container_id=container.id, pid=task.process().pid)

    async def start(self, request: api.StartRequest) -> api.StartReply:
        return api.StartReply(pid=await self._task(request.container_id).start(request.exec_id))

    async def delete(self, request: api.DeleteRequest) -> api.DeleteReply:
        ended = await self._runtime.delete(context.namespace(), request.container_id)
        self._forget_deleted()
        return _deleted("", ended)

    async def delete_process(self, request: api.DeleteProcessRequest) -> api.DeleteReply:
        if not request.exec_id:
            raise errors.InvalidArgument(f"deleting a process of task {request.container_id}: the exec id is empty")
        return _deleted(
            request.exec_id, await self._task(request.container_id).delete_process(request.exec_id)
        )

    def get(self, request: api.GetRequest) -> Process:
        task = self._task(request.container_id)
        process = task.process(request.exec_id)
        return process if request.exec_id else replace(process, timing=task.timing())

    def list(self, request: api.ListRequest) -> api.ListReply:
        return api.ListReply(tasks=[task.process() for task in self._runtime.tasks(context.namespace())])

    async def kill(self, request: api.KillRequest) -> Empty:
        await self._task(request.container_id).kill(request.signal, request.exec_id, request.all)
        return Empty()

    async def exec(self, request: api.ExecRequest, fds: Sequence[int]) -> Empty:
        await self._task(request.container_id).exec(request.exec_id, request.spec, request.stdio, fds)
        return Empty()

    async def resize_pty(self, request: api.ResizePtyRequest) -> Empty:
        await self._task(request.container_id).resize(request.exec_id, request.width, request.height)
        return Empty()

    async def close_io(self, request: api.CloseIORequest) -> Empty:
        task = self._task(request.container_id)
        if request.stdin:
            await task.close_io(request.exec_id)
        else:
            task.process(request.exec_id)
        return Empty()

    async def attach(self, request: api.AttachRequest) -> tuple[api.AttachReply, Sequence[int]]:
        return api.AttachReply(), [await self._task(request.container_id).console(request.exec_id)]

    async def pause(self, request: api.PauseRequest) -> Empty:
        await self._task(request.container_id).pause()
        return Empty()

    async def resume(self, request: api.ResumeRequest) -> Empty:
        await self._task(request.container_id).resume()
        return Empty()

    async def update(self, request: api.UpdateRequest) -> Empty:
        await self._task(request.container_id).update(request.resources)
        return Empty()

    async def checkpoint(self, request: api.CheckpointRequest) -> api.CheckpointReply:
        task, options = self._task(request.container_id), request.options
        if options.image_path:
            await task.checkpoint(options)
            return api.CheckpointReply()
        from daemon.flows.checkpoint import store_checkpoint

        namespace = context.namespace()
        with self._store.view() as view:
            container = CONTAINERS.get(view, namespace, task.id)
        with tempfile.TemporaryDirectory(prefix="holdd-checkpoint-") as directory:
            await task.checkpoint(replace(options, image_path=directory))
            content = self._content(namespace)
            made = await hop(self._pool, store_checkpoint, content, task.id, container.spec, directory)
        return api.CheckpointReply(descriptors=made)

    async def list_pids(self, request: api.ListPidsRequest) -> api.ListPidsReply:
        pids = await self._task(request.container_id).pids()
        return api.ListPidsReply(processes=[api.ProcessInfo(pid=pid, exec_id=id) for pid, id in pids.items()])

    async def wait(self, request: api.WaitRequest) -> api.WaitReply:
        ended = await self._task(request.container_id).wait(request.exec_id)
        return api.WaitReply(
            exit_status=ended.status,
            exited_at_ns=ended.exited_at_ns,
            oom_killed=ended.oom_killed,
            oom_kills=ended.oom_kills,
            oom_ancestor=ended.oom_ancestor,
        )

    async def metrics(self, request: api.MetricsRequest) -> api.MetricsReply:
        matches = filters.matcher(request.filters, TASK)
        tasks = [task for task in self._among(filters.exact(request.filters, "id")) if matches(task)]
        return api.MetricsReply(metrics=await hop(self._pool, self._measured, tasks))

    def _among(self, ids: frozenset[str] | None) -> Iterator[Task]:
        """The namespace's tasks of these ids; all without any."""
        namespace = context.namespace()
        if ids is None:
            yield from self._runtime.tasks(namespace)
            return
        for id in ids:
            with contextlib.suppress(errors.NotFound):
                yield self._runtime.get(namespace, id)

    def _measured(self, tasks: Sequence[Task]) -> Sequence[api.Metric]:
        metrics = []
        for task in tasks:
            try:
                figures = self._meters.figures((task.namespace, task.id), task.cgroups)
            except (errors.Error, OSError) as exc:
                log.debug("task %s is not measured: %s", task.id, exc)
                continue
            metrics.append(api.Metric(id=task.id, timestamp_ns=time.time_ns(), data=figures))
        if not all(map(self._is_current, tasks)):
            self._forget_deleted()
        return metrics

    def _is_current(self, task: Task) -> bool:
        """Whether it has not been deleted meanwhile."""
        try:
            return self._runtime.get(task.namespace, task.id) is task
        except errors.NotFound:
            return False

    def _forget_deleted(self) -> None:
        self._meters.keep((task.namespace, task.id) for task in self._runtime.tasks())

    def _task(self, id: str) -> Task:
        return self._runtime.get(context.namespace(), id)

    def _mounts(self, namespace: str, container: Container) -> Sequence[Mount]:
        """The container's own snapshot, for a caller that brings no mounts. Blocks: its snapshotter may be in another
        process."""
        if not container.snapshot_key:
            return ()
        return self._snapshotter(namespace, container.snapshotter).mounts(container.snapshot_key)


def _runtime(container: Container, request: api.CreateRequest) -> RuntimeRef:
    """The container's, and what the request has instead."""
    name = request.runtime_path or container.runtime.name
    options = container.runtime.options
    if request.options != NIL:
        try:
            both = [msgspec.msgpack.decode(raw) or {} for raw in (options, request.options)]
            options = msgspec.Raw(pack({**both[0], **both[1]}))
        except (*UNREADABLE, TypeError) as exc:
            raise errors.InvalidArgument(f"create task {container.id}: read its runtime's options: {exc}") from exc
    return RuntimeRef(name=name, options=options)


def _deleted(id: str, ended: Exit) -> api.DeleteReply:
    return api.DeleteReply(id=id, pid=ended.pid, exit_status=ended.status, exited_at_ns=ended.exited_at_ns)
