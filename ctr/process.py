"""A process of a container and ctr's part in it: its streams, its terminal, its signals, its exit code."""

import argparse
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence

from ctr import console
from daemon.client.client import Client
from spec import errors
from spec.api import tasks
from spec.oci import runtime
from spec.records import Container
from spec.types import Stdio

FORWARDED = (
    signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT,
)  # fmt: skip
LEAVING = (signal.SIGHUP, signal.SIGTERM)  # what ends one who only watches; a raw terminal sends no SIGINT


def register(parser: argparse.ArgumentParser) -> None:
    """Flags that say where a process's streams go."""
    parser.add_argument("--null-io", action="store_true", help="all streams to /dev/null")
    uris = "file:///PATH or binary:///LOGGER?KEY=VALUE for standard output and error"
    parser.add_argument("--log-uri", default="", metavar="URI", help=uris)
    parser.add_argument("--detach", "-d", action="store_true", help="do not wait for it")
    register_keys(parser)


def register_keys(parser: argparse.ArgumentParser, default: str = "") -> None:
    """What is typed to leave its terminal and let it run. Without a default nothing typed is withheld."""
    parser.add_argument("--detach-keys", default=default, metavar="KEYS", help="as ctrl-p,ctrl-q: leave its terminal")


class Left(Exception):
    """Its terminal was left, by the keys for that: it runs on."""


def has_terminal(record: Container) -> bool:
    """Whether a container's own process shall have one: its spec says so."""
    spec = runtime.decode(record.spec)
    return spec.process is not None and spec.process.terminal


def streams(args: argparse.Namespace, terminal: bool) -> tuple[Stdio, Sequence[int]]:
    """Where they go, and the descriptors to hand over: ours, unless there is a reason against it."""
    if terminal:
        return Stdio(terminal=True), ()
    if args.log_uri:
        return Stdio(stdout=args.log_uri, stderr=args.log_uri), ()
    if args.null_io or args.detach:
        return Stdio(), ()
    return Stdio(stdin="fd://0", stdout="fd://1", stderr="fd://2"), (0, 1, 2)


def follow(client: Client, id: str, exec_id: str, terminal: bool, keys: str = "") -> int:
    """Start the process, see it through, and return its exit code; or Left. Signals to ctr go to the process."""
    leave = console.Leave(console.keys(keys))
    with _Forwarding(client, id, exec_id) as forwarding:
        if not terminal:
            forwarding.start()
            return wait(client, id, exec_id)
        if exec_id:  # an exec's terminal is there once it runs
            forwarding.start()
            return _joined(client, id, exec_id, leave)
        return _joined(client, id, exec_id, leave, forwarding)


def launch(args: argparse.Namespace, client: Client, pid: int, terminal: bool) -> int:
    """Start the task that was created, note its pid, and unless detached see it through and delete it; its exit code,
    or Left. A task that does not come so far is taken back."""
    with contextlib.ExitStack() as undo:
        undo.callback(abandon, client, args.id)
        if args.pid_file:
            with open(args.pid_file, "w") as file:
                file.write(str(pid))
        code = 0
        if args.detach:
            client.tasks.start(tasks.StartRequest(container_id=args.id))
        else:
            try:
                code = follow(client, args.id, "", terminal, args.detach_keys)
            except Left:
                undo.pop_all()
                raise
            client.tasks.delete(tasks.DeleteRequest(container_id=args.id))
        undo.pop_all()
    return code


def attach(client: Client, id: str, exec_id: str, keys: str) -> int:
    """Join our terminal to that of a process which runs, until it ends; its exit code, or Left."""
    leave = console.Leave(console.keys(keys))
    with _leaving():
        return _joined(client, id, exec_id, leave)


def wait(client: Client, id: str, exec_id: str = "") -> int:
    return client.tasks.wait(tasks.WaitRequest(container_id=id, exec_id=exec_id)).exit_status


def abandon(client: Client, id: str) -> None:
    """Take back a task that did not come to run, or was not seen through."""
    with contextlib.suppress(errors.Error):
        client.tasks.kill(tasks.KillRequest(container_id=id, signal=signal.SIGKILL))
        client.tasks.wait(tasks.WaitRequest(container_id=id))
    with contextlib.suppress(errors.NotFound):
        client.tasks.delete(tasks.DeleteRequest(container_id=id))


class _Forwarding:
    """Signals to ctr go to the process while the block runs; those that come before it was started, once it is."""

    def __init__(self, client: Client, id: str, exec_id: str) -> None:
        self._client = client
        self._id = id
        self._exec_id = exec_id
        self._started = False
        self._early: list[int] = []

    def start(self) -> None:
        self._client.tasks.start(tasks.StartRequest(container_id=self._id, exec_id=self._exec_id))
        self._started = True
        while self._early:
            self._send(self._early.pop(0))

    def _take(self, number: int, _: object) -> None:
        if self._started:
            self._send(number)
        else:
            self._early.append(number)

    def _send(self, number: int) -> None:
        request = tasks.KillRequest(container_id=self._id, exec_id=self._exec_id, signal=number)
        with contextlib.suppress(errors.Error):  # it may have ended
            self._client.tasks.kill(request)

    def __enter__(self) -> "_Forwarding":
        self._before = {number: signal.signal(number, self._take) for number in FORWARDED}
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _leaving() -> Iterator[None]:
    """What asks ctr to end does so in order, so that the terminal is as it was."""

    def leave(number: int, _: object) -> None:
        sys.exit(128 + number)

    before = {number: signal.signal(number, leave) for number in LEAVING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _joined(
    client: Client, id: str, exec_id: str, leave: console.Leave, start: _Forwarding | None = None
) -> int:
    """Join our terminal to the process's, then start it if so asked; its exit code."""

    def resize(width: int, height: int) -> None:
        request = tasks.ResizePtyRequest(container_id=id, exec_id=exec_id, width=width, height=height)
        with contextlib.suppress(errors.Error):
            client.tasks.resize_pty(request)

    _, fds = client.tasks.attach(tasks.AttachRequest(container_id=id, exec_id=exec_id))
    master = fds[0]
    try:
        with console.raw(0), console.resizing(0, resize):
            if start is not None:
                start.start()
            exit = _Exit(client, id, exec_id)
            try:
                if console.pump(master, exit.fd, leave):
                    raise Left
                return exit.code()
            finally:
                exit.close()
    finally:
        os.close(master)


class _Exit:
    """Waits for a process in a thread; `fd` is readable once the wait is over."""

    def __init__(self, client: Client, id: str, exec_id: str) -> None:
        self.fd, self._ending = os.pipe()
        self._code = 0
        self._error: errors.Error | None = None
        # A daemon thread: whoever leaves before the process ends does not wait for it.
        self._thread = threading.Thread(target=self._wait, args=(client, id, exec_id), daemon=True)
        self._thread.start()

    def code(self) -> int:
        """Waits. The error, if waiting failed."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._code

    def close(self) -> None:
        os.close(self.fd)

    def _wait(self, client: Client, id: str, exec_id: str) -> None:
        try:
            self._code = wait(client, id, exec_id)
        except errors.Error as exc:
            self._error = exc
        finally:
            os.close(self._ending)
