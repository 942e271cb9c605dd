"""Tasks whose shim speaks no version of ours. It goes on to reap and to put exits on file, and tells us nothing: so the
processes are watched, and the file is read when one has gone. Asks no shim for anything."""

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable

from daemon.runtime import living
from daemon.runtime.process import TaskProcess
from daemon.runtime.shim import ExitRecord, Shim
from daemon.runtime.state import TaskState
from spec import errors

REAP_SECONDS = 0.05  # between looks at a process that has ended and waits for the shim to reap it

log = logging.getLogger(__name__)

Ended = Callable[[ExitRecord], None]
Lost = Callable[[TaskProcess], None]


def met(state: TaskState, ended: Ended, lost: Lost) -> None:
    """The task's shim is one. `ended` is told of the exits on file, `lost` of a process that has gone without one."""
    if state.shim is None:
        return
    log.error("task %s: %s", state.id, state.shim.stranger)
    for process in state.processes.values():
        if process.record.pid and process.record.exit is None:
            state.host.attend(_attended(state, process, ended, lost))


async def _attended(state: TaskState, process: TaskProcess, ended: Ended, lost: Lost) -> None:
    if not await state.while_held(_gone(process.record.pid, process.record.started_ticks)):
        return
    with contextlib.suppress(errors.NotFound):
        for record in Shim.records(state.home.path):
            ended(record)
    if process.reaped is None and process.record.exit is None:
        lost(process)


async def _gone(pid: int, ticks: int) -> bool:
    """When it has been reaped; what reaps it has put its exit on file before."""
    await living.ended(pid, ticks, math.inf)
    while living.alive(pid, ticks):  # noqa: ASYNC110  nothing tells of it
        await asyncio.sleep(REAP_SECONDS)
    return True
