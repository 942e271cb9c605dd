"""Containers outlive the binary that started them, and are taken over by another build of it."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spec.api import tasks
from spec.api.version import VersionRequest
from spec.records import Status
from spec.version import VERSION
from tests.bench import containerd
from tests.containers import busybox, ended, started
from tests.daemon import Daemon
from tests.frozen.test_binaries import BUILD

OLDER = "0.0.9"


@pytest.fixture(scope="module")
def older(tmp_path_factory):
    """A daemon of another version."""
    directory = tmp_path_factory.mktemp("older")
    subprocess.run(
        [sys.executable, BUILD, "--dist", directory, "holdd"], cwd=BUILD.parents[2], check=True,
        env=os.environ | {"HOLDD_VERSION": OLDER}, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return directory


def version(client):
    return client.version.version(VersionRequest()).version


def test_another_build_takes_over(dist, older, tmp_path):
    """Started by A, which is then gone from the disk; adopted, told of and ended by B."""
    one = Daemon(tmp_path, binaries=older)
    one.start()
    with one.client() as client:
        assert version(client) == OLDER
        rootfs = busybox(tmp_path)
        lives = started(client, "lives", rootfs, "/bin/sleep", "1000")
        until_told = "while [ ! -e /tmp/go ]; do sleep 0.01; done; exit 42"
        brief = started(client, "brief", rootfs, "/bin/sh", "-c", until_told)
    one.stop()
    shutil.rmtree(older)
    (tmp_path / "rootfs/tmp/go").touch()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{brief}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with Daemon(tmp_path, binaries=dist) as two, two.client() as client:
        assert version(client) == VERSION
        found = {process.container_id: process for process in client.tasks.list(tasks.ListRequest()).tasks}
        assert (found["lives"].status, found["lives"].pid) == (Status.RUNNING, lives)
        assert (found["brief"].status, found["brief"].exit_status) == (Status.STOPPED, 42)
        client.tasks.pause(tasks.PauseRequest(container_id="lives"))
        client.tasks.resume(tasks.ResumeRequest(container_id="lives"))
        client.tasks.kill(tasks.KillRequest(container_id="lives", signal=signal.SIGKILL))
        assert ended(client, "lives") == 128 + signal.SIGKILL
        assert ended(client, "brief") == 42


def test_the_nursery_comes_back_though_the_binary_is_gone(dist, tmp_path):
    """It is started anew from the daemon's own image, whatever is at its path by now."""
    binaries = tmp_path / "bin"
    shutil.copytree(dist, binaries, ignore=lambda _, names: [name for name in names if name not in ("holdd", "ctr")])
    with Daemon(tmp_path, binaries=binaries) as daemon, daemon.client() as client:
        (binaries / "holdd").unlink()
        (binaries / "holdd").write_text("#!/bin/false\n")
        (nursery,) = children(daemon.process.pid)
        os.kill(nursery, signal.SIGKILL)
        started(client, "c", busybox(tmp_path), "/bin/sleep", "1000")
        assert children(daemon.process.pid) != [nursery]
        client.tasks.kill(tasks.KillRequest(container_id="c", signal=signal.SIGKILL))
        assert ended(client, "c") == 128 + signal.SIGKILL
        shutil.copy(dist / "holdd", binaries)


def children(pid):
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_shim_runs_the_program_it_came_from_and_opens_nothing(dist, tmp_path):
    """No file of the daemon's is held open by what it forked."""
    with Daemon(tmp_path, binaries=dist) as daemon, daemon.client() as client:
        pid = started(client, "c", busybox(tmp_path), "/bin/sleep", "1000")
        shim = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        maps = Path(f"/proc/{shim}/maps").read_text().splitlines()
        assert {line.split(maxsplit=5)[5] for line in maps if "/" in line} == {str(dist / "holdd")}
        held = [os.readlink(f"/proc/{shim}/fd/{fd}") for fd in os.listdir(f"/proc/{shim}/fd")]
        assert not [path for path in held if path.startswith(str(daemon.root))]
        assert not [path for path in held if "memfd" in path or "deleted" in path]
        client.tasks.kill(tasks.KillRequest(container_id="c", signal=signal.SIGKILL))
        ended(client, "c")


def test_beside_containerd(dist, tmp_path):
    """Both run a container of one name at the same time, and neither sees the other's."""
    (tmp_path / "peer").mkdir()
    with containerd.running(tmp_path / "peer") as peer, Daemon(tmp_path, binaries=dist) as daemon:
        theirs = ["ctr", "--address", peer.address]
        layout = tmp_path / "rootfs"
        busybox(tmp_path)
        subprocess.run([*theirs, "run", "-d", "--rootfs", layout, "same", "/bin/sleep", "1000"], check=True)
        try:
            with daemon.client() as client:
                started(client, "same", busybox(tmp_path), "/bin/sleep", "1000")
                listed = [process.container_id for process in client.tasks.list(tasks.ListRequest()).tasks]
                assert listed == ["same"]
                client.tasks.kill(tasks.KillRequest(container_id="same", signal=signal.SIGKILL))
                assert ended(client, "same") == 128 + signal.SIGKILL
            said = subprocess.run([*theirs, "tasks", "ls"], check=True, capture_output=True, text=True).stdout
            assert "RUNNING" in said
        finally:
            subprocess.run([*theirs, "tasks", "rm", "--force", "same"], check=False, capture_output=True)
            subprocess.run([*theirs, "containers", "rm", "same"], check=False, capture_output=True)
