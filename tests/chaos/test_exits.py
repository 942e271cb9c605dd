"""A short tests.chaos.exits, and what a stopped shim may not do to others."""

import os
import signal
import threading

import pytest

from spec.api import containers, tasks
from spec.records import Status
from tests.chaos import exits
from tests.containers import busybox, container, ended, started
from tests.daemon import Daemon

pytestmark = pytest.mark.e2e


@pytest.fixture
def daemon(tmp_path):
    with Daemon(tmp_path) as daemon:
        yield daemon


def test_every_exit_is_told_once_whenever_the_daemon_is_killed(tmp_path):
    done = exits.chaos(tmp_path, 120, seed=11, workers=6, pause_s=(0.3, 2.0))
    assert done["kills of the daemon"] > 3
    assert done["exits, each told once"] >= 120


def test_a_stopped_shim_delays_no_other(daemon, tmp_path):
    rootfs = busybox(tmp_path)
    with daemon.client() as client, daemon.client() as other:
        pid = started(client, "stopped", rootfs, "/bin/sleep", "1000")
        shim = exits.parent(pid)
        calls = [
            lambda: client.tasks.pause(tasks.PauseRequest(container_id="stopped")),
            lambda: client.tasks.wait(tasks.WaitRequest(container_id="stopped")),
        ]
        waiting = [threading.Thread(target=call) for call in calls]
        os.kill(shim, signal.SIGSTOP)
        try:
            for thread in waiting:
                thread.start()
            for number in range(3):
                started(other, f"c{number}", rootfs, "/bin/sh", "-c", f"exit {number}")
                assert ended(other, f"c{number}") == number
            assert len(other.tasks.list(tasks.ListRequest()).tasks) == 1
            assert all(thread.is_alive() for thread in waiting)
        finally:
            os.kill(shim, signal.SIGCONT)
        waiting[0].join()
        assert other.tasks.get(tasks.GetRequest(container_id="stopped")).status == Status.PAUSED
        other.tasks.kill(tasks.KillRequest(container_id="stopped", signal=signal.SIGKILL))
        assert ended(other, "stopped") == 137
        waiting[1].join()


def test_a_start_waits_for_no_stopped_shim(daemon, tmp_path):
    rootfs = busybox(tmp_path)
    with daemon.client() as client:
        pid = started(client, "stopped", rootfs, "/bin/sleep", "1000")
    shim = exits.parent(pid)
    os.kill(shim, signal.SIGSTOP)
    try:
        daemon.kill()
        os.kill(pid, signal.SIGKILL)
        daemon.start()
        with daemon.client() as client:
            assert client.tasks.get(tasks.GetRequest(container_id="stopped")).status == Status.RUNNING
            started(client, "other", rootfs, "/bin/sh", "-c", "exit 3")
            assert ended(client, "other") == 3
    finally:
        os.kill(shim, signal.SIGCONT)
    with daemon.client() as client:
        assert ended(client, "stopped") == 137


def test_a_shim_killed_before_the_start(daemon, tmp_path):
    rootfs = busybox(tmp_path)
    with daemon.client() as client:
        container(client, "c", "/bin/sleep", "1000")
        client.tasks.create(tasks.CreateRequest(container_id="c", rootfs=(rootfs,)))
        pid = client.tasks.get(tasks.GetRequest(container_id="c")).pid
        os.kill(exits.parent(pid), signal.SIGKILL)
        assert client.tasks.wait(tasks.WaitRequest(container_id="c")).exit_status == 137
        client.tasks.delete(tasks.DeleteRequest(container_id="c"))
        client.containers.delete(containers.DeleteRequest(id="c"))
        started(client, "c", rootfs, "/bin/sh", "-c", "exit 4")
        assert ended(client, "c") == 4
