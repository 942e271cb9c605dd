import argparse
import os
import signal
from types import SimpleNamespace

import pytest

from ctr import process
from spec import errors
from spec.api import tasks
from spec.types import Stdio


class Tasks:
    """Records what is asked; `start` is interrupted by a signal to ourselves, `wait` by another."""

    def __init__(self, during_start=(), during_wait=()):
        self.asked = []
        self.during_start = during_start
        self.during_wait = during_wait

    def start(self, request):
        for number in self.during_start:
            os.kill(os.getpid(), number)
        self.asked.append("start")

    def wait(self, request):
        for number in self.during_wait:
            os.kill(os.getpid(), number)
        self.asked.append("wait")
        return tasks.WaitReply(exit_status=3)

    def kill(self, request):
        self.asked.append((request.container_id, request.exec_id, request.signal))
        raise errors.NotFound("it has ended")


def test_signals_go_to_the_process_and_early_ones_once_it_runs():
    client = SimpleNamespace(tasks=Tasks([signal.SIGTERM, signal.SIGHUP], [signal.SIGUSR1]))
    before = [signal.getsignal(number) for number in process.FORWARDED]
    assert process.follow(client, "c", "e", terminal=False) == 3
    assert client.tasks.asked == [
        "start",
        ("c", "e", signal.SIGTERM),
        ("c", "e", signal.SIGHUP),
        ("c", "e", signal.SIGUSR1),
        "wait",
    ]
    assert [signal.getsignal(number) for number in process.FORWARDED] == before


@pytest.mark.parametrize(
    ("flags", "terminal", "stdio", "fds"),
    [
        ([], False, Stdio(stdin="fd://0", stdout="fd://1", stderr="fd://2"), (0, 1, 2)),
        (["--null-io"], False, Stdio(), ()),
        (["-d"], False, Stdio(), ()),
        (["--log-uri", "file:///x"], False, Stdio(stdout="file:///x", stderr="file:///x"), ()),
        (["-d"], True, Stdio(terminal=True), ()),
    ],
)
def test_streams(flags, terminal, stdio, fds):
    parser = argparse.ArgumentParser()
    process.register(parser)
    assert process.streams(parser.parse_args(flags), terminal) == (stdio, fds)
