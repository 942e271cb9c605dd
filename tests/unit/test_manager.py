"""What a service manager is told, at a real datagram socket, and what is taken from one."""

import asyncio
import logging
import os
import socket
import subprocess
import sys

import pytest

from daemon.manager import Manager
from spec import errors

TAKE = """
import os, sys
from daemon.manager import Manager
from spec import errors
os.environ["LISTEN_PID"] = str(os.getpid())
try:
    taken = Manager.of(os.environ).sockets
    print([(sock.getsockname(), os.get_inheritable(sock.fileno()), sock.getblocking()) for sock in taken])
    for sock in taken:
        sock.close()
except errors.Error as exc:
    print(type(exc).__name__, exc.message)
"""


@pytest.fixture(params=["path", "abstract"])
def told(request, tmp_path):
    """The manager's socket: its address for NOTIFY_SOCKET, and a function that waits for what is told next."""
    address = str(tmp_path / "notify") if request.param == "path" else f"@holdd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.bind(address.replace("@", "\0"))
        yield address, lambda: sock.recv(4096).decode()


def test_states(told):
    address, next_told = told
    environ = {"NOTIFY_SOCKET": address, "PATH": "/bin"}
    manager = Manager.of(environ)
    assert environ == {"PATH": "/bin"}
    manager.ready()
    assert next_told() == "READY=1"
    with manager.reloading():
        first, second = next_told().split("\n")
        assert (first, second.partition("=")[0]) == ("RELOADING=1", "MONOTONIC_USEC")
    assert next_told() == "READY=1"
    manager.stopping()
    assert next_told() == "STOPPING=1"


def test_a_watchdog_is_told_again_and_again(told):
    address, next_told = told
    manager = Manager.of({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "20000", "WATCHDOG_PID": str(os.getpid())})

    async def some():
        beating = asyncio.create_task(manager.beat())
        for _ in range(3):
            assert await asyncio.to_thread(next_told) == "WATCHDOG=1"
        beating.cancel()

    asyncio.run(some())


@pytest.mark.parametrize("variables", [{}, {"WATCHDOG_USEC": "20000", "WATCHDOG_PID": "1"}])
def test_no_watchdog_of_ours(told, variables):
    asyncio.run(Manager.of({"NOTIFY_SOCKET": told[0], **variables}).beat())


def test_under_no_manager():
    manager = Manager.of({})
    manager.ready()
    with manager.reloading():
        manager.stopping()
    assert not manager.sockets


def test_a_manager_that_is_gone_is_a_warning(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        Manager(str(tmp_path / "gone")).ready()
    assert "READY=1: [Errno 2] No such file or directory" in caplog.text


def test_variables_that_are_for_another_process():
    environ = {"LISTEN_FDS": "1", "LISTEN_PID": "1", "LISTEN_FDNAMES": "a"}
    assert not Manager.of(environ).sockets
    assert not environ


@pytest.mark.parametrize("name", ["LISTEN_FDS", "LISTEN_PID", "WATCHDOG_USEC"])
@pytest.mark.parametrize("value", ["x", "-1", "1.5"])
def test_variables_that_make_no_sense(name, value):
    environ = {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid()), "WATCHDOG_USEC": "1", name: value}
    with pytest.raises(errors.InvalidArgument, match=f"{name}={value}"):
        Manager.of(environ)


def taken(*socks):
    """What a process takes that is started with `socks` as its descriptors 3, 4, ..."""
    moves = " ".join(f"{number}<&{sock.fileno()}" for number, sock in enumerate(socks, 3))
    argv = ["bash", "-c", f'exec "$0" -c "$1" {moves}', sys.executable, TAKE]
    fds = [sock.fileno() for sock in socks]
    env = os.environ | {"LISTEN_FDS": str(len(socks))}
    return subprocess.run(argv, pass_fds=fds, env=env, capture_output=True, text=True, check=True).stdout.strip()


def test_sockets_are_taken(tmp_path):
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as two:
        for name, sock in (("one", one), ("two", two)):
            sock.bind(str(tmp_path / name))
            sock.listen()
        assert taken(one, two) == str([(str(tmp_path / name), False, False) for name in ("one", "two")])


def test_what_is_no_socket_to_serve_on(tmp_path):
    says = "InvalidArgument descriptor 3 from the service manager is not a unix stream socket that listens"
    with socket.socket(socket.AF_UNIX) as silent, socket.create_server(("127.0.0.1", 0)) as internet:
        assert taken(silent) == taken(internet) == says
    with open(tmp_path / "file", "w") as file:
        assert "taking over descriptor 3" in taken(file)
