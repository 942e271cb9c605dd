"""What processes print arrives, all of it: in pipes, and at loggers."""

import asyncio
import os
from pathlib import Path

import pytest

from daemon.runtime import living, loggers
from spec import errors
from spec.types import Stdio
from tests.root.tasks_rig import json_process, lived, read_all, text, until

pytestmark = pytest.mark.root

SIZE = 65536  # what a pipe holds, so that nobody need read while a process prints
RUNS = 1000
AT_ONCE = 8

READY = "exec 5>&-"
SAID = "printf x >&5; exec 5>&-"
LOG = """cat <&4 >>"$2.err" & cat <&3 >>"$2.out"; wait; echo "$1 $2 $CONTAINER_NAMESPACE/$CONTAINER_ID" >>"$2.end" """


def logger(rig, body, scheme="binary"):
    """A program, and the URI that names it with /tmp/log in the root filesystem as what it writes to."""
    path = Path(rig.root, "tmp/logger")
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return f"{scheme}://{path}?to={rig.root}/tmp/log", f"{rig.root}/tmp/log"


def test_nothing_of_a_brief_process_is_lost():
    async def story(rig):
        task = await rig.run("one", "sleep", "1000")
        bound = asyncio.Semaphore(AT_ONCE)

        async def printed(number):
            async with bound:
                read, write = os.pipe()
                exec_id = f"e{number}"
                dd = json_process("dd", "if=/dev/zero", f"bs={SIZE}", "count=1")
                await task.exec(exec_id, dd, Stdio(stdout="fd://0"), (write,))
                await task.start(exec_id)
                ended = await task.wait(exec_id)
                await task.delete_process(exec_id)
                return ended.status, len(read_all(read))

        found = await asyncio.gather(*(printed(number) for number in range(RUNS)))
        assert set(found) == {(0, SIZE)}
        assert len(rig.published.of("/tasks/exit")) == RUNS
        await rig.end("one")

    lived(story)


@pytest.mark.parametrize("restart", [False, True])
def test_writers_come_and_go_until_stdin_is_closed(restart):
    async def story(rig):
        task = await rig.run("one", "sleep", "1000")
        fifo = f"{rig.root}/tmp/in"
        os.mkfifo(fifo)
        read, write = os.pipe()
        await task.exec("two", json_process("cat"), Stdio(stdin=fifo, stdout="fd://0"), (write,))
        await task.start("two")
        for line in (b"one\n", b"two\n"):
            writer = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
            os.write(writer, line)
            os.close(writer)
        if restart:
            await rig.restarted()
            task = rig.tasks.get("test", "one")
        await task.close_io("two")
        assert (await asyncio.wait_for(task.wait("two"), 10)).status == 0
        assert read_all(read) == b"one\ntwo\n"
        await task.close_io("two")
        await task.delete_process("two")
        with pytest.raises(errors.NotFound):
            await task.close_io("two")
        await rig.end("one")

    lived(story)


@pytest.mark.parametrize(("scheme", "ready"), [("binary", READY), ("binary-v2", SAID)])
def test_a_logger_reads_to_the_end(scheme, ready):
    async def story(rig):
        uri, log = logger(rig, f"{ready}\n{LOG}", scheme)
        args = ("sh", "-c", f"dd if=/dev/zero bs={SIZE} count=64 2>/dev/null; echo err >&2")
        task = await rig.run("one", *args, stdio=Stdio(stdout=uri, stderr=uri))
        assert (task.process().stdout, task.process().stderr) == (uri, uri)
        await task.wait()
        await rig.delete("one")
        assert os.stat(f"{log}.out").st_size == 64 * SIZE
        assert text(f"{log}.err") == "err\n"
        assert text(f"{log}.end") == f"to {log} test/one\n"

    lived(story)


def test_a_logger_outlives_the_daemon():
    async def story(rig):
        uri, log = logger(rig, f"{READY}\n{LOG}")
        args = ("sh", "-c", "echo one; cat /tmp/more; echo two")
        os.mkfifo(f"{rig.root}/tmp/more")
        await rig.run("one", *args, stdio=Stdio(stdout=uri))
        await until(lambda: os.path.exists(f"{log}.out") and text(f"{log}.out") == "one\n")
        await rig.restarted()
        more = os.open(f"{rig.root}/tmp/more", os.O_WRONLY)
        os.write(more, b"more\n")
        os.close(more)
        await rig.tasks.get("test", "one").wait()
        await rig.delete("one")
        assert text(f"{log}.out") == "one\nmore\ntwo\n"
        assert text(f"{log}.end") == f"to {log} test/one\n"

    lived(story)


def test_a_logger_of_an_exec():
    async def story(rig):
        task = await rig.run("one", "sleep", "1000")
        uri, log = logger(rig, f"{READY}\n{LOG}")
        await task.exec("two", json_process("echo", "hi"), Stdio(stdout=uri))
        await task.start("two")
        assert (await task.wait("two")).status == 0
        await until(lambda: os.path.exists(f"{log}.end"))
        assert text(f"{log}.out") == "hi\n"
        await task.exec("never", json_process("echo", "no"), Stdio(stderr=uri))
        os.unlink(f"{log}.end")
        await rig.end("one")
        assert text(f"{log}.end") == f"to {log} test/one\n"

    lived(story)


@pytest.mark.parametrize("at", ["create", "exec"])
@pytest.mark.parametrize(
    ("scheme", "body", "error", "said"),
    [
        ("binary", None, errors.NotFound, "start logger .*/nosuch of container one"),
        ("binary-v2", "echo no space >&2; exit 3", errors.Unknown, "ended before it was ready.*no space"),
        ("binary-v2", "exec 5>&-; cat <&3", errors.Unknown, "did not say that it is ready"),
        ("binary", "cat <&3", errors.DeadlineExceeded, "not ready after 0.5 s"),
    ],
)
def test_a_logger_that_is_none(monkeypatch, at, scheme, body, error, said):
    monkeypatch.setattr(loggers, "READY_SECONDS", 0.5)
    if "cat" in str(body):
        monkeypatch.setattr(loggers, "TERM_SECONDS", 0.1)

    async def story(rig):
        uri = "binary:///nosuch" if body is None else logger(rig, body, scheme)[0]
        if at == "exec":
            task = await rig.run("one", "sleep", "1000")
        stdio = Stdio(stdout=uri)
        add = task.exec("two", json_process("true"), stdio) if at == "exec" else rig.create("one", "true", stdio=stdio)
        with pytest.raises(error, match=said):
            await add
        if at == "exec":
            with pytest.raises(errors.NotFound):
                task.process("two")
            await until(lambda: len(living.children(task.state.shim.pid)) == 1)
            await rig.end("one")
        assert rig.remains() == []

    lived(story)


def test_a_logger_that_does_not_end_is_ended(monkeypatch):
    monkeypatch.setattr(loggers, "DRAIN_SECONDS", 0.1)
    monkeypatch.setattr(loggers, "TERM_SECONDS", 0.1)

    async def story(rig):
        uri, log = logger(rig, f"trap 'echo asked >>$2.end' TERM; {READY}\nwhile :; do :; done")
        task = await rig.run("one", "true", stdio=Stdio(stdout=uri))
        await task.wait()
        (pid,) = living.children(task.state.shim.pid)
        await rig.delete("one")
        assert not living.started_ticks(pid)
        assert text(f"{log}.end") == "asked\n"

    lived(story)
