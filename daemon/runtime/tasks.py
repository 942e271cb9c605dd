"""The Runtime port: all tasks of the daemon. Knows no container record, image or snapshot."""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, TypeVar

import msgspec

from daemon.kit import mounting, threads
from daemon.runtime import facts
from daemon.runtime.attempts import Attempt, Order
from daemon.runtime.creation import Workshop
from daemon.runtime.nursery import Nursery
from daemon.runtime.oci import DEFAULT, RuntimeConfig
from daemon.runtime.recovery import recover
from daemon.runtime.shim import Shim
from daemon.runtime.task import ContainerTask
from spec import errors, names
from spec.events import Envelope
from spec.ports import Checkpoint, Publisher, Task
from spec.records import Exit, RuntimeInfo, RuntimeRef
from spec.types import Mount, Stdio

T = TypeVar("T")

THREADS = 4

log = logging.getLogger(__name__)


class Tasks:
    """Tasks below the directory `state`: a private mount, so that what shims mount reaches nobody, and on tmpfs.

    `runtimes` are the configured OCI runtimes by name; `runc` is one unless they say otherwise; `default_runtime` is
    that of a container which names none. Cgroups that specs name by an absolute path are made below `cgroup_parent`,
    where two daemons with the same names keep apart. `detached` makes mounts a descriptor (`daemon.kit.mounting`).
    `recent` are the last events that were published, by earlier daemons too, oldest first.
    Shims and containers outlive this object; `recover` finds them again.
    """

    def __init__(
        self,
        state: str,
        nursery: Nursery,
        runtimes: Mapping[str, RuntimeConfig],
        publisher: Publisher,
        detached: Callable[[Sequence[Mount]], int] = mounting.detached,
        default_runtime: str = DEFAULT,
        cgroup_parent: str = "",
        recent: Callable[[], Sequence[Envelope]] = tuple,
    ) -> None:
        self._recent = recent
        self.publisher = publisher
        configured = {DEFAULT: RuntimeConfig(), **runtimes}
        self.exports = {"log-uri-schemes": "fd,fifo,file,binary,binary-v2", "runtimes": ",".join(configured)}
        self.warnings: dict[str, str] = {}
        """Of `look`, by the runtime's name."""
        self._default_runtime = default_runtime
        self.pool = threads.Pool("runtime", THREADS)
        self.null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self._workshop = Workshop(self, state, nursery, configured, detached, cgroup_parent)
        self._tasks: dict[tuple[str, str], ContainerTask] = {}
        self._attempts: dict[tuple[str, str], Attempt[ContainerTask]] = {}
        self._works: set[asyncio.Task[Any]] = set()
        self._attended: set[asyncio.Task[Any]] = set()

    async def recover(self) -> None:
        """Find the tasks that an earlier daemon has left. To be called once, before anything else."""
        for task in await recover(self._workshop, self._recent):
            self._tasks[task.namespace, task.id] = task

    async def create(
        self,
        namespace: str,
        id: str,
        spec: bytes,
        rootfs: Sequence[Mount],
        stdio: Stdio,
        runtime: RuntimeRef,
        fds: Sequence[int] = (),
        checkpoint: Checkpoint | None = None,
    ) -> ContainerTask:
        """See the port. The spec's `process.user.username` ("name|uid[:name|gid]"), when there is one, is resolved
        within the root filesystem. NotFound also for a runtime that is not there. While a task is being made, whoever
        asks for the same joins: AlreadyExists is for those who want another by that id, or come later."""
        with ExitStack() as stack:
            for fd in (*fds, *([checkpoint.fd] if checkpoint else ())):
                stack.callback(os.close, fd)
            names.check_namespace(namespace)
            names.check_identifier(id, "container id")
            order = Order(namespace, id, spec, rootfs, stdio, self._named(runtime), fds, checkpoint)
            attempt = await self._attempt(order, stack)
        return await attempt.join()

    def _named(self, runtime: RuntimeRef) -> RuntimeRef:
        return runtime if runtime.name else msgspec.structs.replace(runtime, name=self._default_runtime)

    async def _attempt(self, order: Order, stack: ExitStack) -> Attempt[ContainerTask]:
        """The one under way that `order` may join, or a new one, which takes over what `stack` has to close."""
        key = (order.namespace, order.id)
        while key in self._attempts and self._attempts[key].ending:
            await self._attempts[key].over()
        attempt = self._attempts.get(key)
        if attempt is not None and attempt.answers(order):
            return attempt
        if attempt is not None or key in self._tasks:
            raise errors.AlreadyExists(f"create task {order.id}: it exists")
        making = self.spawn(self._make(key, order))
        attempt = self._attempts[key] = Attempt(order, making)
        held = stack.pop_all()

        def over(_: object) -> None:
            del self._attempts[key]
            held.close()

        making.add_done_callback(over)
        return attempt

    async def _make(self, key: tuple[str, str], order: Order) -> ContainerTask:
        task = self._tasks[key] = await self._workshop.make(order)
        return task

    def get(self, namespace: str, id: str) -> ContainerTask:
        task = self._tasks.get((namespace, id))
        if task is None:
            raise errors.NotFound(f"task {id} not found")
        return task

    def tasks(self, namespace: str = "") -> list[Task]:
        known = list(self._tasks.values())  # at once: other threads ask, too
        return [task for task in known if not namespace or task.namespace == namespace]

    async def info(self, namespace: str, runtime: RuntimeRef) -> RuntimeInfo:
        launch = self._workshop.settled(self._named(runtime), namespace)
        about = await self._workshop.probes.about(launch.path)
        said = facts.warning(about.name, launch.path, about.version.version)
        return RuntimeInfo(
            name=launch.name,
            path=launch.path,
            version=about.version,
            options=runtime.options,
            features=about.document,
            annotations=about.features.annotations or {},
            warnings=(said,) if said else (),
        )

    async def look(self) -> None:
        """Ask every runtime of the configuration what it is, and warn of what is known against it. What cannot be asked
        is told to whoever uses it."""
        for name in {self._default_runtime: None, **self._workshop.runtimes}:
            try:
                info = await self.info("", RuntimeRef(name=name))
            except errors.Error as exc:
                log.info("runtime %s: %s", name, exc.message)
                continue
            for warning in info.warnings:
                if warning not in self.warnings.values():
                    self.warnings[name] = warning
                    log.warning("runtime %s: %s", name, warning)

    async def delete(self, namespace: str, id: str) -> Exit:
        return await asyncio.shield(self.spawn(self._delete(self.get(namespace, id))))

    async def _delete(self, task: ContainerTask) -> Exit:
        exit = await task.delete()
        self._tasks.pop((task.namespace, task.id))
        return exit

    def spawn(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Run work that must end even when nobody waits for it any more; `close` waits for it."""
        task = asyncio.get_running_loop().create_task(work)
        self._works.add(task)
        task.add_done_callback(self._worked)
        return task

    def attend(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Run work that ends when our connection to its shim does; nobody waits for that."""
        task = asyncio.get_running_loop().create_task(work)
        self._attended.add(task)
        task.add_done_callback(self._left)
        return task

    def _left(self, task: "asyncio.Task[Any]") -> None:
        self._attended.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.debug("%s", error)

    def _worked(self, task: "asyncio.Task[Any]") -> None:
        self._works.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, errors.Error):
            log.error("work on a task failed", exc_info=error)

    async def undertaker(self, directory: str) -> Shim:
        return await self._workshop.undertaker(directory)

    async def close(self) -> None:
        """End what is under way and let go of all shims; they and their containers live on. `tasks` shows what it
        showed."""
        while self._works:
            await asyncio.wait(self._works)
        for task in self._tasks.values():
            task.close()
        if self._attended:
            await asyncio.wait(self._attended)
        self.pool.close()
        with contextlib.suppress(OSError):
            os.close(self.null)
