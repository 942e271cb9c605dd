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
        self.init = TaskProcess(record.id, record.init)
        self.processes = {"": self.init, **{r.exec_id: TaskProcess(record.id, r) for r in record.execs}}
        self.lock = asyncio.Lock()
        self.pausing = False
        self.deleted = False

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
            raise errors.Unavailable(f"{doing}: its shim is gone")
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

    async def to_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Await `work`, which goes on to its end if we are cancelled: half of it would leave a state nobody knows."""
        return await asyncio.shield(self.host.spawn(work))
