"""The daemon under a service manager: what it tells, and sockets that it is handed."""

import os
import shutil
import signal
import socket
from pathlib import Path

import pytest

from tests.containers import busybox, started
from tests.daemon import Daemon


def told(sock):
    return sock.recv(4096).decode().split("\n")[0]


def after_beats(sock):
    """The next that is no beat."""
    while (state := told(sock)) == "WATCHDOG=1":
        pass
    return state


@pytest.fixture
def manager(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(30)
        sock.bind(str(tmp_path / "notify"))
        yield sock


def test_ready_beats_reload_and_stop(tmp_path, manager):
    daemon = Daemon(tmp_path)
    env = os.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "100000"}
    daemon.start(env=env)
    try:
        assert told(manager) == "READY=1"
        assert told(manager) == told(manager) == "WATCHDOG=1"
        with daemon.client() as client:
            pid = started(client, "c", busybox(tmp_path), "/bin/sleep", "1000")
        assert b"NOTIFY_SOCKET" not in Path(f"/proc/{pid}/environ").read_bytes()
        for text in ("", "rot = 1\n"):  # a mistake too is the end of reloading
            daemon.config.write_text(text)
            daemon.process.send_signal(signal.SIGHUP)
            assert [after_beats(manager), after_beats(manager)] == ["RELOADING=1", "READY=1"]
        daemon.config.write_text("")
        daemon.stop()
        assert after_beats(manager) == "STOPPING=1"
    finally:
        daemon.__exit__()


def test_a_socket_of_systemd_s(tmp_path):
    """systemd listens; the first call starts the daemon; the socket is there after it, and serves the next one."""
    activate = shutil.which("systemd-socket-activate")
    assert activate, "systemd is not installed"
    daemon = Daemon(tmp_path)
    daemon.state.mkdir()
    under = (activate, "-l", daemon.address)
    daemon.start(under)
    try:
        daemon.says(f"serving at {daemon.address}")
        assert daemon.ctr("version").stdout
        inode = os.stat(daemon.address).st_ino
        with daemon.client() as client:
            pid = started(client, "c", busybox(tmp_path), "/bin/sleep", "1000")
        assert b"LISTEN_" not in Path(f"/proc/{pid}/environ").read_bytes()
        daemon.stop()
        assert daemon.process.returncode == 0
        assert os.stat(daemon.address).st_ino == inode
        os.unlink(daemon.address)
        daemon.start(under)
        assert daemon.ctr("tasks", "ls", "-q").stdout == "c\n"
    finally:
        daemon.__exit__()
