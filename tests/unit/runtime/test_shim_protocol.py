"""What the daemon's end says to a shim and makes of its answers, against a peer that speaks bytes."""

import array
import asyncio
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from daemon.runtime.shim import ExitRecord, Finished, Shim
from spec import errors

Body = Callable[[Shim, socket.socket], Awaitable[None]]


def with_peer(body: Body) -> None:
    """Run `body` with a Shim and the other end of its connection."""

    async def main() -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        theirs.settimeout(10)
        with theirs:
            shim = Shim("/state/c1", ours)
            try:
                await body(shim, theirs)
            finally:
                shim.close()

    asyncio.run(main())


async def asked(peer: socket.socket) -> tuple[int, int, bytes, list[int]]:
    """The next request: operation, id, body, descriptors."""
    message, fds, _, _ = await asyncio.to_thread(socket.recv_fds, peer, 1 << 18, 16)
    version, operation, zero, request_id = struct.unpack_from("<BBHI", message)
    assert (version, zero) == (1, 0)
    return operation, request_id, message[8:], fds


def answer(operation: int, request_id: int, error: int = 0, body: bytes = b"", stage: int = 0) -> bytes:
    return struct.pack("<BBHIi", 1, operation, stage, request_id, error) + body


def exit_record(sequence: int, pid: int, status: int, time_ns: int = 5, flags: int = 0) -> bytes:
    return struct.pack("<QqIiII", sequence, time_ns, pid, status, flags, 0)


def test_run_is_laid_out_as_drawn() -> None:
    async def body(shim: Shim, peer: socket.socket) -> None:
        running = asyncio.create_task(
            shim.run(["/bin/x", "a"], env=["K=v"], cwd="/d", fds={1: peer.fileno()}, names={2: "err"},
                     keep_output=7, timeout=1.5)
        )  # fmt: skip
        operation, request_id, request, fds = await asked(peer)
        os.close(fds.pop())
        assert fds == []
        assert operation == 2
        assert struct.unpack_from("<QIHHHHI", request) == (1_500_000_000, 7, 2, 1, 1, 1, 0)
        assert request[24:] == struct.pack("<II", 1, 2) + b"/d\0/bin/x\0a\0K=v\0err\0"
        peer.send(answer(2, request_id, body=struct.pack("<iI", 3, 0) + b"tail"))
        assert await running == Finished(3, b"tail")

    with_peer(body)


def test_bare_program_is_found_in_the_path_it_is_given(tmp_path: Path) -> None:
    program = tmp_path / "prog"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)

    async def body(shim: Shim, peer: socket.socket) -> None:
        running = asyncio.create_task(shim.run(["prog"], env=[f"PATH={tmp_path}"], timeout=None))
        _, request_id, request, _ = await asked(peer)
        assert struct.unpack_from("<Q", request) == (0,)
        assert request[24:].split(b"\0")[1] == str(program).encode()
        peer.send(answer(2, request_id, body=struct.pack("<iI", 0, 0)))
        await running
        with pytest.raises(errors.NotFound):
            await shim.run(["no-such-program"], env=[f"PATH={tmp_path}"], timeout=None)

    with_peer(body)


@pytest.mark.parametrize(
    ("number", "stage", "cls", "text"),
    [
        (2, 1, errors.NotFound, "run /bin/x"),
        (2, 2, errors.NotFound, "change to its directory"),
        (2, 3, errors.NotFound, "named descriptor"),
        (13, 1, errors.PermissionDenied, "run /bin/x"),
        (11, 5, errors.Unavailable, "fork"),
    ],
)
def test_a_run_that_did_not_start(number: int, stage: int, cls: type[errors.Error], text: str) -> None:
    async def body(shim: Shim, peer: socket.socket) -> None:
        running = asyncio.create_task(shim.run(["/bin/x"], timeout=None))
        _, request_id, _, _ = await asked(peer)
        peer.send(answer(2, request_id, number, stage=stage))
        with pytest.raises(cls, match=text):
            await running

    with_peer(body)


def test_expired_run_tells_its_output() -> None:
    async def body(shim: Shim, peer: socket.socket) -> None:
        running = asyncio.create_task(shim.run(["/bin/x"], timeout=9))
        _, request_id, _, _ = await asked(peer)
        peer.send(answer(2, request_id, body=struct.pack("<iI", 137, 1) + b"stuck at 3"))
        with pytest.raises(errors.DeadlineExceeded, match="stuck at 3"):
            await running

    with_peer(body)


def test_cancelled_run_is_killed() -> None:
    async def body(shim: Shim, peer: socket.socket) -> None:
        running = asyncio.create_task(shim.run(["/bin/x"], timeout=None))
        _, request_id, _, _ = await asked(peer)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        operation, _, request, _ = await asked(peer)
        assert (operation, request) == (3, struct.pack("<II", request_id, 9))

    with_peer(body)


def test_answers_come_in_any_order() -> None:
    async def body(shim: Shim, peer: socket.socket) -> None:
        runs = [asyncio.create_task(shim.run([f"/bin/{name}"], timeout=None)) for name in "abc"]
        requests = [await asked(peer) for _ in runs]
        for _, request_id, request, _ in reversed(requests):
            peer.send(answer(2, request_id, body=struct.pack("<iI", 0, 0) + request[24:].split(b"\0")[1]))
        assert [(await run).output for run in runs] == [b"/bin/a", b"/bin/b", b"/bin/c"]

    with_peer(body)


def test_small_requests_are_laid_out_as_drawn() -> None:
    async def body(shim: Shim, peer: socket.socket) -> None:
        async def told(call: Awaitable[None]) -> tuple[int, bytes, int]:
            calling = asyncio.ensure_future(call)
            operation, request_id, request, fds = await asked(peer)
            for fd in fds:
                os.close(fd)
            peer.send(answer(operation, request_id))
            await calling
            return operation, request, len(fds)

        fd = peer.fileno()
        assert await told(shim.keep("n", fd)) == (4, b"n\0", 1)
        assert await told(shim.drop("n")) == (6, b"n\0", 0)
        assert await told(shim.attach(fd, "/t")) == (7, b"/t\0", 1)
        assert await told(shim.mount("tmpfs", "s", "/t", 3, "d")) == (8, struct.pack("<Q", 3) + b"tmpfs\0s\0/t\0d\0", 0)
        assert await told(shim.console("/p", "n")) == (9, b"/p\0n\0", 0)
        assert await told(shim.resize("n", 80, 24)) == (10, struct.pack("<HHI", 80, 24, 0) + b"n\0", 0)
        assert await told(shim.watch_oom("/c")) == (11, b"/c\0", 0)

    with_peer(body)


def test_fetch_gives_a_descriptor_to_the_caller() -> None:
    async def body(shim: Shim, peer: socket.socket) -> None:
        fetching = asyncio.create_task(shim.fetch("n"))
        operation, request_id, request, _ = await asked(peer)
        assert (operation, request) == (5, b"n\0")
        rights = array.array("i", [peer.fileno()])
        peer.sendmsg([answer(5, request_id)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        fd = await fetching
        assert os.fstat(fd).st_ino == os.fstat(peer.fileno()).st_ino
        assert not os.get_inheritable(fd)
        os.close(fd)

    with_peer(body)


def test_descriptor_for_nobody_is_closed() -> None:
    async def body(shim: Shim, peer: socket.socket) -> None:
        reader, writer = os.pipe()
        rights = array.array("i", [writer])
        peer.sendmsg([answer(5, 99)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        os.close(writer)
        assert await asyncio.to_thread(os.read, reader, 1) == b""
        os.close(reader)

    with_peer(body)


def test_exits_told_before_anyone_listens_are_kept() -> None:
    async def body(shim: Shim, peer: socket.socket) -> None:
        peer.send(answer(1, 0, body=exit_record(4, 10, 0)))
        dropping = asyncio.create_task(shim.drop("n"))
        _, request_id, _, _ = await asked(peer)
        peer.send(answer(6, request_id))
        await dropping
        seen: list[ExitRecord] = []
        shim.on_exit(seen.append)
        assert seen == [ExitRecord(4, 10, 0, 5, False)]
        arrived = asyncio.Event()
        shim.on_exit(lambda record: arrived.set())
        peer.send(answer(1, 0, body=exit_record(5, 11, 137, flags=1)))
        await asyncio.wait_for(arrived.wait(), 10)
        assert seen[1] == ExitRecord(5, 11, 137, 5, True)

    with_peer(body)


@pytest.mark.parametrize("last", [b"", b"\x01\x02", b"\x09" + bytes(40)])
def test_lost_connection_fails_what_waits(last: bytes) -> None:
    async def body(shim: Shim, peer: socket.socket) -> None:
        closed: list[str] = []
        shim.on_close(lambda: closed.append("closed"))
        running = asyncio.create_task(shim.run(["/bin/x"], timeout=None))
        await asked(peer)
        if last:
            peer.send(last)
        else:
            peer.shutdown(socket.SHUT_RDWR)
        with pytest.raises(errors.Unavailable):
            await running
        with pytest.raises(errors.Unavailable):
            await shim.drop("n")
        assert closed == ["closed"]

    with_peer(body)


def test_requests_that_cannot_be_right_are_not_sent() -> None:
    async def body(shim: Shim, peer: socket.socket) -> None:
        with pytest.raises(errors.InvalidArgument):
            await shim.run([], timeout=None)
        with pytest.raises(errors.InvalidArgument):
            await shim.run(["/bin/x", "a\0b"], timeout=None)
        with pytest.raises(errors.InvalidArgument):
            await shim.run(["/bin/x", "a" * 200_000], timeout=None)
        with pytest.raises(errors.InvalidArgument):
            await shim.resize("n", 65536, 1)
        peer.setblocking(False)
        with pytest.raises(BlockingIOError):
            peer.recv(1)

    with_peer(body)


def test_a_full_socket_delays_requests() -> None:
    async def body(shim: Shim, peer: socket.socket) -> None:
        runs = [asyncio.create_task(shim.run(["/bin/x", "a" * 60_000], timeout=None)) for _ in range(20)]
        for _ in runs:
            _, request_id, _, _ = await asked(peer)
            peer.send(answer(2, request_id, body=struct.pack("<iI", 0, 0)))
        assert await asyncio.gather(*runs) == [Finished(0, b"")] * 20

    with_peer(body)


def test_records_of_a_directory(tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound):
        Shim.records(str(tmp_path))
    file = tmp_path / "exits"
    file.write_bytes(b"")
    assert Shim.records(str(tmp_path)) == []
    file.write_bytes(exit_record(0, 7, 1) + exit_record(1, 8, 137, flags=1) + b"torn")
    assert Shim.records(str(tmp_path)) == [ExitRecord(0, 7, 1, 5, False), ExitRecord(1, 8, 137, 5, True)]


def test_records_skip_the_hole_of_old_ones(tmp_path: Path) -> None:
    with open(tmp_path / "exits", "wb") as file:
        file.seek(32 * 1_000_000)
        file.write(exit_record(1_000_000, 7, 1))
    assert Shim.records(str(tmp_path)) == [ExitRecord(1_000_000, 7, 1, 5, False)]


def test_to_catch_up_is_to_read_what_is_on_file_and_ask_for_the_rest(tmp_path: Path) -> None:
    async def body(shim: Shim, peer: socket.socket) -> None:
        shim.directory = str(tmp_path)
        (tmp_path / "exits").write_bytes(b"")
        assert shim.catch_up() == []
        assert (await asked(peer))[::2] == (13, struct.pack("<Q", 0))
        (tmp_path / "exits").write_bytes(exit_record(0, 7, 1) + exit_record(1, 8, 2))
        assert [record.pid for record in shim.catch_up()] == [7, 8]
        assert (await asked(peer))[::2] == (13, struct.pack("<Q", 2))
        peer.close()
        assert [record.pid for record in shim.catch_up()] == [7, 8]

    with_peer(body)


def test_nobody_serves(tmp_path: Path) -> None:
    async def main() -> None:
        for directory in (tmp_path, tmp_path / "absent"):
            with pytest.raises(errors.Unavailable):
                await Shim.connect(str(directory))

    asyncio.run(main())
