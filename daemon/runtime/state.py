"""What there is of one task: its record, its processes and their states, its shim. Knows no order of things."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

import msgspec

from daemon.kit import threads
from daemon.runtime.bundle import Bundle, TaskRecord
from daemon.runtime.calls import Calls
from daemon.runtime.process import TaskProcess
from daemon.runtime.shim import Shim
from spec import errors, events
from spec.base import Event
from spec.ports import Publisher
from spec.records import Status

T = TypeVar("T")


class Host(Protocol):
    """What a task needs of the Runtime it belongs to. `null` is /dev/null, open both ways."""

    publisher: Publisher
    pool: threads.Pool
    null: int

    def spawn(self, work: Coroutine[Any, Any, T], /) -> "asyncio.Task[T]":
        """Run work that must end even when nobody waits for it any more."""

    def attend(self, work: Coroutine[Any, Any, T], /) -> "asyncio.Task[T]":
        """Run work that ends when our connection to its shim does; nobody waits for that."""

    async def undertaker(self, directory: str) -> Shim:
        """A new shim, for a task whose own is dead."""


class TaskState:
    """Changed on the loop, between awaits, so that queries read memory. `lock` is held by whoever changes what the
    runtime knows of init; `pausing` while it is frozen."""

    def __init__(self, host: Host, bundle: Bundle, record: TaskRecord, calls: Calls) -> None:
        self.namespace = record.namespace
        self.id = record.id
        self.host = host
        self.home = bundle
        self.record = record
        self.calls = calls
        self.shim: Shim | None = None
        self.missing = "its shim is gone"
        """What to say while there is no `shim`."""
        self.unreached = False
        """Whether it is there all the same, and takes no connection now."""
        self.init = TaskProcess(record.id, record.init)
        self.processes = {"": self.init, **{r.exec_id: TaskProcess(record.id, r) for r in record.execs}}
        self.lock = asyncio.Lock()
        self.pausing = False
        self.deleted = False
        self._let_go = asyncio.Event()
        self._sought = asyncio.Event()
        self._sought.set()

    @property
    def estranged(self) -> bool:
        """Whether its shim speaks no version of ours."""
        return self.shim is not None and bool(self.shim.stranger)

    def seek(self) -> None:
        """Whether it has a shim is not known yet; until `sought`, what needs to know waits."""
        self.missing = "its shim is being looked for"
        self._sought.clear()

    def sought(self) -> None:
        self._sought.set()

    async def known(self) -> None:
        """Wait until it is known whether it has a shim that takes connections."""
        await self._sought.wait()

    def process(self, exec_id: str) -> TaskProcess:
        process = self.processes.get(exec_id)
        if process is None:
            raise errors.NotFound(f"process {exec_id} of task {self.id} not found")
        return process

    def status(self, process: TaskProcess) -> Status:
        return process.status(self.record.paused, self.pausing)

    def live_execs(self) -> list[TaskProcess]:
        return [process for exec_id, process in self.processes.items() if exec_id and process.live]

    def running_shim(self, doing: str) -> Shim:
        if self.shim is None:
            raise errors.Unavailable(f"{doing}: {self.missing}")
        return self.shim

    def require_running(self, doing: str) -> None:
        if self.status(self.init) is Status.STOPPED or self.init.reaped is not None or self.deleted:
            raise errors.FailedPrecondition(f"{doing}: task {self.id} is not running")

    def save(self, **fields: object) -> None:
        execs = tuple(process.record for exec_id, process in self.processes.items() if exec_id)
        self.record = msgspec.structs.replace(self.record, init=self.init.record, execs=execs, **fields)
        if not self.deleted:
            self.home.save(self.record)

    def publish(self, event: Event) -> None:
        self.host.publisher.publish(self.namespace, events.topic_of(event), event)

    def let_go(self) -> None:
        """From now on nothing is done about it any more; its shim lives on."""
        self._let_go.set()
        if self.shim is not None:
            self.shim.close()
            self.shim = None

    @property
    def held(self) -> bool:
        return not (self._let_go.is_set() or self.deleted)

    async def while_held(self, work: Coroutine[Any, Any, T]) -> T | None:
        """What `work` comes to; None, and it is cancelled, when we let go of the task before."""
        doing = asyncio.ensure_future(work)
        leaving = asyncio.ensure_future(self._let_go.wait())
        await asyncio.wait([doing, leaving], return_when=asyncio.FIRST_COMPLETED)
        for task in (doing, leaving):
            if not task.done():
                task.cancel()
        await asyncio.wait([doing, leaving])
        return None if doing.cancelled() else doing.result()

    async def to_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Await `work`, which goes on to its end if we are cancelled: half of it would leave a state nobody knows."""
        return await asyncio.shield(self.host.spawn(work))
