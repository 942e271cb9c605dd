"""One task: what may be done in which state of its init process, and the calls that do it. Knows no other task, and not
how one is made or found again."""

import asyncio
import contextlib
import logging
import signal as signals
import time
from collections.abc import Awaitable, Callable, Sequence

from daemon.kit import tracing
from daemon.runtime import cgroups, held, leftovers, living, loggers, restoring
from daemon.runtime.bundle import Bundle, Phase, TaskRecord
from daemon.runtime.calls import Calls
from daemon.runtime.config import check_resources
from daemon.runtime.endings import Endings
from daemon.runtime.execs import Execs
from daemon.runtime.process import TaskProcess
from daemon.runtime.shim import Shim
from daemon.runtime.state import Host, TaskState
from spec import errors, events
from spec.records import CheckpointOptions, Exit, Process, Status, Timing
from spec.types import Stdio

KILL_SECONDS = 10.0

log = logging.getLogger(__name__)


class ContainerTask:
    """The Task port. Changes of its state are made on the loop, between awaits; queries read memory."""

    def __init__(self, host: Host, bundle: Bundle, record: TaskRecord, calls: Calls) -> None:
        self.namespace = record.namespace
        self.id = record.id
        self.runtime = record.launch.name
        self.bundle = bundle.path
        self.state = TaskState(host, bundle, record, calls)
        self.endings = Endings(self.state)
        self._execs = Execs(self.state, self.endings)

    # What it is

    def process(self, exec_id: str = "") -> Process:
        process = self.state.process(exec_id)
        status = self.state.status(process)
        if self.state.estranged and status is not Status.STOPPED:
            status = Status.UNKNOWN
        return process.shown(status)

    def timing(self) -> Sequence[Timing]:
        return self.state.record.timing

    # Starting

    async def start(self, exec_id: str = "") -> int:
        process = self.state.process(exec_id)
        doing = f"start {process.title}"
        self._require_waiting(process, doing)
        await self.state.known()
        self._require_waiting(process, doing)  # still
        shim = self.state.running_shim(doing)
        if exec_id:
            self.state.require_running(doing)
            if self.state.record.paused or self.state.pausing:
                raise errors.FailedPrecondition(f"{doing}: task {self.id} is paused")
        process.change(phase=Phase.STARTING, since=self.endings.exits.since if exec_id else process.record.since)
        return await self.state.to_end(self._execs.start(process, shim) if exec_id else self._start_init(shim))

    def _require_waiting(self, process: TaskProcess, doing: str) -> None:
        if process.record.exit is not None or process.reaped is not None:
            raise errors.FailedPrecondition(f"{doing}: it has ended")
        if process.record.phase is not Phase.ADDED:
            raise errors.FailedPrecondition(f"{doing}: it was started already")

    async def _start_init(self, shim: Shim) -> int:
        async with self.state.lock:
            init = self.state.init
            self.state.save()
            try:
                with tracing.timeline():
                    with tracing.span("start"):
                        await self._begin(shim)
                    phases = tracing.phases()
            except BaseException:
                init.change(phase=Phase.ADDED)
                self.state.save()
                self.endings.tell(init)
                raise
            init.change(phase=Phase.STARTED)
            self.state.save(timing=(*self.state.record.timing, *phases))
            self.state.publish(events.TaskStart(container_id=self.id, pid=init.record.pid))
            self.endings.tell(init)
            return init.record.pid

    async def _begin(self, shim: Shim) -> None:
        if self.state.record.restores:
            await restoring.start(self.state, self.endings, shim)
        else:
            await self.state.calls.start(shim, self.state.init.record.pid)

    async def exec(self, exec_id: str, spec: bytes, stdio: Stdio, fds: Sequence[int] = ()) -> None:
        await self.state.known()
        await self._execs.add(exec_id, spec, stdio, fds)

    # Living

    async def kill(self, signal: int, exec_id: str = "", all_processes: bool = False) -> None:
        process = self.state.process(exec_id)
        if not 0 < signal <= signals.SIGRTMAX:
            raise errors.InvalidArgument(f"send signal {signal} to {process.title}: there is no such signal")
        if all_processes and not exec_id:
            await self._kill_all(signal)
            return
        process.send(signal)
        if signal == signals.SIGKILL and not exec_id and (self.state.record.paused or self.state.pausing):
            # a frozen process does not die; the runtime thaws it, and if it does not we do
            with contextlib.suppress(errors.Error):
                await self.state.calls.kill(self.state.running_shim(f"kill {process.title}"), signal)
            cgroups.thaw(process.record.pid, self.state.record.cgroups_path)

    async def _kill_all(self, signal: int) -> None:
        await self.state.known()
        doing = f"send signal {signal} to all of task {self.id}"
        if self.state.init.record.exit is not None or self.state.init.reaped is not None:
            raise errors.NotFound(f"{doing}: it has ended")
        if self.state.estranged or (self.state.record.paused and signal != signals.SIGKILL):
            # runc 1.1 thaws what it signals as a whole
            for pid in await self.pids():
                living.send(pid, living.started_ticks(pid), signal)
            if signal == signals.SIGKILL:
                cgroups.thaw(self.state.init.record.pid, self.state.record.cgroups_path)
            return
        try:
            await self.state.calls.kill(self.state.running_shim(doing), signal, all_processes=True)
        except errors.Unknown as exc:
            if self.state.init.reaped is not None:
                raise errors.NotFound(f"{doing}: it has ended") from exc
            raise

    async def wait(self, exec_id: str = "") -> Exit:
        return await self.state.process(exec_id).wait()

    async def pids(self) -> dict[int, str]:
        record = self.state.init.record
        if self.state.init.reaped is not None or not living.alive(record.pid, record.started_ticks):
            return {}
        ours = {p.record.pid: p.exec_id for p in self.state.processes.values() if p.record.pid and not p.reaped}
        return {pid: ours.get(pid, "") for pid in sorted({*ours, *cgroups.processes(record.pid)})}

    def cgroups(self) -> dict[str, str]:
        return cgroups.directories(self.state.init.record.pid, self.state.record.cgroups_path)

    async def pause(self) -> None:
        await self.state.known()
        await self.state.to_end(self._pause())

    async def resume(self) -> None:
        await self.state.known()
        await self.state.to_end(self._resume())

    async def _pause(self) -> None:
        async with self.state.lock:
            doing = f"pause task {self.id}"
            if self.state.status(self.state.init) is not Status.RUNNING:
                raise errors.FailedPrecondition(f"{doing}: it is not running")
            await self._freeze(True, self.state.calls.pause, doing)
            self.state.publish(events.TaskPaused(container_id=self.id))

    async def _resume(self) -> None:
        async with self.state.lock:
            doing = f"resume task {self.id}"
            if self.state.status(self.state.init) is not Status.PAUSED:
                raise errors.FailedPrecondition(f"{doing}: it is not paused")
            await self._freeze(False, self.state.calls.resume, doing)
            self.state.publish(events.TaskResumed(container_id=self.id))

    async def _freeze(self, paused: bool, call: Callable[[Shim], Awaitable[None]], doing: str) -> None:
        shim = self.state.running_shim(doing)
        self.state.pausing = paused
        self.state.save(unsettled=True)
        try:
            await call(shim)
        except errors.DeadlineExceeded:
            await self.settle(shim)  # it may have come so far before it was killed
            raise
        except BaseException as exc:
            self.state.save(unsettled=False)
            if paused and isinstance(exc, errors.Error):
                cgroups.thaw(self.state.init.record.pid, self.state.record.cgroups_path)  # nor is it half paused
            if isinstance(exc, errors.Unknown) and self.state.init.reaped is not None:
                raise errors.FailedPrecondition(f"{doing}: it has ended") from exc
            raise
        finally:
            self.state.pausing = False
        self.state.save(paused=paused, unsettled=False)

    async def settle(self, shim: Shim) -> None:
        """Ask the runtime what became of a call that was under way when the daemon, or the call, was ended."""
        try:
            status = await self.state.calls.status(shim)
        except errors.Error as exc:
            if not self.state.held:
                return  # the next daemon asks
            # what is recorded is what was meant
            log.warning("%s", exc.message)
            status = "paused" if self.state.record.paused else "running"
        if self.state.init.record.phase is Phase.STARTING:
            self.state.init.change(phase=Phase.ADDED if status == "created" else Phase.STARTED)
        self.state.save(paused=status == "paused", unsettled=False)
        self.endings.tell(self.state.init)

    async def update(self, resources: bytes) -> None:
        check_resources(resources, f"update task {self.id}")
        await self.state.to_end(self._update(resources))

    async def _update(self, resources: bytes) -> None:
        await self.state.known()
        doing = f"update task {self.id}"
        async with self.state.lock:
            self.state.require_running(doing)
            await self.state.calls.update(self.state.running_shim(doing), resources)

    async def checkpoint(self, options: CheckpointOptions) -> None:
        await self.state.known()
        await self.state.to_end(self._checkpoint(options))

    async def _checkpoint(self, options: CheckpointOptions) -> None:
        doing = f"checkpoint task {self.id}"
        async with self.state.lock:
            if self.state.status(self.state.init) not in (Status.RUNNING, Status.PAUSED) or self.state.init.reaped:
                raise errors.FailedPrecondition(f"{doing}: it is not running")
            await self.state.calls.checkpoint(self.state.running_shim(doing), options)

    # Streams and terminals

    async def close_io(self, exec_id: str = "") -> None:
        await self.state.known()
        process = self.state.process(exec_id)
        if process.record.exit is None:
            await held.release(self.state.running_shim(f"close stdin of {process.title}"), [held.writer(exec_id)])

    async def resize(self, exec_id: str, width: int, height: int) -> None:
        await self.state.known()
        process = self._terminal(exec_id, "resize the terminal of")
        shim = self.state.running_shim(f"resize the terminal of {process.title}")
        await shim.resize(held.pty(exec_id), width, height)

    async def console(self, exec_id: str = "") -> int:
        await self.state.known()
        process = self._terminal(exec_id, "attach to")
        return await self.state.running_shim(f"attach to {process.title}").fetch(held.pty(exec_id))

    def _terminal(self, exec_id: str, doing: str) -> TaskProcess:
        process = self.state.process(exec_id)
        if not process.record.stdio.terminal:
            raise errors.FailedPrecondition(f"{doing} {process.title}: it has no terminal")
        if exec_id and process.record.phase is Phase.ADDED:
            raise errors.FailedPrecondition(f"{doing} {process.title}: it was not started")
        return process

    # Ends

    async def delete_process(self, exec_id: str) -> Exit:
        await self.state.known()
        return await self._execs.delete(exec_id)

    async def delete(self) -> Exit:
        """End a task that is not running, and remove all of it. FailedPrecondition when it runs.

        Not to be cancelled.
        """
        await self.state.known()
        async with self.state.lock:
            if self.state.deleted:
                raise errors.NotFound(f"delete task {self.id}: not found")
            if self.state.status(self.state.init) is Status.CREATED:
                await self._end_created()
            exit = self.state.init.record.exit
            if exit is None:
                raise errors.FailedPrecondition(f"delete task {self.id}: task {self.id} is running")
            await self._dismantle()
            for process in self.state.processes.values():
                if process.record.exit is None:
                    process.forget()
            self.state.publish(
                events.TaskDelete(
                    container_id=self.id, pid=exit.pid, exit_status=exit.status, exited_at_ns=exit.exited_at_ns
                )
            )
            return exit

    async def _end_created(self) -> None:
        """Kill an init process that waits to be started, if there is one already."""
        if self.state.record.restores:
            self.state.init.end(Exit(exited_at_ns=time.time_ns()))
            return
        with contextlib.suppress(errors.NotFound):
            self.state.init.send(signals.SIGKILL)
        try:
            async with asyncio.timeout(KILL_SECONDS):
                await self.state.init.ended.wait()
        except TimeoutError as exc:
            raise errors.DeadlineExceeded(f"delete task {self.id}: its process does not end") from exc

    async def _dismantle(self) -> None:
        shim = self.state.shim
        if self.state.unreached:
            self.state.running_shim(f"delete task {self.id}")
        if shim is None or shim.stranger:
            await self._bury()
        else:
            await self._forget(shim, force=self.state.record.restores)
        if shim is None:
            left = cgroups.placed(self.state.record.cgroups_path)
        else:
            left = await leftovers.end(self.state.record, shim.pid)
            if self.state.record.logged and not shim.stranger:
                await self._end_loggers(shim)
            self.state.shim = None
            await shim.shutdown()
        leftovers.remove(self.state.record, left)
        self.state.deleted = True
        self.state.home.remove()

    async def _bury(self) -> None:
        """Have the runtime forget the container in another shim."""
        undertaker = await self.state.host.undertaker(self.state.home.path)
        try:
            await self._forget(undertaker, force=True)
        finally:
            await undertaker.shutdown()

    async def _forget(self, shim: Shim, force: bool = False) -> None:
        """Have the runtime forget the container. One whose program is gone never will: that must not keep the task."""
        try:
            await self.state.calls.delete(shim, force)
        except errors.Unknown as exc:
            if force:
                raise
            log.info("%s; once more, by force", exc.message)
            await self._forget(shim, force=True)
        except errors.FailedPrecondition as exc:
            log.warning("%s; the task is removed without it", exc.message)

    async def _end_loggers(self, shim: Shim) -> None:
        """Close the streams of those that were never started, and wait for what reads the others."""
        for exec_id, process in self.state.processes.items():
            await held.release(shim, held.all_of(exec_id, process.record.stdio))
        await loggers.finish(shim)

    def close(self) -> None:
        """Let go of the shim, which lives on with its container."""
        self.state.let_go()
