"""Finds tasks again after a restart, from their bundles, their shims and the exit records. Makes none.

A task that is well costs a few system calls and no call of its runtime: fifty of them delay a start by milliseconds.
One whose shim is stopped is adopted when that goes on.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence

from daemon.runtime import living, restoring
from daemon.runtime.bundle import Bundle, Phase, TaskRecord, bundles, clear
from daemon.runtime.creation import Workshop
from daemon.runtime.process import TaskProcess
from daemon.runtime.shim import Shim
from daemon.runtime.task import ContainerTask
from daemon.runtime.told import Ends, Told
from spec import errors
from spec.events import Envelope

PARALLEL = 16
SECONDS = 30.0  # for one task; one that is stuck must not keep the daemon from starting
START_SECONDS = 1.0  # that a start waits for one task to be adopted, or undone
CALL_SECONDS = 5.0  # for a call of a runtime that was under way

log = logging.getLogger(__name__)


async def recover(workshop: Workshop, recent: Callable[[], Sequence[Envelope]]) -> list[ContainerTask]:
    """Every task there is. What was being created is undone, what was being removed is removed. `recent` are the last
    events that an earlier daemon has published; asked only if a process has ended whose exit is not on record, or has
    been killed for memory.

    A task whose calls are still under way, or whose shim takes no connection, is adopted in its own time; so is undone
    what takes longer.
    """
    told = _Memory(recent)
    found, dying = bundles(f"{workshop.state}/tasks")
    for path in dying:
        try:
            clear(path)
        except errors.Error as exc:
            log.warning("%s", exc.message)
    bound = asyncio.Semaphore(PARALLEL)
    tasks = await asyncio.gather(*(_bounded(workshop, path, told, bound) for path in found))
    told.forget()
    return [task for task in tasks if task is not None]


class _Memory:
    """What earlier daemons have told, read when it is asked for and kept while many ask."""

    def __init__(self, recent: Callable[[], Sequence[Envelope]]) -> None:
        self._recent = recent
        self._told: Told | None = None
        self._keeps = True

    def of(self, task: ContainerTask) -> Ends:
        told = self._told or Told(self._recent())
        if self._keeps:
            self._told = told
        return told.of(task.namespace, task.id)

    def forget(self) -> None:
        self._told, self._keeps = None, False


async def _bounded(workshop: Workshop, path: str, told: _Memory, bound: asyncio.Semaphore) -> ContainerTask | None:
    async with bound:
        try:
            async with asyncio.timeout(SECONDS):
                return await _recover(workshop, Bundle(path), told)
        except TimeoutError:
            log.error("recover bundle %s: not done in %s s", path, SECONDS)
        except errors.Error as exc:
            log.error("recover bundle %s: %s", path, exc.message)
        return None


async def _recover(workshop: Workshop, bundle: Bundle, told: _Memory) -> ContainerTask | None:
    try:
        record = bundle.load()
    except errors.NotFound:
        # its making ended before its first record: nothing was started for it
        bundle.remove()
        return None
    if not record.created:
        log.info("undo the creation of task %s, which a restart has cut short", record.id)
        undoing = workshop.undone(bundle, record, await _connected(bundle, record, workshop))
        await asyncio.wait([undoing], timeout=START_SECONDS)
        return None
    task = ContainerTask(workshop.host, bundle, record, workshop.calls(record, bundle))
    task.state.seek()
    adopting = workshop.host.attend(_find(task, bundle, workshop, told))
    await asyncio.wait([adopting], timeout=START_SECONDS)
    return task


async def _connected(bundle: Bundle, record: TaskRecord, workshop: Workshop) -> Shim | None:
    if not workshop.same_boot(record):
        return None
    try:
        return await Shim.connect(bundle.path)
    except errors.Unavailable:
        return None


async def _find(task: ContainerTask, bundle: Bundle, workshop: Workshop, told: _Memory) -> None:
    try:
        shim = await task.endings.reach() if workshop.same_boot(task.state.record) else None
        if not task.state.held:
            return
        if shim is None:
            task.state.missing = "its shim is gone"
            task.endings.earlier = told.of(task)
            _bury(task, bundle, workshop)
            return
        async with task.state.lock:
            await _adopt(task, bundle, shim, told)
    except errors.Error as exc:
        log.error("recover bundle %s: %s", bundle.path, exc.message)
    finally:
        task.state.sought()


async def _adopt(task: ContainerTask, bundle: Bundle, shim: Shim, told: _Memory) -> None:
    starting = any(process.record.phase is Phase.STARTING for process in task.state.processes.values())
    if starting or task.state.record.unsettled:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CALL_SECONDS):
                await shim.greeted()
        await _finish_calls(task, shim)
    if not task.state.held:
        shim.close()
        return
    restoring.found(task.state)
    for process in task.state.processes.values():
        _find_started(process, bundle)
        if process.record.pid and process.record.exit is None:
            task.endings.expect(process)
    records = shim.catch_up()
    if records and any(process.record.exit is None for process in task.state.processes.values()):
        task.endings.earlier = told.of(task)
    task.endings.recall = lambda: told.of(task)
    for record in records:
        task.endings.reaped(record)
    task.endings.adopt(shim)
    if task.state.record.unsettled or task.state.init.record.phase is Phase.STARTING:
        # a shim that is stopped answers when it goes on
        await asyncio.wait([task.state.host.attend(_settle(task, shim))], timeout=CALL_SECONDS)


async def _settle(task: ContainerTask, shim: Shim) -> None:
    """A shim that was stopped begins with the calls that it had not read yet."""
    await shim.greeted()
    await _finish_calls(task, shim)
    if task.state.held:
        await task.settle(shim)


async def _finish_calls(task: ContainerTask, shim: Shim) -> None:
    """Calls of the runtime that were under way go on in the shim: what became of them can be told when they are over.
    """
    for pid, ticks in _calls_under_way(task, shim):
        if not await living.ended(pid, ticks, CALL_SECONDS):
            log.warning("task %s: a call of its runtime hangs and is ended", task.id)
            await living.end(pid, ticks, CALL_SECONDS)


def _calls_under_way(task: ContainerTask, shim: Shim) -> list[tuple[int, int]]:
    """By their arguments, which stay what a runtime was called with when it is a script, or executes another."""
    known = {process.record.pid for process in task.state.processes.values()}
    root = task.state.record.launch.root
    calls = [pid for pid in living.children(shim.pid) if pid not in known and root in living.arguments(pid)]
    return [(pid, ticks) for pid in calls if (ticks := living.started_ticks(pid))]


def _find_started(process: TaskProcess, bundle: Bundle) -> None:
    """An exec that was starting has started if the runtime has written its pid, and else is given up."""
    if not process.exec_id or process.record.phase is not Phase.STARTING:
        return
    pid = bundle.pid(f"exec-{process.exec_id}.pid")
    if pid:
        process.change(phase=Phase.STARTED, pid=pid, started_ticks=living.started_ticks(pid))
    else:
        process.fail()


def _bury(task: ContainerTask, bundle: Bundle, workshop: Workshop) -> None:
    """In its own time: a process that is slow to die must not keep the daemon from starting."""
    log.warning("task %s has lost its shim", task.id)
    restoring.found(task.state)
    for process in task.state.processes.values():
        _find_started(process, bundle)
    if task.state.init.record.phase is Phase.STARTING:
        task.state.init.change(phase=Phase.STARTED)
    if not workshop.same_boot(task.state.record):
        # pids and starting times of another boot name nobody
        for process in task.state.processes.values():
            process.change(started_ticks=-1)
    workshop.host.spawn(task.endings.bury())
