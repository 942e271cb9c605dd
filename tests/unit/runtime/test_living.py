"""Signals reach the process that is meant, and no other."""

import asyncio
import os
import signal
import subprocess

import pytest

from daemon.runtime import living


@pytest.fixture
def sleeper():
    with subprocess.Popen(["/bin/sleep", "1000"]) as process:
        yield process
        process.kill()


def test_starting_times():
    assert living.started_ticks(os.getpid()) > 0
    assert living.started_ticks(os.getpid()) == living.started_ticks(os.getpid())
    assert living.started_ticks(2**22 + 1) == 0
    assert len(living.boot_id()) == 36


def test_arguments(sleeper):
    while not (found := living.arguments(sleeper.pid)):  # until the kernel has put them there
        assert sleeper.poll() is None
    assert found == ["/bin/sleep", "1000"]
    assert living.arguments(2**22 + 1) == []


def test_parents(sleeper):
    assert living.parent(sleeper.pid) == os.getpid()
    sleeper.kill()
    asyncio.run(living.end(sleeper.pid, living.started_ticks(sleeper.pid), 10))
    assert living.parent(sleeper.pid) == os.getpid()  # a zombie has one, too
    sleeper.wait(10)
    assert [living.parent(pid) for pid in (sleeper.pid, 2**22 + 1, 0, -1, 10**30)] == [0] * 5


def test_a_signal(sleeper):
    ticks = living.started_ticks(sleeper.pid)
    assert living.alive(sleeper.pid, ticks)
    assert living.send(sleeper.pid, ticks, signal.SIGTERM)
    assert sleeper.wait(10) == -signal.SIGTERM
    assert not living.send(sleeper.pid, ticks, signal.SIGTERM)
    assert not living.alive(sleeper.pid, ticks)


def test_another_process_of_the_same_pid_is_left_alone(sleeper):
    ticks = living.started_ticks(sleeper.pid)
    assert not living.alive(sleeper.pid, ticks - 1)
    assert not living.send(sleeper.pid, ticks - 1, signal.SIGKILL)
    asyncio.run(living.end(sleeper.pid, ticks - 1, 10))
    assert sleeper.poll() is None


def test_a_signal_that_is_none(sleeper):
    with pytest.raises(OSError, match="Invalid"):
        living.send(sleeper.pid, living.started_ticks(sleeper.pid), 1000)


def test_the_end_is_awaited(sleeper):
    asyncio.run(living.end(sleeper.pid, living.started_ticks(sleeper.pid), 10))
    assert sleeper.wait(0) == -signal.SIGKILL
    asyncio.run(living.end(sleeper.pid, 1, 10))


def test_descendants_end():
    shell = ["/bin/sh", "-c", "/bin/sleep 1000 & (/bin/sleep 1000; true) & echo; wait"]
    with subprocess.Popen(shell, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        while len(living.descendants(process.pid)) < 3:
            assert process.poll() is None
        asyncio.run(living.end_descendants(process.pid, 10))
        assert process.wait(10) == 0
