"""Finds tasks again after a restart, from their bundles, their shims and the exit records. Makes none.

A task that is well costs a few system calls and no call of its runtime: fifty of them delay a start by milliseconds.
"""

import asyncio
import functools
import logging
from collections.abc import Callable, Sequence

from daemon.runtime import living, restoring
from daemon.runtime.bundle import Bundle, Phase, TaskRecord, bundles, clear
from daemon.runtime.creation import Workshop
from daemon.runtime.process import TaskProcess
from daemon.runtime.shim import Shim
from daemon.runtime.task import ContainerTask
from daemon.runtime.told import Told
from spec import errors
from spec.events import Envelope

PARALLEL = 16
SECONDS = 30.0  # for one task; one that is stuck must not keep the daemon from starting
CALL_SECONDS = 5.0  # for a call of a runtime that was under way

log = logging.getLogger(__name__)


async def recover(workshop: Workshop, recent: Callable[[], Sequence[Envelope]]) -> list[ContainerTask]:
    """Every task there is. What was being created is undone, what was being removed is removed. `recent` are the last
    events that an earlier daemon has published; asked only if a process has ended whose exit is not on record."""
    told = functools.cache(lambda: Told(recent()))
    found, dying = bundles(f"{workshop.state}/tasks")
    for path in dying:
        try:
            clear(path)
        except errors.Error as exc:
            log.warning("%s", exc.message)
    bound = asyncio.Semaphore(PARALLEL)
    tasks = await asyncio.gather(*(_bounded(workshop, path, told, bound) for path in found))
    return [task for task in tasks if task is not None]


async def _bounded(
    workshop: Workshop, path: str, told: Callable[[], Told], bound: asyncio.Semaphore
) -> ContainerTask | None:
    async with bound:
        try:
            async with asyncio.timeout(SECONDS):
                return await _recover(workshop, Bundle(path), told)
        except TimeoutError:
            log.error("recover bundle %s: not done in %s s", path, SECONDS)
        except errors.Error as exc:
            log.error("recover bundle %s: %s", path, exc.message)
        return None


async def _recover(workshop: Workshop, bundle: Bundle, told: Callable[[], Told]) -> ContainerTask | None:
    try:
        record = bundle.load()
    except errors.NotFound:
        # its making ended before its first record: nothing was started for it
        bundle.remove()
        return None
    shim = await _connected(bundle, record, workshop)
    if not record.created:
        log.info("undo the creation of task %s, which a restart has cut short", record.id)
        await workshop.undo(bundle, record, shim)
        return None
    task = ContainerTask(workshop.host, bundle, record, workshop.calls(record, bundle))
    if shim is None:
        task.endings.earlier = told().of(task.namespace, task.id)
        _bury(task, bundle, workshop)
    else:
        await _adopt(task, bundle, shim, told)
    return task


async def _connected(bundle: Bundle, record: TaskRecord, workshop: Workshop) -> Shim | None:
    if not workshop.same_boot(record):
        return None
    try:
        return await Shim.connect(bundle.path)
    except errors.Unavailable:
        return None


async def _adopt(task: ContainerTask, bundle: Bundle, shim: Shim, told: Callable[[], Told]) -> None:
    starting = any(process.record.phase is Phase.STARTING for process in task.state.processes.values())
    if starting or task.state.record.unsettled:
        await _finish_calls(task, shim)
    restoring.found(task.state)
    for process in task.state.processes.values():
        _find_started(process, bundle)
        if process.record.pid and process.record.exit is None:
            task.endings.expect(process)
    records = shim.catch_up()
    if records and any(process.record.exit is None for process in task.state.processes.values()):
        task.endings.earlier = told().of(task.namespace, task.id)
    for record in records:
        task.endings.reaped(record)
    task.endings.adopt(shim)
    if task.state.record.unsettled or task.state.init.record.phase is Phase.STARTING:
        # a shim that is stopped answers when it goes on
        await asyncio.wait([task.state.host.spawn(task.settle(shim))], timeout=CALL_SECONDS)


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

