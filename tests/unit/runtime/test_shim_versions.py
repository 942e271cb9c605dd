"""How the daemon's end finds out which version of the protocol a shim speaks, against a peer that speaks bytes."""

import asyncio
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from daemon.runtime.shim import VERSION, ExitRecord, Finished, Shim
from spec import errors
from tests import shimwire1
from tests.unit.runtime.test_shim_protocol import answer, exit_record, with_peer

HELLO = 14


async def received(peer: socket.socket) -> tuple[bytes, list[int]]:
    message, fds, _, _ = await asyncio.to_thread(socket.recv_fds, peer, 1 << 18, 16)
    return message, fds


async def greeted(shim: Shim, peer: socket.socket, reply: bytes) -> None:
    """Let the shim say hello, answered by `reply`, and take that in."""
    shim._greet()
    assert (await received(peer))[0] == struct.pack("<BBHIBBH", 1, HELLO, 0, 0, VERSION, 1, 0)
    peer.send(reply)
    for _ in range(2):  # the first turn of the loop reads what is there
        await asyncio.sleep(0)


def hello(version: int, oldest: int, more: bytes = b"") -> bytes:
    return struct.pack("<BBHIiBBH", version, HELLO, 0, 0, 0, version, oldest, 0) + more


OLD = shimwire1.packed(shimwire1.ANSWERS["hello"])


@pytest.mark.parametrize(
    ("reply", "spoken"),
    [
        (OLD, 1),
        (struct.pack("<BBHIi", 1, HELLO, 0, 0, 93), 1),
        (hello(1, 1), 1),
        (hello(VERSION, 1), VERSION),
        (hello(VERSION + 1, 1), VERSION),
        (hello(VERSION + 7, 1, b"more than there is today"), VERSION),
    ],
)
def test_both_speak_the_highest_that_both_know(reply: bytes, spoken: int) -> None:
    async def body(shim: Shim, peer: socket.socket) -> None:
        await greeted(shim, peer, reply)
        assert (shim.version, shim.stranger) == (spoken, "")
        dropping = asyncio.create_task(shim.drop("n"))
        message, _ = await received(peer)
        assert message[0] == spoken
        peer.send(struct.pack("<BBHIi", spoken, 6, 0, struct.unpack_from("<I", message, 4)[0], 0))
        await dropping

    with_peer(body)


def test_what_is_asked_waits_until_the_version_is_known() -> None:
    async def body(shim: Shim, peer: socket.socket) -> None:
        shim._greet()
        await received(peer)
        dropping = asyncio.create_task(shim.drop("n"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(dropping), 0.1)
        peer.setblocking(False)
        with pytest.raises(BlockingIOError):
            peer.recv(1)
        peer.settimeout(10)
        peer.send(hello(VERSION, VERSION))
        message, _ = await received(peer)
        assert message[:2] == bytes([VERSION, 13])  # from where exits are told, once more, in a version that it speaks
        message, _ = await received(peer)
        assert message[0] == VERSION
        peer.send(struct.pack("<BBHIi", VERSION, 6, 0, struct.unpack_from("<I", message, 4)[0], 0))
        await dropping

    with_peer(body)


@pytest.mark.parametrize("name", shimwire1.REQUESTS)
def test_to_a_shim_of_version_1_every_byte_is_what_it_was(name: str, tmp_path: Path) -> None:
    async def body(shim: Shim, peer: socket.socket) -> None:
        await greeted(shim, peer, OLD)
        fd = peer.fileno()
        (tmp_path / "exits").write_bytes(b"".join(exit_record(number, 7, 0) for number in range(5)))
        shim.directory = str(tmp_path)

        async def kills() -> None:
            running = asyncio.create_task(shim.run(["/bin/true"], timeout=None))
            await received(peer)
            running.cancel()
            await asyncio.wait([running])

        async def follows() -> None:
            shim.catch_up()

        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "run": lambda: shim.run(
                ["/bin/echo", "h"], env=["K=v"], fds={1: fd}, names={2: "out"}, keep_output=7, timeout=1.5
            ),
            "kill": kills,
            "keep": lambda: shim.keep("out", fd),
            "fetch": lambda: shim.fetch("out"),
            "drop": lambda: shim.drop("out"),
            "attach": lambda: shim.attach(fd, "/t"),
            "mount": lambda: shim.mount("tmpfs", "s", "/t", 3, "d"),
            "console": lambda: shim.console("/c.sock", "pty"),
            "resize": lambda: shim.resize("pty", 80, 24),
            "watch oom": lambda: shim.watch_oom("/c"),
            "shutdown": shim.shutdown,
            "follow": follows,
        }
        calling = asyncio.ensure_future(calls[name]())
        if name == "kill":
            await calling
        message, fds = await received(peer)
        for lent in fds:
            os.close(lent)
        text, count = shimwire1.REQUESTS[name]
        id = struct.unpack_from("<I", message, 8 if name == "kill" else 4)[0]
        assert (message, len(fds)) == (shimwire1.packed(text, id), count)
        calling.cancel()
        await asyncio.wait([calling])

    with_peer(body)


def test_what_an_older_shim_cannot_do_names_it_and_its_version() -> None:
    async def body(shim: Shim, peer: socket.socket) -> None:
        await greeted(shim, peer, OLD)
        dropping = asyncio.create_task(shim.drop("n"))
        message, _ = await received(peer)
        peer.send(answer(6, struct.unpack_from("<I", message, 4)[0], error=38))
        with pytest.raises(errors.Unimplemented, match=r"descriptor n: .*; the shim of /state/c1 speaks version 1 "):
            await dropping

    with_peer(body)


def test_what_a_later_version_adds_is_skipped() -> None:
    async def body(shim: Shim, peer: socket.socket) -> None:
        await greeted(shim, peer, hello(VERSION + 1, 1))
        seen: list[ExitRecord] = []
        shim.on_exit(seen.append)
        shim.on_kill(lambda: pytest.fail("told of a kill"))
        peer.send(struct.pack("<BBHIi", VERSION, 99, 0, 0, 0) + b"a notice of tomorrow")
        peer.send(struct.pack("<BBHIi", VERSION, 1, 0, 0, 0) + exit_record(0, 7, 3) + b"and its load")
        running = asyncio.create_task(shim.run(["/bin/x"], keep_output=0, timeout=None))
        message, _ = await received(peer)
        id = struct.unpack_from("<I", message, 4)[0]
        peer.send(struct.pack("<BBHIiiI", VERSION, 2, 0, id, 0, 3, 0))
        assert await running == Finished(3, b"")
        assert seen == [ExitRecord(0, 7, 3, 5, False)]

    with_peer(body)


@pytest.mark.parametrize(("version", "oldest", "said"), [(9, 5, "versions 5 to 9"), (5, 5, "version 5")])
def test_a_shim_that_speaks_no_version_of_ours(version: int, oldest: int, said: str) -> None:
    async def body(shim: Shim, peer: socket.socket) -> None:
        closed: list[str] = []
        met: list[str] = []
        shim.on_close(lambda: closed.append("closed"))
        shim.on_stranger(lambda: met.append(shim.stranger))
        shim._greet()
        running = asyncio.create_task(shim.run(["/bin/x"], timeout=None))
        await received(peer)
        peer.send(hello(version, oldest))
        words = rf"the shim of /state/c1 speaks {said} of its protocol, and this holdd versions 1 to 2: use .* or kill"
        with pytest.raises(errors.Unimplemented, match=words):
            await running
        with pytest.raises(errors.Unimplemented, match=f"drop descriptor n: {words}"):
            await shim.drop("n")
        peer.send(struct.pack("<BBHIi", version, 1, 0, 0, 0) + b"what that says nobody knows")
        shim.on_stranger(lambda: met.append("late"))
        assert (closed, met) == ([], [shim.stranger, "late"])
        peer.setblocking(False)
        with pytest.raises(BlockingIOError):
            peer.recv(1)

    with_peer(body)


def test_kills_for_memory_are_told_as_they_come() -> None:
    async def body(shim: Shim, peer: socket.socket) -> None:
        await greeted(shim, peer, hello(2, 1))
        told: list[str] = []
        arrived = asyncio.Event()
        peer.send(struct.pack("<BBHIiII", 2, 15, 0, 0, 0, 1, 1))
        await greeted(shim, peer, hello(2, 1))
        shim.on_kill(lambda: told.append("kill"))
        assert told == ["kill"]
        shim.on_kill(arrived.set)
        arrived.clear()
        peer.send(struct.pack("<BBHIiII", 2, 15, 0, 0, 0, 2, 1))
        await asyncio.wait_for(arrived.wait(), 10)
        assert told == ["kill", "kill"]

    with_peer(body)
