"""One task: its processes and their states, what may be done in which, and in which order it is told. Knows no other
task, and not how one is made or found again."""

import asyncio
import contextlib
import logging
import os
import signal as signals
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import ExitStack
from typing import Any, Protocol, TypeVar

import msgspec

from daemon.kit import threads, tracing
from daemon.runtime import cgroups, held, living, users
from daemon.runtime.bundle import Bundle, Phase, ProcessRecord, TaskRecord
from daemon.runtime.calls import Calls
from daemon.runtime.config import User, read_process, resolved_process
from daemon.runtime.exits import Exits, as_exit
from daemon.runtime.process import TaskProcess
from daemon.runtime.shim import ExitRecord, Shim
from daemon.runtime.stdio import open_streams
from spec import errors, events, names
from spec.base import Event
from spec.oci.users import Ids
from spec.ports import Publisher
from spec.records import Exit, Process, Status, Timing
from spec.types import Stdio

T = TypeVar("T")

EXECS_END_SECONDS = 10.0  # for exec'd processes to end after init, which takes them along
KILL_SECONDS = 10.0
LOST_STATUS = 128 + signals.SIGKILL

log = logging.getLogger(__name__)


class Host(Protocol):
    """What a task needs of the Runtime it belongs to. `null` is /dev/null, open both ways."""

    publisher: Publisher
    pool: threads.Pool
    null: int

    def spawn(self, work: Coroutine[Any, Any, T], /) -> "asyncio.Task[T]":
        """Run work that must end even when nobody waits for it any more."""

    async def undertaker(self, directory: str) -> Shim:
        """A new shim, for a task whose own is dead."""


class ContainerTask:
    """The Task port. Changes of its state are made on the loop, between awaits; queries read memory."""

    def __init__(self, host: Host, bundle: Bundle, record: TaskRecord, calls: Calls) -> None:
        self.namespace = record.namespace
        self.id = record.id
        self.runtime = record.launch.name
        self.bundle = bundle.path
        self.record = record
        self.shim: Shim | None = None
        self.init = TaskProcess(record.id, record.init)
        self.processes = {"": self.init, **{r.exec_id: TaskProcess(record.id, r) for r in record.execs}}
        self.deleted = False
        self._host = host
        self._home = bundle
        self._calls = calls
        self._lock = asyncio.Lock()
        self._pausing = False
        self._exits = Exits()
        self._oom_told = any(p.record.exit is not None and p.record.exit.oom_killed for p in self.processes.values())
        self._ending = False

    # What it is

    def process(self, exec_id: str = "") -> Process:
        process = self._process(exec_id)
        return process.shown(self._status(process))

    def timing(self) -> Sequence[Timing]:
        return self.record.timing

    def _process(self, exec_id: str) -> TaskProcess:
        process = self.processes.get(exec_id)
        if process is None:
            raise errors.NotFound(f"process {exec_id} of task {self.id} not found")
        return process

    def _status(self, process: TaskProcess) -> Status:
        return process.status(self.record.paused, self._pausing)

    def _running_shim(self, doing: str) -> Shim:
        if self.shim is None:
            raise errors.Unavailable(f"{doing}: its shim is gone")
        return self.shim

    def _save(self, **fields: object) -> None:
        execs = tuple(process.record for exec_id, process in self.processes.items() if exec_id)
        self.record = msgspec.structs.replace(self.record, init=self.init.record, execs=execs, **fields)
        if not self.deleted:
            self._home.save(self.record)

    def _publish(self, event: Event) -> None:
        self._host.publisher.publish(self.namespace, events.topic_of(event), event)

    async def _to_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Await `work`, which goes on to its end if we are cancelled: half of it would leave a state nobody knows."""
        return await asyncio.shield(self._host.spawn(work))

    # Exits

    def adopt(self, shim: Shim) -> None:
        """Listen to the shim from now on."""
        self.shim = shim
        shim.on_close(lambda: self._lost(shim))
        shim.on_exit(self.reaped)

    def expect(self, process: TaskProcess) -> None:
        """Take exits of its pid for the process's."""
        for record in self._exits.expect(process):
            self.reaped(record)

    def reaped(self, record: ExitRecord) -> None:
        """The shim tells of an exit; again perhaps, when it was read from its file before."""
        process = self._exits.match(record)
        if process is not None:
            self._reaped(process, as_exit(record))

    def _reaped(self, process: TaskProcess, exit: Exit) -> None:
        if process.reaped is not None or process.record.exit is not None:
            return
        process.reaped = exit
        if process.record.phase is not Phase.STARTING:
            self._tell(process)

    def _tell(self, process: TaskProcess) -> None:
        """Tell of the exit of a process that was reaped, if it was, and init's after those of the others."""
        if process.reaped is None or process.record.exit is not None:
            return
        if process is not self.init or (self.record.private_pids and not self._live_execs()):
            self._ended(process)
        elif not self._ending:
            self._ending = True
            self._host.spawn(self._end_rest())

    def _ended(self, process: TaskProcess) -> None:
        exit = process.reaped
        if exit is None:
            raise errors.Internal(f"end {process.title}: it was not reaped")
        self._exits.forget(exit.pid)
        process.end(exit)
        try:
            self._save()
        except errors.Error as exc:
            # the exit is in the shim's file, where the next start finds it
            log.warning("exit of %s: %s", process.title, exc.message)
        if exit.oom_killed and not self._oom_told:
            self._oom_told = True
            self._publish(events.TaskOOM(container_id=self.id))
        self._publish(
            events.TaskExit(
                container_id=self.id,
                id=process.exec_id or self.id,
                pid=exit.pid,
                exit_status=exit.status,
                exited_at_ns=exit.exited_at_ns,
            )
        )

    def _live_execs(self) -> list[TaskProcess]:
        return [process for exec_id, process in self.processes.items() if exec_id and process.live]

    async def _end_rest(self) -> None:
        """Init has ended: without a PID namespace of its own nothing else has. See to it, then tell of init."""
        if not self.record.private_pids and self.shim is not None:
            try:
                await self._calls.kill(self.shim, signals.SIGKILL, all_processes=True)
            except errors.Error as exc:
                log.debug("end what task %s left: %s", self.id, exc.message)
        try:
            async with asyncio.timeout(EXECS_END_SECONDS):
                while execs := self._live_execs():
                    await asyncio.gather(*(process.ended.wait() for process in execs))
        except TimeoutError:
            log.warning("task %s has ended, and processes that were exec'd into it have not", self.id)
        self._ended(self.init)

    def _lost(self, shim: Shim) -> None:
        if self.shim is shim:
            self.shim = None
            self._host.spawn(self._find_shim())

    async def _find_shim(self) -> None:
        """The connection broke. If the shim is gone nobody will learn of an exit any more: end the container."""
        if not await self._reconnected():
            log.warning("task %s has lost its shim", self.id)
            await self.bury()

    async def _reconnected(self) -> bool:
        try:
            shim = await Shim.connect(self.bundle)
        except errors.Unavailable:
            return False
        self.adopt(shim)
        for record in Shim.records(self.bundle):
            self.reaped(record)
        return True

    async def bury(self) -> None:
        """End what is left of a task whose shim is dead, and tell of exits that are on file or that we make up."""
        with contextlib.suppress(errors.NotFound):
            for record in Shim.records(self.bundle):
                self.reaped(record)
        for process in sorted(self.processes.values(), key=lambda process: process is self.init):
            if process.record.exit is None and process.reaped is None and process.record.pid:
                await self._end_lost(process)

    async def _end_lost(self, process: TaskProcess) -> None:
        pid = process.record.pid
        try:
            await living.end(pid, process.record.started_ticks, KILL_SECONDS)
        except errors.DeadlineExceeded as exc:
            log.warning("%s has lost its shim: %s", process.title, exc.message)
        self._reaped(process, Exit(pid=pid, status=LOST_STATUS, exited_at_ns=time.time_ns()))

    # Starting

    async def start(self, exec_id: str = "") -> int:
        process = self._process(exec_id)
        doing = f"start {process.title}"
        if process.record.exit is not None or process.reaped is not None:
            raise errors.FailedPrecondition(f"{doing}: it has ended")
        if process.record.phase is not Phase.ADDED:
            raise errors.FailedPrecondition(f"{doing}: it was started already")
        shim = self._running_shim(doing)
        if exec_id:
            self._require_running(doing)
            if self.record.paused or self._pausing:
                raise errors.FailedPrecondition(f"{doing}: task {self.id} is paused")
        process.change(phase=Phase.STARTING, since=self._exits.since if exec_id else process.record.since)
        return await self._to_end(self._start_exec(process, shim) if exec_id else self._start_init(shim))

    async def _start_init(self, shim: Shim) -> int:
        async with self._lock:
            init = self.init
            self._save()
            try:
                with tracing.timeline():
                    with tracing.span("start"):
                        await self._calls.start(shim)
                    phases = tracing.phases()
            except BaseException:
                init.change(phase=Phase.ADDED)
                self._save()
                self._tell(init)
                raise
            init.change(phase=Phase.STARTED)
            self._save(timing=(*self.record.timing, *phases))
            self._publish(events.TaskStart(container_id=self.id, pid=init.record.pid))
            self._tell(init)
            return init.record.pid

    async def _start_exec(self, process: TaskProcess, shim: Shim) -> int:
        exec_id, stdio = process.exec_id, process.record.stdio
        streams = held.streams(exec_id, stdio)
        null = {} if stdio.terminal else {number: self._host.null for number in range(3) if number not in streams}
        try:
            with self._exits.launching():
                self._save()
                await self._calls.exec(shim, exec_id, null, streams, held.pty(exec_id) if stdio.terminal else "")
                self._launched(process)
        except BaseException:
            process.fail()
            with contextlib.suppress(errors.Error):
                self._save()
            raise
        finally:
            await held.release(shim, streams.values())
            self._home.discard(f"exec-{exec_id}.json")
            self._home.discard(f"exec-{exec_id}.pid")
        return process.record.pid

    def _launched(self, process: TaskProcess) -> None:
        pid = self._home.pid(f"exec-{process.exec_id}.pid")
        if not pid:
            raise errors.Unknown(f"start {process.title}: the runtime wrote no pid")
        process.change(phase=Phase.STARTED, pid=pid, started_ticks=living.started_ticks(pid))
        self._save()
        self._publish(events.TaskExecStarted(container_id=self.id, exec_id=process.exec_id, pid=pid))
        self.expect(process)

    # Adding a process

    async def exec(self, exec_id: str, spec: bytes, stdio: Stdio, fds: Sequence[int] = ()) -> None:
        with ExitStack() as stack:
            for fd in fds:
                stack.callback(os.close, fd)
            names.check_identifier(exec_id, "exec id")
            doing = f"exec {exec_id} in task {self.id}"
            if exec_id in self.processes:
                raise errors.AlreadyExists(f"{doing}: it exists")
            shim = self._running_shim(doing)
            self._require_running(doing)
            process = read_process(spec, doing)
            if process.terminal != stdio.terminal:
                raise errors.InvalidArgument(f"{doing}: its process and its stdio disagree about a terminal")
            user = process.user or User()
            streams = open_streams(stdio, fds, stack, doing)
            added = self.processes[exec_id] = TaskProcess(self.id, ProcessRecord(exec_id=exec_id, stdio=stdio))
            try:
                ids = await threads.hop(self._host.pool, self._identify, user) if user.username else None
                self._home.write(f"exec-{exec_id}.json", resolved_process(spec, ids))
                kept = held.streams(exec_id, stdio)
                await asyncio.gather(*(shim.keep(kept[number], fd) for number, fd in streams.items()))
                self._require_running(doing)
                self._save()
            except BaseException:
                added.forget()
                del self.processes[exec_id]
                self._home.discard(f"exec-{exec_id}.json")
                await asyncio.shield(held.release(shim, held.streams(exec_id, stdio).values()))
                raise
            self._publish(events.TaskExecAdded(container_id=self.id, exec_id=exec_id))

    def _identify(self, user: User) -> Ids:
        """By the files init sees, which may be others than its image has."""
        doing = f"resolve user {user.username!r} of task {self.id}"
        try:
            root = os.open(f"/proc/{self.init.record.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as exc:
            raise errors.from_os(exc, doing) from exc
        try:
            if not living.alive(self.init.record.pid, self.init.record.started_ticks):
                raise errors.FailedPrecondition(f"{doing}: it has ended")
            return users.identify(root, user.username, user.additional_gids or ())
        finally:
            os.close(root)

    def _require_running(self, doing: str) -> None:
        if self._status(self.init) is Status.STOPPED or self.init.reaped is not None or self.deleted:
            raise errors.FailedPrecondition(f"{doing}: task {self.id} is not running")

    # Living

    async def kill(self, signal: int, exec_id: str = "", all_processes: bool = False) -> None:
        process = self._process(exec_id)
        if not 0 < signal <= signals.SIGRTMAX:
            raise errors.InvalidArgument(f"send signal {signal} to {process.title}: there is no such signal")
        if all_processes and not exec_id:
            await self._kill_all(signal)
            return
        process.send(signal)
        if signal == signals.SIGKILL and not exec_id and (self.record.paused or self._pausing):
            # a frozen process does not die; the runtime thaws it
            with contextlib.suppress(errors.Error):
                await self._calls.kill(self._running_shim(f"kill {process.title}"), signal)

    async def _kill_all(self, signal: int) -> None:
        doing = f"send signal {signal} to all of task {self.id}"
        if self.init.record.exit is not None or self.init.reaped is not None:
            raise errors.NotFound(f"{doing}: it has ended")
        try:
            await self._calls.kill(self._running_shim(doing), signal, all_processes=True)
        except errors.Unknown as exc:
            if self.init.reaped is not None:
                raise errors.NotFound(f"{doing}: it has ended") from exc
            raise

    async def wait(self, exec_id: str = "") -> Exit:
        return await self._process(exec_id).wait()

    async def pids(self) -> dict[int, str]:
        record = self.init.record
        if self.init.reaped is not None or not living.alive(record.pid, record.started_ticks):
            return {}
        ours = {p.record.pid: p.exec_id for p in self.processes.values() if p.record.pid and not p.reaped}
        return {pid: ours.get(pid, "") for pid in sorted({*ours, *cgroups.processes(record.pid)})}

    def cgroups(self) -> dict[str, str]:
        return cgroups.directories(self.init.record.pid, self.record.cgroups_path)

    async def pause(self) -> None:
        await self._to_end(self._pause())

    async def resume(self) -> None:
        await self._to_end(self._resume())

    async def _pause(self) -> None:
        async with self._lock:
            doing = f"pause task {self.id}"
            if self._status(self.init) is not Status.RUNNING:
                raise errors.FailedPrecondition(f"{doing}: it is not running")
            await self._freeze(True, self._calls.pause, doing)
            self._publish(events.TaskPaused(container_id=self.id))

    async def _resume(self) -> None:
        async with self._lock:
            doing = f"resume task {self.id}"
            if self._status(self.init) is not Status.PAUSED:
                raise errors.FailedPrecondition(f"{doing}: it is not paused")
            await self._freeze(False, self._calls.resume, doing)
            self._publish(events.TaskResumed(container_id=self.id))

    async def _freeze(self, paused: bool, call: Callable[[Shim], Awaitable[None]], doing: str) -> None:
        shim = self._running_shim(doing)
        self._pausing = paused
        self._save(unsettled=True)
        try:
            await call(shim)
        except BaseException:
            self._save(unsettled=False)
            raise
        finally:
            self._pausing = False
        self._save(paused=paused, unsettled=False)

    async def settle(self, shim: Shim) -> None:
        """After a restart: ask the runtime what became of the call that was under way."""
        try:
            status = await self._calls.status(shim)
        except errors.Error as exc:
            # what is recorded is what was meant
            log.warning("%s", exc.message)
            status = "paused" if self.record.paused else "running"
        if self.init.record.phase is Phase.STARTING:
            self.init.change(phase=Phase.ADDED if status == "created" else Phase.STARTED)
        self._save(paused=status == "paused", unsettled=False)
        self._tell(self.init)

    # Terminals

    async def resize(self, exec_id: str, width: int, height: int) -> None:
        process = self._terminal(exec_id, "resize the terminal of")
        await self._running_shim(f"resize the terminal of {process.title}").resize(held.pty(exec_id), width, height)

    async def console(self, exec_id: str = "") -> int:
        process = self._terminal(exec_id, "attach to")
        return await self._running_shim(f"attach to {process.title}").fetch(held.pty(exec_id))

    def _terminal(self, exec_id: str, doing: str) -> TaskProcess:
        process = self._process(exec_id)
        if not process.record.stdio.terminal:
            raise errors.FailedPrecondition(f"{doing} {process.title}: it has no terminal")
        if exec_id and process.record.phase is Phase.ADDED:
            raise errors.FailedPrecondition(f"{doing} {process.title}: it was not started")
        return process

    # Ends

    async def delete_process(self, exec_id: str) -> Exit:
        process = self._process(exec_id)
        if not exec_id:
            raise errors.InvalidArgument(f"delete a process of task {self.id}: an exec id is required")
        if process.live:
            raise errors.FailedPrecondition(f"delete {process.title}: it is running")
        del self.processes[exec_id]
        self._home.discard(f"exec-{exec_id}.json")
        self._save()
        if process.record.exit is None:
            process.forget()
        if self.shim is not None:
            stdio = process.record.stdio
            kept = [held.pty(exec_id)] if stdio.terminal else held.streams(exec_id, stdio).values()
            await held.release(self.shim, kept)
        return process.record.exit or Exit()

    async def delete(self) -> Exit:
        """End a task that is not running, and remove all of it. FailedPrecondition when it runs.

        Not to be cancelled.
        """
        async with self._lock:
            if self.deleted:
                raise errors.NotFound(f"delete task {self.id}: not found")
            if self._status(self.init) is Status.CREATED:
                await self._end_created()
            exit = self.init.record.exit
            if exit is None:
                raise errors.FailedPrecondition(f"delete task {self.id}: task {self.id} is running")
            await self._dismantle()
            for process in self.processes.values():
                if process.record.exit is None:
                    process.forget()
            self._publish(
                events.TaskDelete(
                    container_id=self.id, pid=exit.pid, exit_status=exit.status, exited_at_ns=exit.exited_at_ns
                )
            )
            return exit

    async def _end_created(self) -> None:
        """Kill an init process that waits to be started."""
        with contextlib.suppress(errors.NotFound):
            self.init.send(signals.SIGKILL)
        try:
            async with asyncio.timeout(KILL_SECONDS):
                await self.init.ended.wait()
        except TimeoutError as exc:
            raise errors.DeadlineExceeded(f"delete task {self.id}: its process does not end") from exc

    async def _dismantle(self) -> None:
        shim = self.shim
        if shim is None:
            shim = await self._host.undertaker(self.bundle)
            try:
                await self._calls.delete(shim, force=True)
            finally:
                await shim.shutdown()
        else:
            try:
                await self._calls.delete(shim)
            except errors.Unknown as exc:
                log.info("%s; once more, by force", exc.message)
                await self._calls.delete(shim, force=True)
            self.shim = None
            await shim.shutdown()
        self.deleted = True
        self._home.remove()

    def close(self) -> None:
        """Let go of the shim, which lives on with its container."""
        if self.shim is not None:
            self.shim.close()
            self.shim = None
