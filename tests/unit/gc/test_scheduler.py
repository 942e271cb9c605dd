"""When collections run."""

import asyncio
import contextlib
import threading

import pytest

from daemon.gc.collector import Collected
from daemon.gc.scheduler import FIRST_INTERVAL_S, Scheduler, Thresholds

NOW = Thresholds(startup_delay_s=0)


async def running(scheduler, until, count):
    """Run it until `until()` says so; how often it collected is `count()`."""
    task = asyncio.create_task(scheduler.run())
    try:
        async with asyncio.timeout(10):
            while not until():  # noqa: ASYNC110 what it waits for happens on the same loop
                await asyncio.sleep(0)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    return count()


def collecting(failures=0):
    runs = []

    async def collect():
        runs.append(len(runs) < failures)
        if runs[-1]:
            raise OSError("no")
        return Collected()

    return runs, collect


def test_it_runs_at_the_start():
    runs, collect = collecting()
    scheduler = Scheduler(collect, NOW)
    asyncio.run(running(scheduler, lambda: runs, lambda: None))
    assert scheduler.successes == 1


def test_deletions_make_it_due_at_once():
    runs, collect = collecting()
    scheduler = Scheduler(collect, Thresholds(startup_delay_s=0, deletions=2, pause=0.0))

    def delete():
        if len(runs) == 1:
            thread = threading.Thread(target=lambda: [scheduler.notify(True) for _ in range(2)])
            thread.start()
            thread.join()
        return len(runs) >= 2

    asyncio.run(running(scheduler, delete, lambda: None))


@pytest.mark.parametrize(
    ("deletions", "mutations", "worth"), [(0, 0, False), (1, 0, True), (0, 99, False), (0, 100, True)]
)
def test_a_due_run_needs_a_reason(deletions, mutations, worth):
    scheduler = Scheduler(collecting()[1], NOW)
    for removal, count in ((True, deletions), (False, mutations)):
        for _ in range(count):
            scheduler.notify(removal)
    assert scheduler._worth() is worth


def test_its_share_of_the_time_is_bounded():
    scheduler = Scheduler(collecting()[1], Thresholds(pause=0.02))
    assert scheduler.interval_s == FIRST_INTERVAL_S
    asyncio.run(scheduler.now())
    assert scheduler.interval_s == pytest.approx(0.005 / 0.02 - 0.005)


def test_a_failure_is_counted_and_told_to_whoever_waits():
    runs, collect = collecting(failures=1)
    scheduler = Scheduler(collect, NOW)
    with pytest.raises(OSError, match="no"):
        asyncio.run(scheduler.now())
    asyncio.run(scheduler.now())
    assert (scheduler.failures, scheduler.successes, len(runs)) == (1, 1, 2)
