"""Containers go from a daemon to one of another version of the shim's protocol, up and down.

The older daemon is this one made to speak version 1 alone, or what HOLDD_TEST_OLDER has: a directory with the holdd and
the ctr of an older release.
"""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from spec.api import tasks
from spec.records import Status
from tests.containers import busybox, ended, started
from tests.daemon import BIN, Daemon

SPEAKS = """#!{python}
import sys
from daemon import __main__
from daemon.runtime import nursery, shim
shim.OLDEST, shim.VERSION = {versions}
if shim.VERSION == 1:
    shim.Shim._greet = lambda self: None
made = nursery.Nursery.__init__
def init(self, *args):
    made(self, *args)
    self.speaks = {versions}
nursery.Nursery.__init__ = init
sys.exit(__main__.main())
"""
TELLS = ("/bin/sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.01; done")


@pytest.fixture
def older(tmp_path):
    """A directory of binaries."""
    if given := os.environ.get("HOLDD_TEST_OLDER"):
        return Path(given).absolute()
    return that_speaks(1, 1, tmp_path / "older")


def that_speaks(oldest, newest, directory):
    directory.mkdir()
    (directory / "holdd").write_text(SPEAKS.format(python=sys.executable, versions=(oldest, newest)))
    (directory / "holdd").chmod(0o755)
    (directory / "ctr").symlink_to(Path(sys.executable).parent / "ctr")
    return directory


def shim_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def gone(pids):
    """Init reaps them when it comes to it."""
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("path", ["up", "down", "up and down"])
def test_containers_go_to_a_daemon_of_another_version(older, tmp_path, path):
    ways = {"up": (older, BIN), "down": (BIN, older), "up and down": (older, BIN, older)}[path]
    rootfs = busybox(tmp_path)
    daemon = Daemon(tmp_path, binaries=ways[0])
    daemon.start()
    with daemon.client() as client:
        pids = {id: started(client, id, rootfs, *TELLS) for id in ("told", "killed", "frozen")}
        shims = [shim_of(pid) for pid in pids.values()]
        client.tasks.pause(tasks.PauseRequest(container_id="frozen"))
    for binaries in ways[1:]:
        daemon.stop()
        daemon.binaries = binaries
        daemon.start()
    try:
        with daemon.client() as client:
            found = {process.container_id: process for process in client.tasks.list(tasks.ListRequest()).tasks}
            assert {id: process.pid for id, process in found.items()} == pids
            assert [found[id].status for id in pids] == [Status.RUNNING, Status.RUNNING, Status.PAUSED]
            assert daemon.ctr("tasks", "exec", "--exec-id", "x", "told", "/bin/echo", "hello").stdout == "hello\n"
            done = daemon.ctr("tasks", "exec", "--exec-id", "y", "killed", "/bin/sh", "-c", "exit 5", check=False)
            assert done.returncode == 5
            client.tasks.resume(tasks.ResumeRequest(container_id="frozen"))
            client.tasks.kill(tasks.KillRequest(container_id="told", signal=signal.SIGTERM))
            assert ended(client, "told") == 7
            client.tasks.kill(tasks.KillRequest(container_id="killed", signal=signal.SIGKILL, all=True))
            assert ended(client, "killed") == 137
            daemon.stop()
            os.kill(pids["frozen"], signal.SIGKILL)
            daemon.start()
            assert daemon.ctr("tasks", "wait", "frozen", check=False).returncode == 137
        with daemon.client() as client:
            assert ended(client, "frozen") == 137
        gone(shims)
        assert not list(daemon.state.glob("tasks/default/*"))
        assert not list(daemon.state.glob("runc/default/*"))
    finally:
        daemon.__exit__()


def test_a_daemon_that_speaks_no_version_of_a_shim_says_so_and_can_end_its_container(tmp_path):
    daemon = Daemon(tmp_path)
    daemon.start()
    with daemon.client() as client:
        pid = started(client, "c", busybox(tmp_path), *TELLS)
        shim = shim_of(pid)
    daemon.stop()
    daemon.binaries = that_speaks(5, 9, tmp_path / "later")
    daemon.start()
    try:
        daemon.says("/tasks/default/c speaks versions 1 to 2 of its protocol, and this holdd versions 5 to 9")
        assert daemon.ctr("tasks", "ls").stdout.splitlines()[1].split() == ["c", str(pid), "UNKNOWN"]
        done = daemon.ctr("tasks", "exec", "--exec-id", "x", "c", "/bin/true", check=False)
        assert done.returncode == 1
        assert "/tasks/default/c speaks versions 1 to 2" in done.stderr
        assert "kill and delete the task" in done.stderr
        assert daemon.ctr("containers", "rm", "c", check=False).returncode == 1
        daemon.ctr("tasks", "kill", "c")
        assert daemon.ctr("tasks", "wait", "c", check=False).returncode == 7
        daemon.ctr("tasks", "rm", "c", check=False)
        daemon.ctr("containers", "rm", "c")
        gone([pid, shim])
        assert not list(daemon.state.glob("tasks/default/*"))
        assert not list(daemon.state.glob("runc/default/*"))
    finally:
        daemon.__exit__()
