"""The states of one process in memory."""

import asyncio

import pytest

from daemon.runtime.bundle import Phase, ProcessRecord
from daemon.runtime.process import TaskProcess
from spec import errors
from spec.records import Exit, Status
from spec.types import Stdio


@pytest.mark.parametrize(
    ("phase", "exec_id", "paused", "pausing", "status"),
    [
        (Phase.ADDED, "", False, False, Status.CREATED),
        (Phase.STARTING, "", False, False, Status.CREATED),
        (Phase.STARTED, "", False, False, Status.RUNNING),
        (Phase.STARTED, "", True, False, Status.PAUSED),
        (Phase.STARTED, "", False, True, Status.PAUSING),
        (Phase.STARTED, "e", True, False, Status.RUNNING),
    ],
)
def test_status(phase, exec_id, paused, pausing, status):
    process = TaskProcess("c", ProcessRecord(exec_id=exec_id, phase=phase))
    assert process.status(paused, pausing) is status
    process.end(Exit(status=3))
    assert process.status(paused, pausing) is Status.STOPPED


def test_what_is_shown():
    exit = Exit(status=3, exited_at_ns=9)
    record = ProcessRecord(exec_id="e", pid=5, stdio=Stdio(stdout="/f", terminal=True), exit=exit)
    shown = TaskProcess("c", record).shown(Status.STOPPED)
    assert (shown.container_id, shown.exec_id, shown.pid, shown.stdout, shown.terminal) == ("c", "e", 5, "/f", True)
    assert (shown.exit_status, shown.exited_at_ns) == (3, 9)


def test_waiting():
    async def story():
        process = TaskProcess("c", ProcessRecord())
        waiting = [asyncio.create_task(process.wait()) for _ in range(3)]
        await asyncio.sleep(0)
        process.end(Exit(status=3))
        assert [exit.status for exit in await asyncio.gather(*waiting)] == [3, 3, 3]
        assert (await TaskProcess("c", process.record).wait()).status == 3

    asyncio.run(story())


def test_waiting_for_what_never_comes():
    async def story():
        process = TaskProcess("c", ProcessRecord(exec_id="e"))
        waiting = asyncio.create_task(process.wait())
        await asyncio.sleep(0)
        process.forget()
        with pytest.raises(errors.NotFound):
            await waiting

    asyncio.run(story())


def test_signals_need_a_process():
    process = TaskProcess("c", ProcessRecord(exec_id="e"))
    with pytest.raises(errors.FailedPrecondition):
        process.send(9)
    process.change(pid=2**22 + 1, started_ticks=1)
    with pytest.raises(errors.NotFound):
        process.send(9)
    process.fail()
    with pytest.raises(errors.NotFound):
        process.send(9)
