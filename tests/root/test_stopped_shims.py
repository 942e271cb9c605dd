"""A shim that is stopped, as a debugger or a freezer does: its task waits for it, and no other does."""

import asyncio
import contextlib
import errno
import os
import signal
import socket

import msgspec
import pytest

from daemon.runtime.bundle import Bundle
from spec import errors
from spec.records import Status
from spec.types import Stdio
from tests.root.tasks_rig import NAMESPACE, Published, json_process, lived, until

pytestmark = pytest.mark.root


@contextlib.contextmanager
def full(task):
    """Daemons came and went while the task's shim was stopped: it takes no connection any more."""
    waiting = []
    try:
        error = 0
        while not error:
            waiting.append(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK))
            error = waiting[-1].connect_ex(f"{task.bundle}/shim.sock")
        assert (error, len(waiting) > 64) == (errno.EAGAIN, True)
        yield
    finally:
        for connection in waiting:
            connection.close()


async def crashed(rig):
    """Another daemon, and nothing of this one, which is returned, on record from now on."""
    old = rig.tasks
    for task in rig.tasks.tasks():
        task.state.home.save = lambda record: None
        task.close()
    rig.published = Published()
    rig.tasks = rig.made()
    await rig.tasks.recover()
    return old


def test_one_that_takes_no_connection_is_adopted_when_it_goes_on():
    async def story(rig):
        task = await rig.run("one", "sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.01; done")
        await rig.run("two", "sleep", "1000")
        shim = task.state.shim.pid
        os.kill(shim, signal.SIGSTOP)
        try:
            with full(task):
                await rig.restarted()
                one, two = (rig.tasks.get(NAMESPACE, id) for id in ("one", "two"))
                assert (one.process().status, two.process().status) == (Status.RUNNING, Status.RUNNING)
                await two.exec("more", json_process("true"), Stdio())
                await two.start("more")
                assert (await asyncio.wait_for(two.wait("more"), 10)).status == 0
                with pytest.raises(errors.Unavailable, match="pause task one: its shim does not answer"):
                    await one.pause()
                with pytest.raises(errors.FailedPrecondition, match="is running"):
                    await rig.delete("one")
                await rig.end("two")
                await rig.restarted()
                one = rig.tasks.get(NAMESPACE, "one")
                await one.kill(15)
        finally:
            os.kill(shim, signal.SIGCONT)
        assert (await asyncio.wait_for(one.wait(), 10)).status == 7
        await until(lambda: one.state.shim is not None)
        assert one.state.shim.pid == shim
        await rig.delete("one")
        assert rig.published.topics() == ["/tasks/exit", "/tasks/delete"]

    lived(story)


def test_one_whose_connection_breaks_while_it_takes_no_other():
    async def story(rig):
        task = await rig.run("one", "sleep", "1000")
        shim = task.state.shim.pid
        os.kill(shim, signal.SIGSTOP)
        try:
            with full(task):
                task.state.shim._lost()
                await until(lambda: task.state.unreached)
                assert task.process().status is Status.RUNNING
        finally:
            os.kill(shim, signal.SIGCONT)
        await until(lambda: task.state.shim is not None)
        await task.pause()
        await task.resume()
        await rig.end("one")

    lived(story)


def test_one_that_takes_no_connection_and_dies_has_lost_its_task():
    async def story(rig):
        task = await rig.run("one", "sleep", "1000")
        shim = task.state.shim.pid
        os.kill(shim, signal.SIGSTOP)
        try:
            with full(task):
                await rig.restarted()
        finally:
            os.kill(shim, signal.SIGKILL)
        assert (await asyncio.wait_for(rig.tasks.get(NAMESPACE, "one").wait(), 10)).status == 137
        await rig.delete("one")

    lived(story)


def test_one_that_was_stopped_while_it_started_delays_nobody():
    async def story(rig):
        tasks = [await rig.create(f"c{number}", "sleep", "1000") for number in range(3)]
        await rig.run("two", "sleep", "1000")
        shims = [task.state.shim.pid for task in tasks]
        for shim in shims:
            os.kill(shim, signal.SIGSTOP)
        try:
            starting = [asyncio.ensure_future(task.start()) for task in tasks]
            await until(lambda: all(Bundle(task.bundle).load().init.phase == 2 for task in tasks))
            old = await crashed(rig)
            two = rig.tasks.get(NAMESPACE, "two")
            await two.pause()
            await two.resume()
            for task in tasks:
                found = rig.tasks.get(NAMESPACE, task.id)
                assert found.process().status is Status.CREATED
                with pytest.raises(errors.FailedPrecondition, match="it was started already"):
                    await found.start()
        finally:
            for shim in shims:
                os.kill(shim, signal.SIGCONT)
        done = await asyncio.gather(*starting, return_exceptions=True)
        assert all(isinstance(error, errors.Unavailable) for error in done)
        await until(lambda: all(task.process().status is Status.RUNNING for task in rig.tasks.tasks()))
        for id in ("c0", "c1", "c2", "two"):
            await rig.end(id)
        await old.close()

    lived(story)


def test_one_that_was_stopped_in_the_middle_of_a_creation_is_undone_in_its_own_time():
    async def story(rig):
        await rig.run("two", "sleep", "1000")
        task = await rig.create("one", "sleep", "1000")
        record, shim = Bundle(task.bundle).load(), task.state.shim.pid
        os.kill(shim, signal.SIGSTOP)
        try:
            task.state.home.save(msgspec.structs.replace(record, created=False))
            old = await crashed(rig)
            await rig.end("two")
            making = asyncio.ensure_future(rig.run("one", "sleep", "1000"))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(making), 0.5)
        finally:
            os.kill(shim, signal.SIGCONT)
        again = await asyncio.wait_for(making, 30)
        assert again.state.shim.pid != shim
        await rig.end("one")
        await old.close()

    lived(story)
