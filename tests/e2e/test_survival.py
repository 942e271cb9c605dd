"""What runs outlives the daemon, however it dies, and no exit is lost."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from spec import errors
from spec.api import containers, tasks
from spec.records import Status
from tests.containers import busybox, ended, started
from tests.daemon import BIN, Daemon

MANY = 20


def kill_and_wait(client, id):
    client.tasks.kill(tasks.KillRequest(container_id=id, signal=signal.SIGKILL))
    return ended(client, id)


def test_twenty_containers_live_through_kill_minus_nine(daemon, tmp_path):
    rootfs = busybox(tmp_path)
    with daemon.client() as client:
        pids = {f"c{n}": started(client, f"c{n}", rootfs, "/bin/sleep", "1000") for n in range(MANY)}
        until_told = "while [ ! -e /tmp/go ]; do sleep 0.01; done; exit 42"
        brief = started(client, "brief", rootfs, "/bin/sh", "-c", until_told)
    daemon.kill()
    (tmp_path / "rootfs/tmp/go").touch()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{brief}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    daemon.start()
    with daemon.client() as client:
        found = {process.container_id: process for process in client.tasks.list(tasks.ListRequest()).tasks}
        assert found["brief"].status == Status.STOPPED
        assert found["brief"].exit_status == 42
        for id, pid in pids.items():
            assert (found[id].status, found[id].pid) == (Status.RUNNING, pid)
            processes = client.tasks.list_pids(tasks.ListPidsRequest(container_id=id)).processes
            assert pid in [process.pid for process in processes]
        assert ended(client, "brief") == 42
        for id in pids:
            assert kill_and_wait(client, id) == 128 + signal.SIGKILL


def test_a_second_restart_changes_nothing(daemon, tmp_path):
    with daemon.client() as client:
        pid = started(client, "c", busybox(tmp_path), "/bin/sleep", "1000")
    for _ in range(2):
        daemon.kill()
        daemon.start()
        with daemon.client() as client:
            process = client.tasks.get(tasks.GetRequest(container_id="c"))
            assert (process.pid, process.status) == (pid, Status.RUNNING)
    with daemon.client() as client:
        assert kill_and_wait(client, "c") == 137


def test_a_clean_stop_leaves_containers_running(daemon, tmp_path):
    with daemon.client() as client:
        pid = started(client, "c", busybox(tmp_path), "/bin/sleep", "1000")
    daemon.stop()
    os.kill(pid, 0)
    daemon.start()
    with daemon.client() as client:
        assert kill_and_wait(client, "c") == 137


def test_the_root_filesystem_is_not_to_be_seen_on_the_host(daemon, tmp_path):
    with daemon.client() as client:
        started(client, "c", busybox(tmp_path), "/bin/sleep", "1000")
        mounts = Path("/proc/self/mounts").read_text()
        assert "rootfs" not in "".join(line for line in mounts.splitlines() if str(daemon.state) in line)
        kill_and_wait(client, "c")


def test_a_shim_killed_is_an_exit_and_the_task_can_be_deleted(daemon, tmp_path):
    with daemon.client() as client:
        pid = started(client, "c", busybox(tmp_path), "/bin/sleep", "1000")
        shim = int(_stat(pid)[1])
        assert Path(f"/proc/{shim}/comm").read_text().strip() == "holdd-shim"
        os.kill(shim, signal.SIGKILL)
        assert ended(client, "c") == 137
        assert not Path(f"/proc/{pid}").exists() or _stat(pid)[0] == "Z"


def _stat(pid):
    """Fields of /proc/PID/stat from the third (state, parent, ...) on (proc_pid_stat(5))."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def test_two_daemons_side_by_side(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    with Daemon(tmp_path / "a") as one, Daemon(tmp_path / "b") as two, one.client() as left, two.client() as right:
        started(left, "same", busybox(tmp_path / "a"), "/bin/sleep", "1000")
        with pytest.raises(errors.NotFound):
            right.tasks.get(tasks.GetRequest(container_id="same"))
        started(right, "same", busybox(tmp_path / "b"), "/bin/sh", "-c", "exit 3")
        assert ended(right, "same") == 3
        assert left.tasks.get(tasks.GetRequest(container_id="same")).status == Status.RUNNING
        assert kill_and_wait(left, "same") == 137
        assert not left.containers.list(containers.ListRequest()).containers


def test_a_second_daemon_on_the_same_root_is_refused(daemon, tmp_path):
    argv = [BIN / "holdd", "--root", daemon.root, "--state", tmp_path / "other", "--config", daemon.config]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "another daemon has it" in done.stderr
    assert not os.path.ismount(tmp_path / "other")
    assert daemon.answers()
