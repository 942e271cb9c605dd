"""Creating a task: asked for twice, given up, and cut short by the death of the daemon at any point of it."""

import asyncio
import os
import subprocess
import sys

import pytest

from daemon.runtime import cgroups, living
from spec import errors
from spec.types import Stdio
from tests.root.tasks_rig import NAMESPACE, exists, lived, read_all, until

pytestmark = pytest.mark.root


def test_who_asks_for_the_same_joins():
    async def story(rig):
        read, write = os.pipe()
        stdio = Stdio(stdout="fd://0")
        asked = [rig.create("one", "echo", "hi", stdio=stdio, fds=(os.dup(write),)) for _ in range(3)]
        os.close(write)
        first, *others = await asyncio.gather(*asked)
        assert all(other is first for other in others)
        assert rig.published.topics() == ["/tasks/create"]
        await first.start()
        await first.wait()
        assert read_all(read) == b"hi\n"
        with pytest.raises(errors.AlreadyExists):
            await rig.create("one", "echo", "hi")
        await rig.delete("one")

    lived(story)


OTHERS = ({"user": "guest"}, {"stdio": Stdio(terminal=True)}, {"runtime": "crun"}, {"rootfs": ()})


@pytest.mark.parametrize("other", OTHERS)
def test_who_asks_for_another_is_refused(other):
    async def story(rig):
        creating = asyncio.create_task(rig.create("one", "true"))
        await asyncio.sleep(0)
        with pytest.raises(errors.AlreadyExists):
            await rig.create("one", "true", **other)
        await creating
        await rig.delete("one")

    lived(story)


def test_one_of_two_who_leaves_ends_nothing():
    async def story(rig):
        leaving, staying = (asyncio.create_task(rig.create("one", "sleep", "1000")) for _ in range(2))
        await until(lambda: exists(f"{rig.state}/tasks/{NAMESPACE}/one/config.json"))
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert (await staying).process().pid
        await rig.delete("one")

    lived(story)


def test_who_asks_again_after_all_have_left_gets_a_new_one():
    async def story(rig):
        leaving = asyncio.create_task(rig.create("one", "sleep", "1000"))
        await until(lambda: exists(f"{rig.state}/tasks/{NAMESPACE}/one/config.json"))
        leaving.cancel()
        await asyncio.sleep(0)
        task = await rig.create("one", "sleep", "1000")
        assert leaving.cancelled()
        assert living.started_ticks(task.process().pid)
        await rig.delete("one")

    lived(story)


# What a creation leaves on its way, in the order of its steps.
TRACES = ("task.json", "rootfs", "shim.sock", "config.json", "log-1.json", "init.pid")


@pytest.mark.parametrize("trace", TRACES)
def test_killed_while_it_creates(trace):
    async def story(rig):
        await rig.tasks.close()
        argv = [sys.executable, "-m", "tests.root.tasks_child", rig.state, str(rig.root)]
        child = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.PIPE)
        bundle = f"{rig.state}/tasks/{NAMESPACE}/c0"
        await until(lambda: exists(f"{bundle}/{trace}"))
        child.kill()
        await child.communicate()
        # a shim whose fork was under way is its own to end, when nobody comes for it
        rig.tasks = rig.made()
        await rig.tasks.recover()
        for task in rig.tasks.tasks():  # it was done before we came
            pid = task.process().pid
            assert living.started_ticks(pid)
            if task.process().status.name == "PAUSED":
                await task.resume()
            await task.kill(9)
            await task.wait()
            await rig.delete(task.id)
        assert rig.remains() == []
        assert cgroups.placed("/holdd-test/c0") == []
        assert os.listdir(f"{rig.state}/runc/{NAMESPACE}") == []
        # the id is free
        await (await rig.run("c0", "true")).wait()
        await rig.delete("c0")

    lived(story)


def test_a_stopped_shim_delays_nobody_else():
    async def story(rig):
        stuck = await rig.run("stuck", "sleep", "1000")
        shim = stuck.state.shim.pid
        os.kill(shim, 19)
        try:
            pausing = asyncio.create_task(stuck.pause())
            await until(lambda: stuck.process().status.name == "PAUSING")
            assert len(rig.tasks.tasks()) == 1
            await (await rig.run("other", "true")).wait()
            await rig.delete("other")
            assert len(await stuck.pids()) == 1
            await stuck.kill(18)  # SIGCONT, which a daemon sends without its shim
            assert not pausing.done()
        finally:
            os.kill(shim, 18)
        await asyncio.wait_for(pausing, 10)
        os.kill(shim, 19)
        try:
            await rig.tasks.close()
            rig.tasks = rig.made()
            await asyncio.wait_for(rig.tasks.recover(), 10)
            stuck = rig.tasks.get(NAMESPACE, "stuck")
            assert stuck.process().status.name == "PAUSED"
        finally:
            os.kill(shim, 18)
        await stuck.resume()
        await rig.end("stuck")

    lived(story)
