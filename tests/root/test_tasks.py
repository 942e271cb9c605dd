"""Tasks by a real runtime, real shims and real kernels."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tty
from pathlib import Path

import msgspec
import pytest

from daemon.runtime import cgroups, living
from daemon.runtime.bundle import Bundle, Phase
from daemon.runtime.nursery import Nursery
from daemon.runtime.oci import RuntimeConfig
from spec import errors
from spec.records import Status
from spec.types import Mount, Stdio
from tests.root.tasks_rig import NAMESPACE, busybox, exists, process, read_all, rigged, text, until

pytestmark = pytest.mark.root

OUTPUT = Stdio(stdout="fd://0")


@pytest.fixture
def nursery():
    forked = Nursery.fork()
    yield forked
    forked.close()


def run(nursery, story, **options):
    async def whole():
        async with rigged(nursery, **options) as rig:
            await story(rig)

    asyncio.run(whole())


def json_process(*args, **options):
    return json.dumps(process(*args, **options)).encode()


def script(rig, text):
    program = Path(rig.root, "tmp/runtime")
    program.write_text(text)
    program.chmod(0o755)
    return program


def shim_of(task):
    return task.state.shim.pid


def test_a_life_and_what_is_told_of_it(nursery):
    async def story(rig):
        task = await rig.create("one", "sh", "-c", "exit 7")
        assert task.process().status is Status.CREATED
        assert task.process().pid > 0
        assert await task.start() == task.process().pid
        exit = await task.wait()
        assert (exit.status, exit.pid, exit.oom_killed) == (7, task.process().pid, False)
        shown = task.process()
        assert (shown.status, shown.exit_status, shown.exited_at_ns) == (Status.STOPPED, 7, exit.exited_at_ns)
        shim = shim_of(task)
        assert await rig.delete("one") == exit
        assert not living.started_ticks(shim)
        assert not exists(task.bundle)
        assert rig.published.topics() == ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]
        (told,) = rig.published.of("/tasks/exit")
        assert (told.id, told.exit_status, told.pid) == ("one", 7, exit.pid)
        with pytest.raises(errors.NotFound):
            rig.tasks.get(NAMESPACE, "one")
        # the id is free
        await rig.run("one", "true")
        await rig.tasks.get(NAMESPACE, "one").wait()
        await rig.delete("one")

    run(nursery, story)


def test_the_host_never_sees_the_root_filesystem(nursery):
    async def story(rig):
        task = await rig.run("one", "sleep", "1000")
        assert task.bundle not in text("/proc/self/mountinfo")
        assert os.stat(task.bundle).st_mode & 0o7777 == 0o700
        assert os.listdir(f"{task.bundle}/rootfs") == []
        await rig.end("one")

    run(nursery, story)


def test_a_task_made_of_an_overlay(nursery):
    async def story(rig):
        layers = Path(rig.state, "layers")
        for name in ("upper", "work"):
            (layers / name).mkdir(parents=True)
        options = (f"lowerdir={rig.root}", f"upperdir={layers}/upper", f"workdir={layers}/work")
        overlay = Mount(type="overlay", source="overlay", options=options)
        await rig.run("one", "sh", "-c", "echo hi > /made", rootfs=(overlay,))
        assert (await rig.tasks.get(NAMESPACE, "one").wait()).status == 0
        await rig.delete("one")
        assert (layers / "upper/made").read_text() == "hi\n"
        assert not (rig.root / "made").exists()
        (layers / "upper/made").unlink()

    run(nursery, story)


def test_what_a_runtime_is_given_is_not_the_processes(nursery):
    async def story(rig):
        read, write = os.pipe()
        await rig.run("one", "sh", "-c", "cat /proc/1/environ", stdio=OUTPUT, fds=(write,))
        assert (await rig.tasks.get(NAMESPACE, "one").wait()).status == 0
        variables = read_all(read).split(b"\0")
        assert b"PATH=/bin" in variables
        assert not any(variable.startswith(b"GOMAXPROCS") for variable in variables)
        await rig.delete("one")

    run(nursery, story)


def test_streams_are_the_descriptors_that_came(nursery):
    async def story(rig):
        read, write = os.pipe()
        ours, theirs = os.pipe()
        stdio = Stdio(stdin="fd://1", stdout="fd://0", stderr="fd://0")
        await rig.run("one", "sh", "-c", "cat; echo err >&2", stdio=stdio, fds=(write, ours))
        os.write(theirs, b"typed\n")
        os.close(theirs)
        assert read_all(read) == b"typed\nerr\n"
        await rig.tasks.get(NAMESPACE, "one").wait()
        await rig.delete("one")

    run(nursery, story)


def test_streams_are_fifos_and_files(nursery):
    async def story(rig):
        for name in ("in", "out"):
            os.mkfifo(f"{rig.root}/{name}")
        file = f"{rig.root}/logs/deep/err"
        stdio = Stdio(stdin=f"{rig.root}/in", stdout=f"fifo://{rig.root}/out", stderr=f"file://{file}")
        task = await rig.create("one", "sh", "-c", "cat; echo err >&2", stdio=stdio)
        writer = os.open(f"{rig.root}/in", os.O_WRONLY | os.O_NONBLOCK)
        reader = os.open(f"{rig.root}/out", os.O_RDONLY | os.O_NONBLOCK)
        os.set_blocking(reader, True)
        await task.start()
        os.write(writer, b"typed\n")
        os.close(writer)
        again = os.open(f"{rig.root}/in", os.O_WRONLY | os.O_NONBLOCK)
        os.write(again, b"again\n")
        await task.close_io()
        os.close(again)
        await asyncio.wait_for(task.wait(), 10)
        await rig.delete("one")
        assert read_all(reader) == b"typed\nagain\n"
        assert text(file) == "err\n"
        assert os.stat(file).st_mode & 0o777 == 0o644

    run(nursery, story)


def test_a_terminal(nursery):
    async def story(rig):
        task = await rig.create("one", "sh", "-c", "stty size; cat", stdio=Stdio(terminal=True))
        await task.resize("", 100, 40)
        master = await task.console()
        tty.setraw(master)
        os.set_blocking(master, False)
        await task.start()
        seen = b""

        async def saw(words):
            def look():
                nonlocal seen
                with contextlib.suppress(BlockingIOError):
                    seen += os.read(master, 4096)
                return words in seen

            await until(look)

        await saw(b"40 100")
        os.write(master, b"echo\n")
        await saw(b"echo")
        os.close(master)
        await rig.end("one")

    run(nursery, story)


def test_a_missing_command_leaves_nothing(nursery):
    async def story(rig):
        with pytest.raises(errors.Unknown, match=r"'runc'.*no-such-thing.*not found") as raised:
            await rig.create("one", "no-such-thing")
        assert "one" in raised.value.message
        assert rig.published == []
        assert rig.tasks.tasks() == []
        await rig.create("one", "true")
        assert (await rig.delete("one")).status == 137

    run(nursery, story)


def test_what_cannot_be_created(nursery):
    async def story(rig):
        with pytest.raises(errors.NotFound, match="runtime 'other' not found"):
            await rig.create("one", "true", runtime="other")
        with pytest.raises(errors.NotFound, match="runtime '/no/such' not found"):
            await rig.create("one", "true", runtime="/no/such")
        with pytest.raises(errors.InvalidArgument):
            await rig.create("../one", "true")
        with pytest.raises(errors.InvalidArgument, match="0 descriptors"):
            await rig.create("one", "true", stdio=OUTPUT)
        with pytest.raises(errors.NotFound):
            await rig.create("one", "true", stdio=Stdio(stdout="/no/such/fifo"))
        with pytest.raises(errors.InvalidArgument, match="nobody"):
            await rig.create("one", "true", user="guest:nobody")
        with pytest.raises(errors.Error):
            await rig.create("one", "true", rootfs=(Mount(type="overlay", options=("lowerdir=/no/such",)),))
        await rig.create("one", "true")
        read, write = os.pipe()
        with pytest.raises(errors.AlreadyExists):
            await rig.create("one", "true", stdio=OUTPUT, fds=(write,))
        assert read_all(read) == b""
        await rig.delete("one")

    run(nursery, story)


def test_the_user_is_looked_up_in_the_root_filesystem(nursery):
    async def story(rig):
        for number, (user, shown) in enumerate(
            (
                ("guest", "uid=405(guest) gid=100(users) groups=18(audio),100(users)"),
                ("1234", "uid=1234 gid=0(root) groups=0(root)"),
                ("1234:audio", "uid=1234 gid=18(audio) groups=18(audio)"),
                ("root", "uid=0(root) gid=0(root) groups=0(root),10(wheel)"),
            )
        ):
            read, write = os.pipe()
            id = f"user{number}"
            await rig.run(id, "id", user=user, stdio=OUTPUT, fds=(write,))
            assert read_all(read).decode().strip() == shown
            await rig.tasks.get(NAMESPACE, id).wait()
            await rig.delete(id)

    run(nursery, story)


def test_passwd_of_an_image_leads_nowhere(nursery):
    async def story(rig):
        passwd = rig.root / "etc/passwd"
        passwd.unlink()
        os.mkfifo(passwd)
        with pytest.raises(errors.InvalidArgument, match="not a regular file"):
            await rig.create("one", "true", user="guest")
        passwd.unlink()
        passwd.symlink_to("/../../../../../etc/passwd")
        with pytest.raises(errors.InvalidArgument, match="symbolic links"):
            await rig.create("one", "true", user="daemon")
        passwd.unlink()
        with passwd.open("wb") as file:
            file.truncate(100 << 30)
        with pytest.raises(errors.InvalidArgument, match="exceeds"):
            await rig.create("one", "true", user="guest")
        passwd.unlink()
        (rig.root / "store").mkdir()
        (rig.root / "store/passwd").write_text("guest:x:405:100::/:/bin/sh\n")
        passwd.symlink_to("/store/passwd")
        await rig.create("one", "true", user="guest")
        await rig.delete("one")

    run(nursery, story)


def test_exec_and_what_is_told_of_it(nursery):
    async def story(rig):
        task = await rig.run("one", "sleep", "1000")
        read, write = os.pipe()
        await task.exec("two", json_process("sh", "-c", "id; exit 3", user="guest"), OUTPUT, (write,))
        assert task.process("two").status is Status.CREATED
        with pytest.raises(errors.AlreadyExists):
            await task.exec("two", json_process("true"), Stdio())
        with pytest.raises(errors.FailedPrecondition):
            await task.kill(9, "two")
        pid = await task.start("two")
        assert read_all(read).startswith(b"uid=405(guest) gid=100(users)")
        exit = await task.wait("two")
        assert (exit.status, exit.pid) == (3, pid)
        with pytest.raises(errors.FailedPrecondition):
            await task.start("two")
        with pytest.raises(errors.NotFound):
            await task.kill(9, "two")
        assert await task.delete_process("two") == exit
        with pytest.raises(errors.NotFound):
            task.process("two")
        await rig.end("one")
        assert rig.published.topics() == [
            "/tasks/create", "/tasks/start", "/tasks/exec-added", "/tasks/exec-started", "/tasks/exit",
            "/tasks/exit", "/tasks/delete",
        ]  # fmt: skip
        assert [event.id for event in rig.published.of("/tasks/exit")] == ["two", "one"]

    run(nursery, story)


def test_many_execs_at_once(nursery):
    async def story(rig):
        task = await rig.run("one", "sleep", "1000")

        async def one(number):
            name = f"e{number}"
            await task.exec(name, json_process("sh", "-c", f"exit {number}"), Stdio())
            await task.start(name)
            assert (await asyncio.wait_for(task.wait(name), 30)).status == number
            await task.delete_process(name)

        await asyncio.gather(*(one(number) for number in range(12)))
        assert len(rig.published.of("/tasks/exit")) == 12
        assert sorted(os.listdir(task.bundle)) == [
            "config.json", "exits", "init.pid", "rootfs", "shim.sock", "task.json"
        ]  # fmt: skip
        await rig.end("one")

    run(nursery, story)


def test_an_exec_that_cannot_start_has_ended(nursery):
    async def story(rig):
        task = await rig.run("one", "sleep", "1000")
        read, write = os.pipe()
        await task.exec("two", json_process("no-such-thing"), OUTPUT, (write,))
        waiting = asyncio.create_task(task.wait("two"))
        with pytest.raises(errors.Unknown, match="no-such-thing"):
            await task.start("two")
        read_all(read)
        assert (await waiting).status == 255
        assert task.process("two").status is Status.STOPPED
        await task.exec("tty", json_process("no-such-thing", terminal=True), Stdio(terminal=True))
        with pytest.raises(errors.Unknown, match="no-such-thing"):
            await task.start("tty")
        for name in ("two", "tty"):
            await task.delete_process(name)
        assert "/tasks/exit" not in rig.published.topics()
        await rig.end("one")

    run(nursery, story)


def test_an_exec_with_a_terminal(nursery):
    async def story(rig):
        task = await rig.run("one", "sleep", "1000")
        await task.exec("two", json_process("cat", terminal=True), Stdio(terminal=True))
        with pytest.raises(errors.FailedPrecondition):
            await task.console("two")
        with pytest.raises(errors.FailedPrecondition):
            await task.console()
        await task.start("two")
        master = await task.console("two")
        assert os.isatty(master)
        os.close(master)
        await task.kill(9, "two")
        assert (await task.wait("two")).status == 137
        await task.delete_process("two")
        await rig.end("one")

    run(nursery, story)


@pytest.mark.parametrize("namespaces", [("pid", "mount", "uts"), ("mount", "uts")])
def test_the_exit_of_init_is_told_last(nursery, namespaces):
    async def story(rig):
        task = await rig.run("one", "sleep", "1000", namespaces=namespaces)
        for name in ("two", "three"):
            await task.exec(name, json_process("sleep", "1000"), Stdio())
            await task.start(name)
        with pytest.raises(errors.FailedPrecondition):
            await task.delete_process("two")
        await task.kill(9)
        assert (await asyncio.wait_for(task.wait(), 20)).status == 137
        assert [event.id for event in rig.published.of("/tasks/exit")][-1] == "one"
        assert sorted(event.id for event in rig.published.of("/tasks/exit")) == ["one", "three", "two"]
        with pytest.raises(errors.FailedPrecondition):
            await task.exec("four", json_process("true"), Stdio())
        await rig.delete("one")

    run(nursery, story)


def test_what_a_running_task_refuses(nursery):
    async def story(rig):
        task = await rig.run("one", "sleep", "1000")
        with pytest.raises(errors.FailedPrecondition, match="one is running"):
            await rig.delete("one")
        with pytest.raises(errors.FailedPrecondition):
            await task.start()
        with pytest.raises(errors.FailedPrecondition):
            await task.resume()
        with pytest.raises(errors.InvalidArgument):
            await task.kill(1000)
        with pytest.raises(errors.NotFound):
            await task.start("nothing")
        await task.kill(signal.SIGKILL)
        await task.wait()
        with pytest.raises(errors.NotFound):
            await task.kill(signal.SIGKILL)
        with pytest.raises(errors.NotFound):
            await task.kill(signal.SIGKILL, all_processes=True)
        with pytest.raises(errors.FailedPrecondition):
            await task.pause()
        assert await task.pids() == {}
        await rig.delete("one")
        with pytest.raises(errors.NotFound):
            await rig.delete("one")

    run(nursery, story)


def test_a_task_that_never_started_can_be_deleted(nursery):
    async def story(rig):
        task = await rig.create("one", "sleep", "1000")
        pid = task.process().pid
        assert (await rig.delete("one")).status == 137
        assert not living.started_ticks(pid)
        assert rig.published.topics() == ["/tasks/create", "/tasks/exit", "/tasks/delete"]

    run(nursery, story)


def test_pause_and_resume(nursery):
    async def story(rig):
        task = await rig.run("one", "sleep", "1000")
        await task.pause()
        assert task.process().status is Status.PAUSED
        with pytest.raises(errors.FailedPrecondition):
            await task.pause()
        with pytest.raises(errors.FailedPrecondition):
            await rig.delete("one")
        await task.exec("init", json_process("true"), Stdio())
        with pytest.raises(errors.FailedPrecondition, match="paused"):
            await task.start("init")
        await rig.restarted()
        task = rig.tasks.get(NAMESPACE, "one")
        assert task.process().status is Status.PAUSED
        await task.resume()
        assert task.process().status is Status.RUNNING
        await task.start("init")
        assert (await task.wait("init")).status == 0
        await task.pause()
        await task.kill(9)
        assert (await asyncio.wait_for(task.wait(), 10)).status == 137
        await rig.delete("one")
        told = rig.published.topics()
        assert told == [
            "/tasks/resumed", "/tasks/exec-started", "/tasks/exit", "/tasks/paused", "/tasks/exit", "/tasks/delete"
        ]  # fmt: skip

    run(nursery, story)


def test_pids_and_signals_to_all(nursery):
    async def story(rig):
        task = await rig.run("one", "sh", "-c", "sleep 1000 & sleep 1000 & wait")
        await until(lambda: len(cgroups.processes(task.process().pid)) == 3)
        pids = await task.pids()
        assert len(pids) == 3
        assert task.process().pid in pids
        await task.kill(9, all_processes=True)
        assert (await task.wait()).status == 137
        assert not any(map(living.started_ticks, pids))
        await rig.delete("one")

    run(nursery, story)


def test_an_out_of_memory_kill_is_told_before_the_exit(nursery):
    async def story(rig):
        hog = ("sh", "-c", "tail /dev/zero")
        task = await rig.run("one", *hog, resources={"memory": {"limit": 16 << 20}})
        exit = await asyncio.wait_for(task.wait(), 30)
        assert exit.status == 137
        assert (exit.oom_killed, exit.oom_kills, exit.oom_ancestor) == (True, 1, False)
        await rig.delete("one")
        assert rig.published.topics() == [
            "/tasks/create", "/tasks/start", "/tasks/oom", "/tasks/exit", "/tasks/delete"
        ]  # fmt: skip

    run(nursery, story)


def test_an_out_of_memory_kill_by_a_limit_above(nursery):
    async def story(rig):
        task = await rig.create("one", "sh", "-c", "tail /dev/zero; tail /dev/zero; exit 4")
        above = Path(task.cgroups()["memory" if "memory" in task.cgroups() else "unified"]).parent
        limit = above / ("memory.max" if (above / "memory.max").exists() else "memory.limit_in_bytes")
        limit.write_text(str(32 << 20))
        await task.start()
        exit = await asyncio.wait_for(task.wait(), 30)
        assert (exit.status, exit.oom_killed, exit.oom_kills, exit.oom_ancestor) == (4, True, 2, True)
        await rig.delete("one")

    run(nursery, story)


def test_any_runtime_is_a_path(nursery):
    async def story(rig):
        for number, name in enumerate(("mine", "/usr/sbin/runc", "io.containerd.runc.v2")):
            await rig.run(f"c{number}", "true", runtime=name)
            assert (await rig.tasks.get(NAMESPACE, f"c{number}").wait()).status == 0
            await rig.delete(f"c{number}")

    run(nursery, story, runtimes={"mine": RuntimeConfig(path="runc")})


# Restarts


def test_running_tasks_are_found_again(nursery):
    async def story(rig):
        for number in range(8):
            await rig.run(f"c{number}", "sleep", "1000")
        task = rig.tasks.get(NAMESPACE, "c0")
        await task.exec("two", json_process("sleep", "1000"), Stdio())
        await task.start("two")
        read, write = os.pipe()
        await task.exec("later", json_process("echo", "hi"), OUTPUT, (write,))
        before = {task.id: task.process() for task in rig.tasks.tasks()}
        await rig.restarted()
        assert {task.id: task.process() for task in rig.tasks.tasks(NAMESPACE)} == before
        assert rig.published == []
        task = rig.tasks.get(NAMESPACE, "c0")
        assert task.process("two").status is Status.RUNNING
        await task.start("later")
        assert read_all(read) == b"hi\n"
        await task.wait("later")
        await task.kill(9, "two")
        assert (await task.wait("two")).status == 137
        for number in range(8):
            await rig.end(f"c{number}")

    run(nursery, story)


def test_exits_without_a_daemon_are_told_once(nursery):
    async def story(rig):
        task = await rig.run("one", "sleep", "1000")
        await task.exec("two", json_process("sleep", "1000"), Stdio())
        await task.start("two")
        pids = [task.process().pid, task.process("two").pid]
        await rig.tasks.close()
        os.kill(pids[0], 9)
        await until(lambda: not any(map(living.started_ticks, pids)))
        await rig.restarted()
        task = rig.tasks.get(NAMESPACE, "one")
        assert (await asyncio.wait_for(task.wait(), 10)).status == 137
        assert [event.id for event in rig.published.of("/tasks/exit")] == ["two", "one"]
        await rig.restarted()
        assert rig.published == []
        assert rig.tasks.get(NAMESPACE, "one").process().status is Status.STOPPED
        await rig.delete("one")

    run(nursery, story)


def test_a_dead_shim_ends_its_task(nursery):
    async def story(rig):
        task = await rig.run("one", "sleep", "1000")
        pid = task.process().pid
        os.kill(shim_of(task), 9)
        exit = await asyncio.wait_for(task.wait(), 10)
        assert exit.status == 137
        await until(lambda: not living.started_ticks(pid))
        assert len(rig.published.of("/tasks/exit")) == 1
        assert (await rig.delete("one")).status == 137

    run(nursery, story)


@pytest.mark.parametrize("starting", [False, True])
def test_a_shim_that_died_without_a_daemon(nursery, starting):
    async def story(rig):
        task = await rig.run("one", "sleep", "1000")
        await task.exec("two", json_process("true"), Stdio())
        pid, shim = task.process().pid, shim_of(task)
        await rig.tasks.close()
        if starting:
            bundle = Bundle(task.bundle)
            record = bundle.load()
            init, two = (msgspec.structs.replace(r, phase=Phase.STARTING) for r in (record.init, *record.execs))
            bundle.save(msgspec.structs.replace(record, init=init, execs=(two,)))
        os.kill(shim, 9)
        await until(lambda: not living.started_ticks(shim))
        await rig.restarted()
        task = rig.tasks.get(NAMESPACE, "one")
        assert (await asyncio.wait_for(task.wait(), 10)).status == 137
        await until(lambda: not living.started_ticks(pid))
        await rig.delete("one")
        await rig.run("one", "true")
        await rig.tasks.get(NAMESPACE, "one").wait()
        await rig.delete("one")

    run(nursery, story)


@pytest.mark.parametrize("shim_too", [False, True])
def test_a_creation_that_a_restart_cut_short_is_undone(nursery, shim_too):
    async def story(rig):
        task = await rig.create("one", "sleep", "1000")
        pid, shim = task.process().pid, shim_of(task)
        await rig.tasks.close()
        bundle = Bundle(task.bundle)
        bundle.save(msgspec.structs.replace(bundle.load(), created=False))
        if shim_too:
            os.kill(shim, 9)
            await until(lambda: not living.started_ticks(shim))
        await rig.restarted()
        assert rig.tasks.tasks() == []
        await until(lambda: not living.started_ticks(pid) and not living.started_ticks(shim))
        assert not exists(task.bundle)
        assert cgroups.placed("/holdd-test/one") == []

    run(nursery, story)


def test_a_start_that_a_restart_cut_short_is_settled(nursery):
    async def story(rig):
        task = await rig.run("one", "sleep", "1000")
        await rig.create("two", "sleep", "1000")
        await rig.tasks.close()
        for id in ("one", "two"):
            bundle = Bundle(f"{rig.state}/tasks/{NAMESPACE}/{id}")
            record = json.loads(text(bundle.at("task.json")))
            record["init"]["phase"] = int(Phase.STARTING)
            bundle.write("task.json", json.dumps(record).encode())
        await rig.restarted()
        task = rig.tasks.get(NAMESPACE, "one")
        assert task.process().status is Status.RUNNING
        assert rig.tasks.get(NAMESPACE, "two").process().status is Status.CREATED
        await rig.end("one")
        await rig.delete("two")

    run(nursery, story)


def test_a_cancelled_creation_leaves_nothing(nursery):
    async def story(rig):
        creating = asyncio.create_task(rig.create("one", "sleep", "1000"))
        await until(lambda: exists(f"{rig.state}/tasks/{NAMESPACE}/one/config.json"))
        creating.cancel()
        with pytest.raises(asyncio.CancelledError):
            await creating
        assert rig.tasks.tasks() == []
        assert rig.remains() == []

    run(nursery, story)


def test_long_names(nursery):
    async def story(rig):
        id = "i" * 76
        task = await rig.run(id, "sleep", "1000", stdio=Stdio(terminal=True))
        exec_id = "e" * 76
        await task.exec(exec_id, json_process("true", terminal=True), Stdio(terminal=True))
        await task.start(exec_id)
        assert (await task.wait(exec_id)).status == 0
        await rig.end(id)

    run(nursery, story)


def test_busybox_is_what_the_tests_think(tmp_path):
    assert (busybox(tmp_path) / "bin/sh").resolve().name == "busybox"


def test_a_kernel_without_detached_mounts(nursery):
    async def story(rig):
        def none(mounts):
            raise errors.Unimplemented("mounting: the kernel is old")

        rig.tasks._workshop._detached = none
        read, write = os.pipe()
        mount = Mount(type="bind", source=str(rig.root), options=("rbind", "ro"))
        args = ("sh", "-c", "id -u; echo no > /etc/x || echo read-only")
        await rig.run("one", *args, user="guest", rootfs=(mount,), stdio=OUTPUT, fds=(write,))
        assert read_all(read) == b"405\nread-only\n"
        await rig.tasks.get(NAMESPACE, "one").wait()
        assert "one/rootfs" not in text("/proc/self/mountinfo")
        await rig.delete("one")

    run(nursery, story)


def test_mapped_users(nursery):
    async def story(rig):
        os.chmod(rig.state, 0o711)
        os.chmod(rig.root.parent, 0o711)
        mappings = [{"containerID": 0, "hostID": 100000, "size": 1000}]
        namespaces = ("pid", "ipc", "uts", "mount", "network", "user")
        read, write = os.pipe()
        task = await rig.create(
            "one", "cat", "/proc/self/uid_map", namespaces=namespaces, uidMappings=mappings, gidMappings=mappings,
            stdio=OUTPUT, fds=(write,),
        )  # fmt: skip
        status = os.stat(task.bundle)
        assert (status.st_mode & 0o7777, status.st_gid) == (0o710, 100000)
        await task.start()
        assert read_all(read).split() == [b"0", b"100000", b"1000"]
        assert (await task.wait()).status == 0
        await rig.delete("one")

    run(nursery, story)


def test_what_could_not_be_undone_at_the_time_is_undone_later(nursery):
    async def story(rig):
        task = await rig.create("one", "sleep", "1000")
        shim, pid = shim_of(task), task.process().pid
        await rig.tasks.close()
        bundle = Bundle(task.bundle)
        bundle.save(msgspec.structs.replace(bundle.load(), created=False))
        rig.tasks = rig.made()
        assert (await (await rig.run("one", "true")).wait()).status == 0
        await until(lambda: not living.started_ticks(pid) and not living.started_ticks(shim))
        await rig.delete("one")

    run(nursery, story)


def test_a_runtime_that_hangs_is_killed(nursery):
    async def story(rig):
        program = script(rig, "#!/bin/sh\ncase \"$*\" in *delete*) exit 0;; esac\nsleep 1000\n")
        rig.tasks._workshop.runtimes["slow"] = RuntimeConfig(path=str(program), timeout_s=0.3)
        with pytest.raises(errors.DeadlineExceeded, match="create container one"):
            await rig.create("one", "true", runtime="slow")
        assert rig.remains() == []

    run(nursery, story)


def test_a_runtime_that_is_no_program(nursery):
    async def story(rig):
        program = script(rig, "no program")
        with pytest.raises(errors.Error, match="runtime"):
            await rig.create("one", "true", runtime=str(program))
        assert rig.remains() == []

    run(nursery, story)


def test_many_tasks_at_once(nursery):
    async def story(rig):
        async def life(number):
            task = await rig.run(f"c{number}", "sh", "-c", f"exit {number}")
            assert (await asyncio.wait_for(task.wait(), 60)).status == number
            await rig.delete(f"c{number}")

        await asyncio.gather(*(life(number) for number in range(12)))
        for number in range(12):
            assert rig.published.topics(f"c{number}") == [
                "/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"
            ]  # fmt: skip

    run(nursery, story)


def test_a_delete_whose_caller_goes_is_finished(nursery):
    async def story(rig):
        await (await rig.run("one", "true")).wait()
        deleting = asyncio.create_task(rig.delete("one"))
        await asyncio.sleep(0)
        deleting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await deleting
        await until(lambda: not rig.tasks.tasks())
        assert rig.published.topics()[-1] == "/tasks/delete"

    run(nursery, story)


SIGNALLED = ("kill", "wait", "delete")  # steps at which init may have been killed: it runs until it is seen to end
STEPS = ("create", "start", "exec", "start exec", "pause", "resume", "kill", "wait", "delete")


async def killed_at(rig, step):
    """Have another process live on the same state, and kill it as it takes a step."""
    argv = [sys.executable, "-m", "tests.root.tasks_child", rig.state, str(rig.root)]
    child = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.PIPE)
    async with asyncio.timeout(30):
        while (await child.stdout.readline()).decode().strip() != step:
            assert child.returncode is None
        child.kill()
        await child.communicate()


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step(nursery, step):
    async def story(rig):
        await rig.tasks.close()
        await killed_at(rig, step)
        rig.tasks = rig.made()
        await rig.tasks.recover()
        for task in rig.tasks.tasks():
            status = task.process().status
            shim = shim_of(task)
            if status is Status.PAUSED:
                await task.resume()
            if status in (Status.RUNNING, Status.PAUSED):
                try:
                    await task.exec("another", json_process("sh", "-c", "exit 5"), Stdio())
                    await task.start("another")
                    assert (await asyncio.wait_for(task.wait("another"), 10)).status == 5
                    await task.kill(9)
                except errors.Error:
                    assert step in SIGNALLED
                assert (await asyncio.wait_for(task.wait(), 10)).status == 137
            await rig.delete(task.id)
            await until(lambda shim=shim: not living.started_ticks(shim))
        assert rig.remains() == []

    run(nursery, story)
