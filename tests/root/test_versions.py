"""Tasks whose shims speak another version of the protocol than the daemon that finds them."""

import asyncio
import contextlib

import pytest

from daemon.runtime import shim as shims
from spec import errors
from spec.records import Status
from spec.types import Stdio
from tests.root.tasks_rig import NAMESPACE, json_process, lived, text, until

pytestmark = pytest.mark.root

TELLS = ("sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.01; done")


@contextlib.contextmanager
def spoken(oldest, newest):
    """What daemons speak while the block runs."""
    before = shims.OLDEST, shims.VERSION
    shims.OLDEST, shims.VERSION = oldest, newest
    try:
        yield
    finally:
        shims.OLDEST, shims.VERSION = before


@pytest.mark.parametrize("speaks", [(1, 1), (1, 9), (2, 2)])
def test_a_task_is_adopted_and_served_whatever_its_shim_speaks(speaks):
    async def story(rig):
        rig.nursery.speaks = speaks
        await rig.run("one", *TELLS)
        pid = (await rig.run("two", "sleep", "1000")).process().pid
        await rig.restarted()
        one, two = (rig.tasks.get(NAMESPACE, id) for id in ("one", "two"))
        assert (one.process().status, two.process().status) == (Status.RUNNING, Status.RUNNING)
        await one.exec("more", json_process("sh", "-c", "exit 3"), Stdio())
        await one.start("more")
        assert (await asyncio.wait_for(one.wait("more"), 10)).status == 3
        await two.pause()
        assert two.process().status is Status.PAUSED
        await two.resume()
        await one.kill(15)
        assert (await asyncio.wait_for(one.wait(), 10)).status == 7
        await two.kill(9, all_processes=True)
        exit = await asyncio.wait_for(two.wait(), 10)
        assert (exit.status, exit.pid) == (137, pid)
        await rig.delete("one")
        await rig.delete("two")
        assert rig.published.topics("one") == ["/tasks/exec-added", "/tasks/exec-started", "/tasks/exit", "/tasks/exit",
                                               "/tasks/delete"]  # fmt: skip

    lived(story)


@pytest.mark.parametrize(
    ("makers", "finders"),
    [((1, 2), (5, 9)), ((5, 9), (1, 2))],
    ids=["of a daemon too old", "of a daemon too new"],
)
def test_a_task_whose_shim_is_a_stranger_is_seen_and_can_be_ended(makers, finders):
    async def story(rig):
        async def found(id):
            await until(lambda: rig.tasks.get(NAMESPACE, id).process().status is Status.UNKNOWN)
            return rig.tasks.get(NAMESPACE, id)

        rig.nursery.speaks = makers
        with spoken(*makers):
            await rig.run("one", *TELLS)
            await rig.run("two", "sh", "-c", "sleep 1000 & wait")
            await rig.create("three", "sleep", "1000")
            frozen = await rig.run("four", "sleep", "1000")
            await frozen.pause()
            await rig.run("five", "sh", "-c", "sleep 0.3; exit 4")
            await rig.tasks.close()
        rig.nursery.speaks = finders
        with spoken(*finders):
            await rig.restarted()
            one, two, _, four, five = [await found(id) for id in ("one", "two", "three", "four", "five")]
            words = rf"test/one speaks versions {makers[0]} to {makers[1]} of its protocol, and this holdd versions"
            with pytest.raises(errors.Unimplemented, match=words):
                await one.pause()
            await one.exec("more", json_process("true"), Stdio())
            with pytest.raises(errors.Unimplemented, match=words):
                await one.start("more")
            await one.delete_process("more")
            with pytest.raises(errors.FailedPrecondition, match="is running"):
                await rig.delete("one")
            assert len(await two.pids()) == 2
            await one.kill(15)
            await two.kill(9, all_processes=True)
            await four.kill(9)
            ended = [await asyncio.wait_for(task.wait(), 10) for task in (one, two, four, five)]
            assert [exit.status for exit in ended] == [7, 137, 137, 4]
            assert one.process().status is Status.STOPPED
            assert (await rig.delete("one")).status == 7
            assert (await rig.delete("three")).status == 137
            for id in ("two", "four", "five"):
                await rig.delete(id)
            assert [event.exit_status for event in rig.published.of("/tasks/delete")] == [7, 137, 137, 137, 4]

    lived(story)


def test_a_strangers_task_ends_in_peace_while_no_daemon_runs():
    async def story(rig):
        await rig.run("one", "sh", "-c", "sleep 0.2; exit 4")
        await rig.tasks.close()
        await until(lambda: shims.Shim.records(f"{rig.state}/tasks/{NAMESPACE}/one"))
        rig.nursery.speaks = (5, 9)
        with spoken(5, 9):
            await rig.restarted()
            assert (await asyncio.wait_for(rig.tasks.get(NAMESPACE, "one").wait(), 10)).status == 4
            await rig.delete("one")

    lived(story)


SURVIVES = ("sh", "-c", "sh -c 'tail /dev/zero'; sleep 1000")
MEMORY = {"memory": {"limit": 16 << 20}}


def test_a_kill_for_memory_that_init_survives_is_told_at_once():
    async def story(rig):
        await rig.run("one", *SURVIVES, resources=MEMORY)
        await until(lambda: "/tasks/oom" in rig.published.topics(), 20)
        assert rig.published.topics() == ["/tasks/create", "/tasks/start", "/tasks/oom"]
        await rig.restarted()
        await rig.end("one")
        assert rig.published.topics() == ["/tasks/exit", "/tasks/delete"]

    lived(story)


def test_a_kill_for_memory_while_no_daemon_runs_is_told_by_the_next():
    async def story(rig):
        task = await rig.run("one", "sh", "-c", "sleep 0.5; tail /dev/zero; sleep 1000", resources=MEMORY)
        counter = f"{task.cgroups().get('memory') or task.cgroups()['unified']}/memory.oom_control"
        await rig.tasks.close()
        await until(lambda: "oom_kill 1" in text(counter), 20)
        for topics in (["/tasks/oom"], []):
            await rig.restarted()
            await until(lambda: rig.published.topics() == topics)  # noqa: B023
        await rig.end("one")

    lived(story)


def test_a_shim_of_version_1_tells_of_a_kill_for_memory_with_the_exit():
    async def story(rig):
        rig.nursery.speaks = (1, 1)
        await rig.run("one", "sh", "-c", "tail /dev/zero; exit 4", resources=MEMORY)
        exit = await asyncio.wait_for(rig.tasks.get(NAMESPACE, "one").wait(), 30)
        assert (exit.status, exit.oom_killed) == (4, True)
        assert rig.published.topics()[-2:] == ["/tasks/oom", "/tasks/exit"]
        await rig.delete("one")

    lived(story)
