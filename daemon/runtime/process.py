"""One process of a task in memory: its record, and who waits for its end. Knows no shim."""

import asyncio
import time

import msgspec

from daemon.runtime import living
from daemon.runtime.bundle import Phase, ProcessRecord
from spec import errors
from spec.records import Exit, Process, Status

FAILED_STATUS = 255


class TaskProcess:
    """A process that was added to a task: `init` or an exec'd one.

    `reaped` is its exit as soon as the shim tells; `record.exit` is set once it is told to others, which waits until
    its start was.
    """

    def __init__(self, container_id: str, record: ProcessRecord) -> None:
        self.container_id = container_id
        self.record = record
        self.reaped: Exit | None = None
        self.ended = asyncio.Event()
        self.forgotten = False
        if record.exit is not None:
            self.ended.set()

    @property
    def exec_id(self) -> str:
        return self.record.exec_id

    @property
    def title(self) -> str:
        return f"process {self.exec_id} of task {self.container_id}" if self.exec_id else f"task {self.container_id}"

    @property
    def live(self) -> bool:
        """Started, or being started, and not ended."""
        return self.record.exit is None and self.record.phase is not Phase.ADDED

    def change(self, **fields: object) -> None:
        self.record = msgspec.structs.replace(self.record, **fields)

    def status(self, paused: bool, pausing: bool) -> Status:
        """The last two are the task's, and count for init."""
        if self.record.exit is not None:
            return Status.STOPPED
        if self.record.phase is not Phase.STARTED:
            return Status.CREATED
        if self.exec_id:
            return Status.RUNNING
        return Status.PAUSING if pausing else Status.PAUSED if paused else Status.RUNNING

    def shown(self, status: Status) -> Process:
        record, stdio = self.record, self.record.stdio
        ended = record.exit or Exit()
        return Process(
            container_id=self.container_id,
            exec_id=record.exec_id,
            pid=record.pid,
            status=status,
            stdin=stdio.stdin,
            stdout=stdio.stdout,
            stderr=stdio.stderr,
            terminal=stdio.terminal,
            exit_status=ended.status,
            exited_at_ns=ended.exited_at_ns,
        )

    def end(self, exit: Exit) -> None:
        self.change(exit=exit)
        self.ended.set()

    def fail(self) -> None:
        """An exec'd process that did not come to life has ended, for whoever waits; there is no exit to tell of."""
        self.end(Exit(status=FAILED_STATUS, exited_at_ns=time.time_ns()))

    def forget(self) -> None:
        """Release whoever waits for a process that will never start."""
        self.forgotten = True
        self.ended.set()

    async def wait(self) -> Exit:
        """NotFound when it is deleted before it ever ran."""
        await self.ended.wait()
        if self.record.exit is None:
            raise errors.NotFound(f"wait for {self.title}: it was deleted before it was started")
        return self.record.exit

    def send(self, number: int) -> None:
        """Send a signal. NotFound when it has ended; FailedPrecondition when it has no pid yet."""
        record = self.record
        doing = f"send signal {number} to {self.title}"
        if record.exit is not None or self.reaped is not None:
            raise errors.NotFound(f"{doing}: it has ended")
        if not record.pid:
            raise errors.FailedPrecondition(f"{doing}: it was not started")
        try:
            there = living.send(record.pid, record.started_ticks, number)
        except OSError as exc:
            raise errors.from_os(exc, doing) from exc
        if not there:
            raise errors.NotFound(f"{doing}: it has ended")
