"""Ends are told once, whatever the daemon had on record when it died."""

import asyncio

import pytest

from daemon.runtime import living
from spec.types import Stdio
from tests.root.tasks_rig import NAMESPACE, json_process, lived, until

pytestmark = pytest.mark.root

HOG = ("sh", "-c", "tail /dev/zero")
MEMORY = {"memory": {"limit": 16 << 20}}


def forgetful(task):
    """From now on it dies, as it were, before it has anything on record."""
    task.state.home.save = lambda record: None


async def died(rig, *topics):
    """After the last of `topics` was published."""
    await until(lambda: rig.published.topics()[-len(topics) :] == list(topics))
    await rig.restarted()


def test_what_was_told_before_it_was_on_record_is_not_told_again():
    async def story(rig):
        task = await rig.run("one", "sleep", "1000")
        await task.exec("two", json_process("sh", "-c", "exit 3"), Stdio())
        await task.start("two")
        await task.wait("two")
        forgetful(task)
        await task.kill(9)
        exit = await task.wait()
        await died(rig, "/tasks/exit", "/tasks/exit")
        assert rig.published == []
        assert await rig.tasks.get(NAMESPACE, "one").wait() == exit
        await rig.delete("one")

    lived(story)


def test_an_out_of_memory_kill_is_not_told_again_and_its_exit_is_if_it_was_not():
    async def story(rig):
        task = await rig.create("one", *HOG, resources=MEMORY)
        forgetful(task)
        await task.start()
        exit = await asyncio.wait_for(task.wait(), 30)
        assert exit.oom_killed
        await rig.tasks.close()
        assert rig.published.topics()[-2:] == ["/tasks/oom", "/tasks/exit"]
        rig.published.pop()
        await rig.restarted()
        task = rig.tasks.get(NAMESPACE, "one")
        assert await asyncio.wait_for(task.wait(), 10) == exit
        assert rig.published.topics() == ["/tasks/exit"]
        await rig.delete("one")

    lived(story)


def test_an_out_of_memory_kill_is_told_once_though_who_was_killed_is_forgotten():
    async def story(rig):
        task = await rig.run("one", "sleep", "1000", resources=MEMORY)
        await task.exec("two", json_process(*HOG), Stdio())
        await task.start("two")
        assert (await asyncio.wait_for(task.wait("two"), 30)).oom_killed
        await task.delete_process("two")
        assert rig.published.topics().count("/tasks/oom") == 1
        await rig.restarted()
        await rig.end("one")
        assert "/tasks/oom" not in rig.published.topics()

    lived(story)


def test_an_end_that_was_made_up_stays_what_was_told():
    async def story(rig):
        task = await rig.run("one", "sleep", "1000")
        pid = task.process().pid
        forgetful(task)
        await living.end(task.state.shim.pid, living.started_ticks(task.state.shim.pid), 10)
        exit = await asyncio.wait_for(task.wait(), 10)
        assert (exit.pid, exit.status) == (pid, 137)
        await died(rig, "/tasks/exit")
        assert await asyncio.wait_for(rig.tasks.get(NAMESPACE, "one").wait(), 10) == exit
        assert rig.published == []
        await rig.delete("one")

    lived(story)


def test_an_id_that_comes_round_again_has_ends_of_its_own():
    async def story(rig):
        for _ in range(2):
            await rig.run("one", "sleep", "1000")
            await rig.end("one")
        task = await rig.run("one", "sleep", "1000")
        pid = task.process().pid
        await rig.tasks.close()
        assert await living.ended(pid, living.started_ticks(pid), 10, 9)
        await rig.restarted()
        assert (await asyncio.wait_for(rig.tasks.get(NAMESPACE, "one").wait(), 10)).status == 137
        assert [event.pid for event in rig.published.of("/tasks/exit")] == [pid]
        await rig.delete("one")

    lived(story)
