"""A process of a container and ctr's part in it: its streams, its terminal, its signals, its exit code."""

import argparse
import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Sequence

from ctr import console
from daemon.client.client import Client
from spec import errors
from spec.api import tasks
from spec.types import Stdio

FORWARDED = (
    signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT,
)  # fmt: skip


def register(parser: argparse.ArgumentParser) -> None:
    """Flags that say where a process's streams go."""
    parser.add_argument("--null-io", action="store_true", help="all streams to /dev/null")
    parser.add_argument("--log-uri", default="", metavar="URI", help="file:///PATH for standard output and error")
    parser.add_argument("--detach", "-d", action="store_true", help="do not wait for it")


def streams(args: argparse.Namespace, terminal: bool) -> tuple[Stdio, Sequence[int]]:
    """Where they go, and the descriptors to hand over: ours, unless there is a reason against it."""
    if terminal:
        return Stdio(terminal=True), ()
    if args.log_uri:
        return Stdio(stdout=args.log_uri, stderr=args.log_uri), ()
    if args.null_io or args.detach:
        return Stdio(), ()
    return Stdio(stdin="fd://0", stdout="fd://1", stderr="fd://2"), (0, 1, 2)


def follow(client: Client, id: str, exec_id: str, terminal: bool) -> int:
    """Start the process, see it through, and return its exit code."""
    if not terminal:
        with _forwarding(client, id, exec_id):
            client.tasks.start(tasks.StartRequest(container_id=id, exec_id=exec_id))
            return wait(client, id, exec_id)
    if exec_id:  # an exec's terminal is there once it runs
        client.tasks.start(tasks.StartRequest(container_id=id, exec_id=exec_id))
    return joined(client, id, exec_id, start=not exec_id)


def joined(client: Client, id: str, exec_id: str, start: bool) -> int:
    """Join our terminal to the process's, start it if so asked, and return its exit code."""
    _, fds = client.tasks.attach(tasks.AttachRequest(container_id=id, exec_id=exec_id))
    master = fds[0]
    ended, ending = os.pipe()
    status: list[int] = []

    def watch() -> None:
        with contextlib.suppress(errors.Error):
            status.append(wait(client, id, exec_id))
        os.close(ending)

    def resize(width: int, height: int) -> None:
        request = tasks.ResizePtyRequest(container_id=id, exec_id=exec_id, width=width, height=height)
        with contextlib.suppress(errors.Error):
            client.tasks.resize_pty(request)

    try:
        with console.raw(0), console.resizing(resize):
            if start:
                client.tasks.start(tasks.StartRequest(container_id=id, exec_id=exec_id))
            waiter = threading.Thread(target=watch)
            waiter.start()
            console.pump(master, ended)
            waiter.join()
    finally:
        os.close(master)
        os.close(ended)
    return status[0] if status else 255


def wait(client: Client, id: str, exec_id: str = "") -> int:
    return client.tasks.wait(tasks.WaitRequest(container_id=id, exec_id=exec_id)).exit_status


@contextlib.contextmanager
def _forwarding(client: Client, id: str, exec_id: str) -> Iterator[None]:
    """Signals to ctr go to the process while the block runs."""

    def forward(number: int, _: object) -> None:
        request = tasks.KillRequest(container_id=id, exec_id=exec_id, signal=number)
        with contextlib.suppress(errors.Error):
            client.tasks.kill(request)

    before = {number: signal.signal(number, forward) for number in FORWARDED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
