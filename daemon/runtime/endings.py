"""How a task's processes end: which exit is whose, what is told of it and in which order, and what becomes of a task
whose shim is lost. Starts nothing."""

import asyncio
import contextlib
import logging
import signal as signals
import time
from collections.abc import Callable

from daemon.runtime import cgroups, living, strangers
from daemon.runtime.bundle import Phase
from daemon.runtime.exits import Exits, as_exit
from daemon.runtime.process import TaskProcess
from daemon.runtime.shim import ExitRecord, Shim
from daemon.runtime.state import TaskState
from daemon.runtime.told import Ends
from spec import errors, events
from spec.records import Exit

EXECS_END_SECONDS = 10.0  # for exec'd processes to end after init, which takes them along
KILL_SECONDS = 10.0
AGAIN_SECONDS = 1.0  # between attempts to reach a shim
LOST_STATUS = 128 + signals.SIGKILL

log = logging.getLogger(__name__)


class Endings:
    """The ends of the processes of one task."""

    def __init__(self, state: TaskState) -> None:
        self.exits = Exits()
        self.earlier = Ends()
        """What an earlier daemon has told already."""
        self.recall: Callable[[], Ends] = lambda: self.earlier
        """Asks for that anew."""
        self._state = state
        self._ending = False
        self._killed = False

    def adopt(self, shim: Shim) -> None:
        """Listen to the shim from now on."""
        self._state.shim = shim
        self._state.unreached = False
        shim.on_close(lambda: self._lost(shim))
        shim.on_kill(self._kills)
        shim.on_exit(self.reaped)
        shim.on_stranger(lambda: strangers.met(self._state, self.reaped, self._lose))

    def _kills(self) -> None:
        self._killed = True
        self._tell_kill()

    def _tell_kill(self) -> None:
        """Once, and not before the start was told."""
        state = self._state
        if not self._killed or state.record.oom_told or not state.held or state.init.record.phase is not Phase.STARTED:
            return
        if not self.recall().oom:
            state.publish(events.TaskOOM(container_id=state.id))
        try:
            state.save(oom_told=True)
        except errors.Error as exc:
            log.warning("kill for memory in task %s: %s", state.id, exc.message)

    def expect(self, process: TaskProcess) -> None:
        """Take exits of its pid for the process's."""
        for record in self.exits.expect(process):
            self.reaped(record)

    def reaped(self, record: ExitRecord) -> None:
        """The shim tells of an exit; again perhaps, when it was read from its file before."""
        process = self.exits.match(record)
        if process is not None:
            self._reaped(process, as_exit(record))

    def _reaped(self, process: TaskProcess, exit: Exit) -> None:
        if process.reaped is not None or process.record.exit is not None:
            return
        process.reaped = exit
        if process.record.phase is not Phase.STARTING:
            self.tell(process)

    def tell(self, process: TaskProcess) -> None:
        """Tell of the exit of a process that was reaped, if it was, and init's after those of the others."""
        self._tell_kill()
        if process.reaped is None or process.record.exit is not None:
            return
        if process is not self._state.init or (self._state.record.private_pids and not self._state.live_execs()):
            self._ended(process)
        elif not self._ending:
            self._ending = True
            self._state.host.spawn(self._end_rest())

    def _ended(self, process: TaskProcess) -> None:
        exit = process.reaped
        if exit is None:
            raise errors.Internal(f"end {process.title}: it was not reaped")
        self.exits.forget(exit.pid)
        # First told, then on record: in between a death leaves an exit in the shim's file, and what was told of it
        # among the last events, so that the next start tells what is missing and nothing twice.
        self._tell(process, exit)
        process.end(exit)
        try:
            self._state.save(oom_told=self._state.record.oom_told or exit.oom_killed)
        except errors.Error as exc:
            log.warning("exit of %s: %s", process.title, exc.message)

    def _tell(self, process: TaskProcess, exit: Exit) -> None:
        if exit.oom_killed and not self._state.record.oom_told and not self.earlier.oom:
            self._state.publish(events.TaskOOM(container_id=self._state.id))
        if self.earlier.exit(process.exec_id, exit.pid) is not None:
            return
        self._state.publish(
            events.TaskExit(
                container_id=self._state.id,
                id=process.exec_id or self._state.id,
                pid=exit.pid,
                exit_status=exit.status,
                exited_at_ns=exit.exited_at_ns,
            )
        )

    async def _end_rest(self) -> None:
        """Init has ended: without a PID namespace of its own nothing else has. See to it, then tell of init."""
        if not self._state.record.private_pids and self._state.shim is not None:
            try:
                await self._state.calls.kill(self._state.shim, signals.SIGKILL, all_processes=True)
            except errors.Error as exc:
                log.debug("end what task %s left: %s", self._state.id, exc.message)
        try:
            async with asyncio.timeout(EXECS_END_SECONDS):
                while execs := self._state.live_execs():
                    await asyncio.gather(*(process.ended.wait() for process in execs))
        except TimeoutError:
            log.warning("task %s has ended, and processes that were exec'd into it have not", self._state.id)
        self._ended(self._state.init)

    def _lost(self, shim: Shim) -> None:
        if self._state.shim is shim:
            self._state.shim = None
            self._state.host.attend(self._find_shim())

    async def _find_shim(self) -> None:
        """The connection broke. If the shim is gone nobody will learn of an exit any more: end the container."""
        shim = await self.reach()
        if shim is not None:
            self.adopt(shim)
            for record in shim.catch_up():
                self.reaped(record)
        elif self._state.held:
            log.warning("task %s has lost its shim", self._state.id)
            await self._state.host.spawn(self.bury())

    async def reach(self) -> Shim | None:
        """Its shim, in time: one that was stopped for long takes no connection until it goes on. None when it is gone,
        or we have let go of the task."""
        state = self._state
        while state.held:
            try:
                return await Shim.connect(state.home.path)
            except errors.Unavailable:
                state.unreached = False
                return None
            except errors.ResourceExhausted as exc:
                if not state.unreached:
                    log.warning("task %s: %s", state.id, exc.message)
                state.unreached, state.missing = True, "its shim does not answer; is it stopped?"
                state.sought()
            await state.while_held(asyncio.sleep(AGAIN_SECONDS))
        return None

    async def bury(self) -> None:
        """End what is left of a task whose shim is dead, and tell of exits that are on file or that we make up."""
        with contextlib.suppress(errors.NotFound):
            for record in Shim.records(self._state.home.path):
                self.reaped(record)
        for process in sorted(self._state.processes.values(), key=lambda process: process is self._state.init):
            if process.record.exit is None and process.reaped is None and process.record.pid:
                await self._end_lost(process)

    async def _end_lost(self, process: TaskProcess) -> None:
        pid = process.record.pid
        try:
            await living.end(pid, process.record.started_ticks, KILL_SECONDS)
        except errors.DeadlineExceeded as exc:
            log.warning("%s has lost its shim: %s", process.title, exc.message)
        self._lose(process)

    def _lose(self, process: TaskProcess) -> None:
        """It has ended and nobody knows how."""
        pid = process.record.pid
        told = self.earlier.exit(process.exec_id, pid)
        status, at_ns = (told.exit_status, told.exited_at_ns) if told else (LOST_STATUS, time.time_ns())
        self._reaped(process, Exit(pid=pid, status=status, exited_at_ns=at_ns))


async def watch_memory(shim: Shim, pid: int, id: str) -> None:
    """Before the start, so that no kill is missed. A container without it runs as well."""
    try:
        if cgroup := cgroups.memory(pid):
            await shim.watch_oom(cgroup)
    except errors.Error as exc:
        log.debug("task %s: its memory is not watched: %s", id, exc.message)
