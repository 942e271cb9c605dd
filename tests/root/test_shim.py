"""Real nurseries and shims: programs, exits, descriptors, consoles, mounts, adoption, and a container by runc."""

import array
import asyncio
import contextlib
import ctypes
import json
import os
import pty
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from daemon.runtime.nursery import Nursery
from daemon.runtime.shim import ExitRecord, Shim
from spec import errors
from tests import cgroups

pytestmark = pytest.mark.root

SECONDS = 20.0
ROOT = Path(__file__).parents[2]
LIBC = ctypes.CDLL(None, use_errno=True)
MS_BIND, MS_PRIVATE, MNT_DETACH = 4096, 1 << 18, 2
FSOPEN, FSCONFIG, FSMOUNT = 430, 431, 432


@contextlib.asynccontextmanager
async def shim_in(directory: Path) -> AsyncIterator[Shim]:
    """A shim from a nursery of its own; both are gone afterwards."""
    os.makedirs(directory, exist_ok=True)
    nursery = Nursery.fork()
    try:
        shim = await nursery.shim(str(directory))
        try:
            yield shim
        finally:
            await shim.shutdown()
    finally:
        nursery.close()


def in_shim(directory: Path, body: Callable[[Shim], Awaitable[None]]) -> None:
    async def main() -> None:
        async with shim_in(directory) as shim:
            await body(shim)

    asyncio.run(asyncio.wait_for(main(), 60))


async def until(ready: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not ready():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def descriptors(shim: Shim) -> list[str]:
    """What the shim has open once it has done all it was asked before."""
    await shim.run(["/bin/true"], timeout=SECONDS)
    return os.listdir(f"/proc/{shim.pid}/fd")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def mounted(path: Path) -> bool:
    """Whether this process, and not only a shim, sees a mount there."""
    return str(path) in Path("/proc/self/mounts").read_text()


def oom_score(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def command_line(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0").split("\0")


def exists(path: Path | str) -> bool:
    return os.path.lexists(path)


def private_kb(pid: int) -> int:
    lines = [line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]]
    return sum(int(line[1]) for line in lines if line[0] in ("Private_Clean:", "Private_Dirty:"))


# The process


def test_a_shim_is_detached(tmp_path: Path) -> None:
    async def body(shim: Shim) -> None:
        status = status_of(shim.pid)
        assert status["Name"] == "holdd-shim"
        assert status["Threads"] == "1"
        assert os.getsid(shim.pid) == shim.pid != os.getsid(0)
        assert command_line(shim.pid)[0] == f"holdd-shim {tmp_path}"
        assert oom_score(shim.pid) == min(oom_score(os.getpid()) + 1, 1000)
        assert os.readlink(f"/proc/{shim.pid}/ns/mnt") != os.readlink("/proc/self/ns/mnt")
        assert os.readlink(f"/proc/{shim.pid}/cwd") == "/"
        assert [os.readlink(f"/proc/{shim.pid}/fd/{n}") for n in range(3)] == ["/dev/null"] * 3
        assert (tmp_path / "shim.sock").stat().st_mode & 0o777 == 0o600
        assert (tmp_path / "exits").stat().st_mode & 0o777 == 0o600
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGPIPE):
            os.kill(shim.pid, number)
        assert (await shim.run(["/bin/true"], timeout=SECONDS)).status == 0

    in_shim(tmp_path, body)
    assert not (tmp_path / "shim.sock").exists()


def test_it_has_none_of_our_descriptors(tmp_path: Path) -> None:
    ours = os.open("/etc/passwd", os.O_RDONLY)
    os.set_inheritable(ours, True)

    async def body(shim: Shim) -> None:
        held = {os.readlink(f"/proc/{shim.pid}/fd/{n}") for n in os.listdir(f"/proc/{shim.pid}/fd")}
        assert "/etc/passwd" not in held
        seen = await shim.run(["/bin/sh", "-c", "ls /proc/self/fd | wc -l; echo $PPID"], timeout=SECONDS)
        assert seen.output.split() == [b"4", str(shim.pid).encode()]  # 0, 1, 2 and the directory ls reads

    try:
        in_shim(tmp_path, body)
    finally:
        os.close(ours)


def test_a_long_directory(tmp_path: Path) -> None:
    async def body(shim: Shim) -> None:
        again = await Shim.connect(shim.directory)
        assert again.pid == shim.pid
        again.close()

    in_shim(tmp_path / ("a" * 200) / ("b" * 200), body)


def test_directories_that_cannot_be_served(tmp_path: Path) -> None:
    async def main() -> None:
        async with shim_in(tmp_path / "a") as shim:
            nursery = Nursery.fork()
            try:
                with pytest.raises(errors.AlreadyExists):
                    await nursery.shim(str(tmp_path / "a"))
                with pytest.raises(errors.NotFound):
                    await nursery.shim(str(tmp_path / "absent"))
                with pytest.raises(errors.InvalidArgument):
                    await nursery.shim("relative")
            finally:
                nursery.close()
            assert (await shim.run(["/bin/true"], timeout=SECONDS)).status == 0

    asyncio.run(main())


def test_a_dead_nursery_is_started_again(tmp_path: Path) -> None:
    program = "import sys; from daemon.runtime.nursery import nursery_main; nursery_main(int(sys.argv[1]))"

    async def main() -> None:
        nursery = Nursery.fork()
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        (tmp_path / "c").mkdir()
        first = await nursery.shim(str(tmp_path / "a"))
        dead = nursery.pid
        os.kill(dead, signal.SIGKILL)
        await until(lambda: not alive(dead))
        with pytest.raises(errors.Unavailable):
            await nursery.shim(str(tmp_path / "b"))
        nursery.respawn_argv = [sys.executable, "-c", program]
        os.environ["PYTHONPATH"] = str(ROOT)
        try:
            second, third = await asyncio.gather(nursery.shim(str(tmp_path / "b")), nursery.shim(str(tmp_path / "c")))
        finally:
            del os.environ["PYTHONPATH"]
        assert nursery.pid != dead
        nursery.close()
        for shim in (first, second, third):
            assert (await shim.run(["/bin/echo", "on"], timeout=SECONDS)).output == b"on\n"
            await shim.shutdown()

    asyncio.run(main())


def test_private_memory_of_fifty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> list[int]:
        nursery = Nursery.fork()
        shims = []
        try:
            for i in range(50):
                (tmp_path / str(i)).mkdir()
                shims.append(await nursery.shim(str(tmp_path / str(i))))
            env = [f"K{n}=" + "v" * 500 for n in range(20)]
            await asyncio.gather(*(shim.run(["/bin/echo", "hello"], env=env, timeout=SECONDS) for shim in shims))
            sizes = [private_kb(shim.pid) for shim in shims]
            nursery.close()
            for shim in shims[1:]:
                await shim.shutdown()
            sizes.append(private_kb(shims[0].pid))
            await shims[0].shutdown()
        finally:
            nursery.close()
        return sizes

    *fifty, last = asyncio.run(main())
    with capsys.disabled():
        print(f"\nprivate memory of a shim: mean of 50 {sum(fifty) / 50:.0f} KB, the last one alive {last} KB")
    if "HOLDD_SANITIZE" in os.environ:
        return  # a sanitizer needs what is else given back
    assert sum(fifty) / 50 <= 130
    assert last <= 1024  # now charged with the pages all of them shared


# Programs


def test_output_and_status(tmp_path: Path) -> None:
    async def body(shim: Shim) -> None:
        script = 'echo "$1 $K"; pwd; echo err >&2; cat; exit 7'
        done = await shim.run(["/bin/sh", "-c", script, "sh", "arg"], env=["K=v"], cwd="/usr", timeout=SECONDS)
        assert done == (7, b"arg v\n/usr\nerr\n")
        killed = await shim.run(["/bin/sh", "-c", "kill -9 $$"], timeout=SECONDS)
        assert killed == (137, b"")
        group = await shim.run(["/bin/sh", "-c", "cut -d' ' -f5 /proc/$$/stat; echo $$"], timeout=SECONDS)
        assert len(set(group.output.split())) == 1
        signals = await shim.run(["/bin/grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"], timeout=SECONDS)
        assert {int(line.split()[1], 16) for line in signals.output.splitlines()} == {0}
        assert shim.records(shim.directory) == []

    in_shim(tmp_path, body)


def test_output_is_bounded_to_its_end(tmp_path: Path) -> None:
    async def body(shim: Shim) -> None:
        numbers = b"".join(b"%d\n" % n for n in range(1, 200_001))
        for keep in (0, 1, 10, 4096, 5000, 65536, 1 << 30):
            done = await shim.run(["/usr/bin/seq", "200000"], keep_output=keep, timeout=SECONDS)
            bound = min(keep, 65536)
            assert done == (0, numbers[len(numbers) - bound :])
        assert private_kb(shim.pid) <= 200

    in_shim(tmp_path, body)


def test_runs_that_do_not_start(tmp_path: Path) -> None:
    async def body(shim: Shim) -> None:
        held = await descriptors(shim)
        with pytest.raises(errors.NotFound, match="run /no/such"):
            await shim.run(["/no/such"], timeout=SECONDS)
        with pytest.raises(errors.PermissionDenied):
            await shim.run(["/etc/passwd"], timeout=SECONDS)
        with pytest.raises(errors.NotFound, match="directory"):
            await shim.run(["/bin/true"], cwd="/no/such", timeout=SECONDS)
        with pytest.raises(errors.NotFound, match="named"):
            await shim.run(["/bin/true"], names={1: "nobody"}, timeout=SECONDS)
        with pytest.raises(errors.Error, match="descriptors"):
            await shim.run(["/bin/true"], fds={256: 0}, timeout=SECONDS)
        assert await descriptors(shim) == held
        assert shim.records(shim.directory) == []

    in_shim(tmp_path, body)


def test_timeout_kills_the_group(tmp_path: Path) -> None:
    async def body(shim: Shim) -> None:
        with pytest.raises(errors.DeadlineExceeded, match="began"):
            await shim.run(["/bin/sh", "-c", "echo began; sleep 1000 & sleep 1000"], timeout=0.2)
        children = Path(f"/proc/{shim.pid}/task/{shim.pid}/children")
        await until(lambda: children.read_text() == "")

    in_shim(tmp_path, body)


def test_cancelling_kills(tmp_path: Path) -> None:
    async def body(shim: Shim) -> None:
        reader, writer = os.pipe()
        running = asyncio.create_task(shim.run(["/bin/sleep", "1000"], fds={1: writer}, timeout=None))
        children = Path(f"/proc/{shim.pid}/task/{shim.pid}/children")
        await until(children.read_text)
        os.close(writer)
        running.cancel()
        assert await asyncio.to_thread(os.read, reader, 1) == b""  # the last holder is gone
        os.close(reader)
        with pytest.raises(asyncio.CancelledError):
            await running

    in_shim(tmp_path, body)


def test_many_at_once(tmp_path: Path) -> None:
    async def body(shim: Shim) -> None:
        many = [shim.run(["/bin/sh", "-c", f"echo {n}; exit {n}"], timeout=SECONDS) for n in range(100)]
        assert await asyncio.gather(*many) == [(n, b"%d\n" % n) for n in range(100)]
        with pytest.raises(errors.Unavailable):
            await asyncio.gather(*(shim.run(["/bin/sleep", "0.5"], timeout=SECONDS) for n in range(257)))

    in_shim(tmp_path, body)


def test_descriptors_that_trade_places(tmp_path: Path) -> None:
    async def body(shim: Shim) -> None:
        pipes = [os.pipe() for _ in range(3)]
        fds = {2: pipes[0][1], 1: pipes[1][1], 9: pipes[2][1]}
        done = await shim.run(["/bin/sh", "-c", "echo one; echo two >&2; echo nine >&9"], fds=fds, timeout=SECONDS)
        assert done == (0, b"")
        for (reader, writer), text in zip(pipes, (b"two\n", b"one\n", b"nine\n"), strict=True):
            os.close(writer)
            assert os.read(reader, 100) == text
            assert os.read(reader, 100) == b""
            os.close(reader)

    in_shim(tmp_path, body)


def test_grandchild_with_the_pipe_delays_nothing(tmp_path: Path) -> None:
    """It keeps a pipe that takes what it writes, and its exit is on record."""

    async def body(shim: Shim) -> None:
        seen: list[ExitRecord] = []
        shim.on_exit(seen.append)
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        script = f"(read x < {fifo}; seq 100000; exit 5) & echo $!"
        done = await shim.run(["/bin/sh", "-c", script], timeout=SECONDS)
        pid = int(done.output)
        assert alive(pid)
        await asyncio.to_thread(fifo.write_text, "go\n")
        await until(lambda: seen)
        assert [(record.pid, record.status) for record in seen] == [(pid, 5)]
        assert shim.records(shim.directory) == seen

    in_shim(tmp_path, body)


# Exits


def test_every_orphan_is_recorded_before_it_is_told(tmp_path: Path) -> None:
    async def body(shim: Shim) -> None:
        seen: list[ExitRecord] = []

        def told(record: ExitRecord) -> None:
            seen.append(record)
            assert record in shim.records(shim.directory)

        shim.on_exit(told)
        before = time.time_ns()
        reader, writer = os.pipe()
        script = "for i in $(seq 300); do (read x <&9; exit $((i % 100))) & echo $!; done"
        done = await shim.run(["/bin/sh", "-c", script], fds={9: reader}, timeout=SECONDS)
        pids = [int(pid) for pid in done.output.split()]
        os.close(reader)
        os.close(writer)  # all end at once, with no parent but the shim
        await until(lambda: len(seen) >= 300)
        assert {record.pid: record.status for record in seen} == {pid: (i + 1) % 100 for i, pid in enumerate(pids)}
        assert [record.sequence for record in seen] == list(range(300))
        assert all(before < record.time_ns < time.time_ns() and not record.oom for record in seen)
        assert shim.records(shim.directory) == seen

    in_shim(tmp_path, body)


def test_old_records_become_a_hole(tmp_path: Path) -> None:
    """With a file that already has many records, the next ones give the oldest back."""
    tmp_path.joinpath("s").mkdir()
    one = struct.Struct("<QqIiII")
    data = b"".join(one.pack(n, 1, 1, 0, 0, 0) for n in range(40_000))
    (tmp_path / "s" / "exits").write_bytes(data + b"torn")

    async def body(shim: Shim) -> None:
        seen: list[ExitRecord] = []
        shim.on_exit(seen.append)
        await shim.run(["/bin/sh", "-c", "(sleep 0.1; exit 4) &"], timeout=SECONDS)
        await until(lambda: seen)
        records = shim.records(shim.directory)
        assert records[-1] == seen[0]
        assert records[-1].sequence == 40_000
        assert 32_000 < len(records) < 34_000
        assert [record.sequence for record in records] == list(range(40_001 - len(records), 40_001))

    in_shim(tmp_path / "s", body)


def test_exits_wait_for_a_full_filesystem(tmp_path: Path) -> None:
    """The reserve holds 128; for the rest the kernel keeps the dead until there is room. Programs end all the same."""
    small = tmp_path / "small"
    small.mkdir()
    assert LIBC.mount(b"none", str(small).encode(), b"tmpfs", ctypes.c_ulong(0), b"size=64k") == 0
    filler = small / "filler"

    def fill() -> None:
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass

    async def body(shim: Shim) -> None:
        fill()
        seen: list[ExitRecord] = []
        shim.on_exit(seen.append)
        reader, writer = os.pipe()
        script = "for i in $(seq 200); do (read x <&9; exit 6) & done"
        await shim.run(["/bin/sh", "-c", script], fds={9: reader}, timeout=SECONDS)
        os.close(reader)
        os.close(writer)
        await until(lambda: len(seen) == 128)
        assert (await shim.run(["/bin/echo", "on"], timeout=SECONDS)).output == b"on\n"
        assert len(shim.records(shim.directory)) == 128
        filler.unlink()
        await until(lambda: len(seen) == 200)
        assert shim.records(shim.directory) == seen
        assert {record.status for record in seen} == {6}

    try:
        in_shim(small / "s", body)
    finally:
        assert LIBC.umount2(str(small).encode(), MNT_DETACH) == 0


ADOPTED = """
import asyncio, sys
from daemon.runtime.nursery import Nursery
async def main(nursery, directory):
    shim = await nursery.shim(directory)
    done = await shim.run(["/bin/sh", "-c", "(read x < fifo; exit 9) & echo $!"], cwd=directory, timeout=20)
    asyncio.ensure_future(shim.run(["/bin/sleep", "1000"], timeout=None))
    print(shim.pid, nursery.pid, int(done.output), flush=True)
    await asyncio.sleep(1000)
asyncio.run(main(Nursery.fork(), sys.argv[1]))
"""


def test_a_shim_outlives_its_daemon(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    daemon = subprocess.Popen(
        [sys.executable, "-c", ADOPTED, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT, start_new_session=True
    )
    assert daemon.stdout is not None
    pid, nursery, orphan = map(int, daemon.stdout.readline().split())
    daemon.kill()
    daemon.wait()
    daemon.stdout.close()

    async def main() -> None:
        await until(lambda: not alive(nursery))
        assert alive(pid)
        assert Shim.records(str(tmp_path)) == []
        (tmp_path / "fifo").write_text("go\n")  # the exit happens while nobody is connected
        await until(lambda: Shim.records(str(tmp_path)))
        shim = await Shim.connect(str(tmp_path))
        assert shim.pid == pid
        assert [(r.pid, r.status) for r in Shim.records(str(tmp_path))] == [(orphan, 9)]
        assert (await shim.run(["/bin/echo", "on"], timeout=SECONDS)).output == b"on\n"
        closed: list[str] = []
        other = await Shim.connect(str(tmp_path))
        other.on_close(lambda: closed.append("closed"))
        await shim.shutdown()
        await until(lambda: closed)
        with pytest.raises(errors.Unavailable):
            await Shim.connect(str(tmp_path))
        assert len(Shim.records(str(tmp_path))) == 1

    asyncio.run(main())


def test_exits_before_a_connection_is_taken_are_told(tmp_path: Path) -> None:
    """A shim that is stopped, or only slow, is connected to before it knows."""

    async def body(shim: Shim) -> None:
        done = await shim.run(["/bin/sh", "-c", "(exec sleep 1000 > /dev/null) & echo $!"], timeout=SECONDS)
        orphan = int(done.output)
        os.kill(shim.pid, signal.SIGSTOP)
        os.kill(orphan, signal.SIGKILL)
        other = await Shim.connect(shim.directory)
        seen: list[ExitRecord] = []
        assert other.catch_up() == []
        other.on_exit(seen.append)
        os.kill(shim.pid, signal.SIGCONT)
        await until(lambda: seen)
        assert [(record.pid, record.status) for record in seen] == [(orphan, 137)]
        assert other.catch_up() == seen
        await other.run(["/bin/true"], timeout=SECONDS)
        assert len(seen) == 1
        other.close()

    in_shim(tmp_path, body)


def test_killed_shim_is_noticed(tmp_path: Path) -> None:
    async def body(shim: Shim) -> None:
        closed: list[str] = []
        shim.on_close(lambda: closed.append("closed"))
        running = asyncio.create_task(shim.run(["/bin/sleep", "5"], timeout=None))
        os.kill(shim.pid, signal.SIGKILL)
        with pytest.raises(errors.Unavailable):
            await running
        await until(lambda: closed)
        assert closed == ["closed"]

    in_shim(tmp_path, body)


def test_every_connection_is_told_and_the_newest_gets_in(tmp_path: Path) -> None:
    async def body(shim: Shim) -> None:
        others = [await Shim.connect(shim.directory) for _ in range(20)]
        await others[-1].run(["/bin/sh", "-c", "(exit 3) &"], timeout=SECONDS)
        seen: list[ExitRecord] = []
        others[-1].on_exit(seen.append)
        await until(lambda: seen)
        for other in others:
            other.close()

    async def main() -> None:
        directory = tmp_path / "s"
        directory.mkdir()
        nursery = Nursery.fork()
        shim = await nursery.shim(str(directory))
        await body(shim)
        last = await Shim.connect(str(directory))
        await last.shutdown()
        shim.close()
        nursery.close()

    asyncio.run(main())


def test_a_client_that_never_reads_stops_nobody(tmp_path: Path) -> None:
    async def body(shim: Shim) -> None:
        deaf = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        deaf.setblocking(False)
        deaf.connect(f"{shim.directory}/shim.sock")
        request = struct.pack("<BBHI", 1, 6, 0, 1) + b"nobody\0"
        with contextlib.suppress(BlockingIOError):
            for _ in range(100_000):
                deaf.send(request)
        await shim.run(["/bin/sh", "-c", "for i in $(seq 50); do (exit 1) & done"], timeout=SECONDS)
        await until(lambda: len(shim.records(shim.directory)) == 50)
        # Once it reads, it has every answer and every exit.
        answers = exits = 0
        deaf.setblocking(True)
        deaf.settimeout(SECONDS)
        while exits < 50:
            message = await asyncio.to_thread(deaf.recv, 100)
            if message[1] == 1:
                exits += 1
            else:
                answers += 1
        assert answers
        deaf.close()

    in_shim(tmp_path, body)


def test_malformed_requests_are_answered(tmp_path: Path) -> None:
    head = struct.Struct("<BBHI")
    run = struct.Struct("<QIHHHHI")
    bad = [
        b"\x01",
        b"\x01\x02\x00\x00",
        head.pack(9, 2, 0, 1),
        *(head.pack(1, operation, 0, 1) for operation in (*range(12), 13, 14, 255)),
        *(head.pack(1, operation, 0, 1) + b"x" * 9 for operation in (*range(2, 12), 13)),
        *(head.pack(1, operation, 0, 1) + b"x\0" for operation in (4, 7, 9)),
        head.pack(1, 2, 0, 1) + run.pack(0, 0, 0, 0, 0, 0, 0) + b"/\0",
        head.pack(1, 2, 0, 1) + run.pack(0, 0, 1, 0, 3, 0, 0) + b"/\0/bin/true\0",
        head.pack(1, 2, 0, 1) + run.pack(0, 0, 65535, 65535, 0, 65535, 0) + b"/\0",
        head.pack(1, 2, 0, 1) + run.pack(0, 0, 2, 0, 0, 0, 0) + b"/\0/bin/true\0",
        head.pack(1, 2, 0, 1) + run.pack(0, 0, 1, 0, 0, 16, 0) + b"/\0",
        head.pack(1, 3, 0, 1) + struct.pack("<II", 77, 9),
        head.pack(1, 4, 0, 1) + b"n" * 1000 + b"\0",
        head.pack(1, 9, 0, 1) + b"relative\0n\0",
        head.pack(1, 9, 0, 1) + b"/" + b"n" * 5000 + b"\0n\0",
        head.pack(1, 5, 0, 1) + b"x" * 140_000,
    ]

    async def body(shim: Shim) -> None:
        raw = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        raw.connect(f"{shim.directory}/shim.sock")
        raw.settimeout(SECONDS)
        held = 0
        for message in bad:
            raw.send(message)
            reply = await asyncio.to_thread(raw.recv, 1000)
            assert struct.unpack_from("<i", reply, 8)[0] != 0, message[:40]
            held = held or len(await descriptors(shim))
        # More descriptors than asked for, or more than are taken, are closed.
        for count in (2, 16, 17, 100):
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0] * count))]
            raw.sendmsg([head.pack(1, 4, 0, 1) + b"n\0"], rights)
            reply = await asyncio.to_thread(raw.recv, 1000)
            assert struct.unpack_from("<i", reply, 8)[0] != 0
        assert len(await descriptors(shim)) == held
        raw.close()
        assert (await shim.run(["/bin/true"], timeout=SECONDS)).status == 0

    in_shim(tmp_path, body)


def random_request(random: Random, directory: Path) -> tuple[bytes, int]:
    """Something like a request, and how many descriptors to send with it. Never a shutdown or a mount."""
    operation = random.choice([2, 2, 2, 3, 4, 5, 6, 7, 9, 10, 11, 13, 200])
    words = [b"a", b"b", b"", b"n" * 127, b"n" * 128, b"%s/c" % os.fsencode(directory), b"/", b"/no/such", b"/bin/true"]

    def strings(count: int) -> bytes:
        return b"".join(random.choice(words) + b"\0" for _ in range(count))

    count = random.choice([0, 0, 1, 1, 2, 16])
    if operation == 2:
        argv = random.choice([b"/bin/true\0", b"/bin/seq\0" + b"20000\0", b"/bin/sh\0-c\0(echo x) & :\0", b"/no\0"])
        named = random.randrange(3)
        body = struct.pack("<QIHHHHI", random.choice([0, 1, 10**9, 2**64 - 1]), random.choice([0, 1, 5000, 2**32 - 1]),
                           argv.count(b"\0"), 0, count, named, 0)  # fmt: skip
        body += b"".join(struct.pack("<I", random.choice([0, 1, 2, 7, 255, 2**32 - 1])) for _ in range(count + named))
        body += b"/\0" + argv + strings(named)
    elif operation == 3:
        body = struct.pack("<II", random.randrange(50), random.choice([0, 9, 15, 2**32 - 1]))
    elif operation == 13:
        body = struct.pack("<Q", random.choice([0, 1, 100, 2**64 - 1]))
    else:
        body = (bytes(8) if operation == 10 else b"") + strings(random.randrange(3))
    message = bytearray(struct.pack("<BBHI", 1, operation, 0, random.randrange(50)) + body)
    for _ in range(random.choice([0, 0, 0, 1, 3])):
        message[random.randrange(2, len(message))] = random.randrange(256)
    return bytes(message[: random.choice([len(message), len(message), random.randrange(1, len(message))])]), count


def test_random_requests_do_it_no_harm(tmp_path: Path) -> None:
    async def body(shim: Shim) -> None:
        random = Random(1)
        connections: list[socket.socket] = []
        for _ in range(5000):
            if len(connections) < 3:
                connections.append(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
                connections[-1].setblocking(False)
                connections[-1].connect(f"{shim.directory}/shim.sock")
            raw = random.choice(connections)
            message, count = random_request(random, tmp_path)
            with contextlib.suppress(BlockingIOError):
                socket.send_fds(raw, [message], [0] * count)
            with contextlib.suppress(BlockingIOError):
                while random.random() < 0.9:
                    for fd in socket.recv_fds(raw, 100_000, 16)[1]:
                        os.close(fd)
            if random.random() < 0.01:
                connections.remove(raw)
                raw.close()
                await asyncio.sleep(0)
        for raw in connections:
            raw.close()
        last = await Shim.connect(shim.directory)
        assert (await last.run(["/bin/echo", "on"], timeout=SECONDS)).output == b"on\n"
        last.close()
        assert len(os.listdir(f"/proc/{shim.pid}/fd")) < 1024

    in_shim(tmp_path, body)


# Descriptors and consoles


def test_descriptors_by_name(tmp_path: Path) -> None:
    async def body(shim: Shim) -> None:
        reader, writer = os.pipe()
        await shim.keep("out", writer)
        await shim.keep("in", reader)
        os.close(reader)
        os.close(writer)
        await shim.run(["/bin/echo", "written"], names={1: "out"}, timeout=SECONDS)
        assert (await shim.run(["/usr/bin/head", "-n1"], names={0: "in"}, timeout=SECONDS)).output == b"written\n"
        again = await shim.fetch("in")
        await shim.keep("out", again)  # in place of the one it had, the last writer
        assert await asyncio.to_thread(os.read, again, 1) == b""
        os.close(again)
        await shim.drop("in")
        for call in (shim.drop("in"), shim.fetch("in"), shim.resize("in", 1, 1)):
            with pytest.raises(errors.NotFound):
                await call
        with pytest.raises(errors.InvalidArgument):
            await shim.keep("", 0)

    in_shim(tmp_path, body)


def test_many_names(tmp_path: Path) -> None:
    async def body(shim: Shim) -> None:
        for n in range(300):
            await shim.keep(f"fd-{n}", 0)
        held = len(await descriptors(shim))
        for n in range(300):
            await shim.drop(f"fd-{n}")
        assert len(await descriptors(shim)) == held - 300

    in_shim(tmp_path, body)


SEND_PTY = """
import os, pty, socket, sys
master, slave = pty.openpty()
os.write(slave, b"hello")
peer = socket.socket(socket.AF_UNIX)
peer.connect(sys.argv[1])
socket.send_fds(peer, [b"/dev/ptmx"], [master])
"""


def test_console_is_held_when_the_program_has_ended(tmp_path: Path) -> None:
    async def body(shim: Shim) -> None:
        path = str(tmp_path / "console.sock")
        await shim.console(path, "pty")
        with pytest.raises(errors.NotFound):
            await shim.fetch("pty")
        with pytest.raises(errors.AlreadyExists):
            await shim.console(path, "pty")
        with pytest.raises(errors.AlreadyExists):
            await shim.console(path, "other")
        done = await shim.run([sys.executable, "-c", SEND_PTY, path], timeout=SECONDS)
        assert done == (0, b"")
        await shim.resize("pty", 132, 43)
        master = await shim.fetch("pty")
        assert termios.tcgetwinsize(master) == (43, 132)
        assert os.read(master, 100) == b"hello"
        os.close(master)
        assert not exists(path)

    in_shim(tmp_path, body)


def test_console_nobody_comes_to(tmp_path: Path) -> None:
    async def body(shim: Shim) -> None:
        held = await descriptors(shim)
        folder = tmp_path / ("long" * 40)
        folder.mkdir()
        path = folder / "console.sock"
        await shim.console(str(path), "pty")
        await shim.drop("pty")
        assert not exists(path)
        await shim.console(str(path), "pty")
        peer = socket.socket(socket.AF_UNIX)
        opened = os.open(folder, os.O_PATH)
        peer.connect(f"/proc/self/fd/{opened}/{path.name}")
        os.close(opened)
        peer.send(b"no descriptor")
        peer.close()
        await until(lambda: not exists(path))
        with pytest.raises(errors.NotFound):
            await shim.fetch("pty")
        assert await descriptors(shim) == held
        with pytest.raises(errors.NotFound):
            await shim.console(str(tmp_path / "absent" / "c"), "pty")

    in_shim(tmp_path, body)


def test_a_program_on_a_terminal(tmp_path: Path) -> None:
    async def body(shim: Shim) -> None:
        master, slave = pty.openpty()
        await shim.keep("tty", slave)
        os.close(slave)
        await shim.run(["/usr/bin/tty"], names={0: "tty", 1: "tty"}, timeout=SECONDS)
        assert select.select([master], [], [], SECONDS)[0]
        assert os.read(master, 100).startswith(b"/dev/pts/")
        os.close(master)

    in_shim(tmp_path, body)


# Mounts


def new_mount_call(number: int, *arguments: object) -> int:
    packed = [ctypes.c_char_p(a.encode()) if isinstance(a, str) else a for a in arguments]
    result = int(LIBC.syscall(number, *packed))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def detached(type: str, **options: str) -> int:
    fs = new_mount_call(FSOPEN, type, 1)
    try:
        for key, value in options.items():
            new_mount_call(FSCONFIG, fs, 1, key, value, 0)
        new_mount_call(FSCONFIG, fs, 6, None, None, 0)
        return new_mount_call(FSMOUNT, fs, 1, 0)
    finally:
        os.close(fs)


@pytest.fixture
def state() -> Iterator[Path]:
    """A directory that is a private mount, as the daemon's state directory is."""
    path = Path(f"/run/holdd-test-{os.getpid()}")
    path.mkdir()
    assert LIBC.mount(str(path).encode(), str(path).encode(), None, ctypes.c_ulong(MS_BIND), None) == 0
    assert LIBC.mount(None, str(path).encode(), None, ctypes.c_ulong(MS_PRIVATE), None) == 0
    yield path
    assert LIBC.umount2(str(path).encode(), MNT_DETACH) == 0
    shutil.rmtree(path)


def test_a_mount_that_only_the_shim_sees(state: Path, tmp_path: Path) -> None:
    for name in ("lower", "upper", "work"):
        (tmp_path / name).mkdir()
    (tmp_path / "lower" / "file").write_text("from below")
    target = state / "c1" / "rootfs"
    target.mkdir(parents=True)

    async def body(shim: Shim) -> None:
        layers = {"lowerdir": "lower", "upperdir": "upper", "workdir": "work"}
        mount = detached("overlay", **{key: str(tmp_path / name) for key, name in layers.items()})
        await shim.attach(mount, str(target))
        os.close(mount)
        assert (await shim.run(["/bin/cat", str(target / "file")], timeout=SECONDS)).output == b"from below"
        assert not mounted(target)
        assert os.listdir(target) == []
        await shim.mount("tmpfs", "none", str(target), 0, "size=1m")
        assert (await shim.run(["/bin/ls", str(target)], timeout=SECONDS)).output == b""
        assert not mounted(target)
        with pytest.raises(errors.NotFound):
            await shim.mount("tmpfs", "none", str(target / "absent"), 0, "")
        with pytest.raises(errors.Error):
            await shim.attach(shim._socket.fileno(), str(target))

    in_shim(state / "c1", body)


def oci_config(bundle: Path, args: list[str], *, terminal: bool = False) -> None:
    subprocess.run(["runc", "spec", "--bundle", str(bundle)], check=True)
    path = bundle / "config.json"
    config = json.loads(path.read_text())
    config["process"] |= {"args": args, "terminal": terminal}
    config["root"] = {"path": "rootfs"}
    config["linux"]["cgroupsPath"] = f"/holdd-test/{os.getpid()}"
    config["linux"]["resources"]["memory"] = {"limit": 32 << 20, "swap": 32 << 20}
    path.write_text(json.dumps(config))


@pytest.fixture
def bundle(state: Path, tmp_path: Path) -> Iterator[Path]:
    """A bundle whose rootfs, busybox alone, is yet to be attached."""
    for name in ("lower/bin", "upper", "work"):
        (tmp_path / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", tmp_path / "lower" / "bin" / "busybox")
    (state / "c1" / "rootfs").mkdir(parents=True)
    yield state / "c1"
    cgroups.remove("holdd-test")


async def create(shim: Shim, bundle: Path, layers: Path, *options: str, fds: dict[int, int]) -> int:
    """Attach the rootfs and create container c1; its init's pid."""
    names = {"lowerdir": "lower", "upperdir": "upper", "workdir": "work"}
    mount = detached("overlay", **{key: str(layers / name) for key, name in names.items()})
    await shim.attach(mount, str(bundle / "rootfs"))
    os.close(mount)
    done = await runc(shim, "create", "--bundle", str(bundle), "--pid-file", str(bundle / "pid"), *options, fds=fds)
    assert done == 0, (bundle / "log").read_text()
    return int(await asyncio.to_thread((bundle / "pid").read_text))


async def runc(shim: Shim, *arguments: str, fds: dict[int, int] | None = None) -> int:
    argv = ["runc", "--root", f"{shim.directory}/runc", "--log", f"{shim.directory}/log", *arguments, "c1"]
    return (await shim.run(argv, env=[f"PATH={os.environ['PATH']}"], fds=fds, timeout=SECONDS)).status


def test_a_container(bundle: Path, tmp_path: Path) -> None:
    oci_config(bundle, ["/bin/busybox", "sh", "-c", "echo from inside; exit 42"])

    async def body(shim: Shim) -> None:
        seen: list[ExitRecord] = []
        shim.on_exit(seen.append)
        reader, writer = os.pipe()
        pid = await create(shim, bundle, tmp_path, fds={1: writer, 2: writer})
        os.close(writer)
        assert await runc(shim, "start") == 0
        assert await asyncio.to_thread(os.read, reader, 100) == b"from inside\n"
        await until(lambda: seen)
        assert [(record.pid, record.status) for record in seen] == [(pid, 42)]
        assert os.read(reader, 100) == b""
        os.close(reader)
        assert await runc(shim, "delete") == 0
        assert not mounted(bundle / "rootfs")

    in_shim(bundle, body)


def test_a_container_with_captured_output_of_create(bundle: Path, tmp_path: Path) -> None:
    """The container's stdio is then the captured pipe, which must neither delay create nor break."""
    oci_config(bundle, ["/bin/busybox", "sh", "-c", "/bin/busybox seq 100000; exit 3"])

    async def body(shim: Shim) -> None:
        seen: list[ExitRecord] = []
        shim.on_exit(seen.append)
        pid = await create(shim, bundle, tmp_path, fds={})
        assert await runc(shim, "start") == 0
        await until(lambda: seen)
        assert [(record.pid, record.status) for record in seen] == [(pid, 3)]
        assert await runc(shim, "delete") == 0

    in_shim(bundle, body)


def test_a_container_with_a_terminal(bundle: Path, tmp_path: Path) -> None:
    oci_config(bundle, ["/bin/busybox", "sh", "-c", "/bin/busybox stty size; exit 0"], terminal=True)

    async def body(shim: Shim) -> None:
        seen: list[ExitRecord] = []
        shim.on_exit(seen.append)
        socket_path = str(bundle / "console.sock")
        await shim.console(socket_path, "console")
        await create(shim, bundle, tmp_path, "--console-socket", socket_path, fds={})
        await shim.resize("console", 100, 30)
        master = await shim.fetch("console")
        assert await runc(shim, "start") == 0
        await until(lambda: seen)
        assert os.read(master, 100).split() == [b"30", b"100"]
        os.close(master)
        assert await runc(shim, "delete") == 0

    in_shim(bundle, body)


def test_a_container_killed_for_memory(bundle: Path, tmp_path: Path) -> None:
    script = "x=1; while :; do x=$x$x; done"
    oci_config(bundle, ["/bin/busybox", "sh", "-c", script])
    hierarchy = Path("/sys/fs/cgroup/memory")
    memory = (hierarchy if hierarchy.is_dir() else hierarchy.parent) / "holdd-test" / str(os.getpid())

    async def body(shim: Shim) -> None:
        seen: list[ExitRecord] = []
        shim.on_exit(seen.append)
        with pytest.raises(errors.NotFound):
            await shim.watch_oom(str(memory / "absent"))
        pid = await create(shim, bundle, tmp_path, fds={})
        await shim.watch_oom(str(memory))
        assert await runc(shim, "start") == 0
        await until(lambda: seen)
        assert [record[1:3] + record[4:] for record in seen] == [(pid, 137, True, 1, False)]
        assert shim.records(shim.directory) == seen
        assert await runc(shim, "delete") == 0

    in_shim(bundle, body)
