"""Real shims that speak this and other versions of the protocol, and daemons of other versions."""

import asyncio
import os
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from daemon.runtime.nursery import Nursery
from daemon.runtime.shim import VERSION, ExitRecord, Shim
from spec import errors
from tests import shimwire1

pytestmark = pytest.mark.root

SECONDS = 20.0
HELLO = 14


def shim_that_speaks(oldest: int, newest: int, directory: Path, body: Callable[[Shim], Awaitable[None]]) -> None:
    async def main() -> None:
        nursery = Nursery.fork()
        nursery.speaks = (oldest, newest)
        try:
            shim = await nursery.shim(str(directory))
            try:
                await body(shim)
            finally:
                await shim.shutdown()
        finally:
            nursery.close()

    asyncio.run(asyncio.wait_for(main(), 60))


async def until(ready: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not ready():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


class Raw:
    """Another daemon's connection, byte for byte."""

    def __init__(self, directory: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(SECONDS)
        self.socket.connect(str(directory / "shim.sock"))
        self.id = 0

    def asked(self, message: bytes, fds: tuple[int, ...] = ()) -> tuple[bytes, list[int]]:
        socket.send_fds(self.socket, [message], fds)
        answer, received, _, _ = socket.recv_fds(self.socket, 1 << 18, 16)
        return answer, received

    def asked1(self, name: str, answer: str = "", fds: tuple[int, ...] = ()) -> list[int]:
        """A request of version 1, which must be answered as version 1 did; descriptors."""
        self.id += 1
        got, received = self.asked(shimwire1.packed(shimwire1.REQUESTS[name][0], self.id), fds)
        assert got == shimwire1.packed(shimwire1.ANSWERS[answer or name], self.id)
        return received


@pytest.mark.parametrize("speaks", [(0, 0), (1, 1), (1, VERSION + 1)])
def test_a_daemon_of_version_1_is_answered_as_ever(speaks: tuple[int, int], tmp_path: Path) -> None:
    async def body(shim: Shim) -> None:
        def peer() -> None:
            raw = Raw(tmp_path)
            reader, writer = os.pipe()
            raw.asked1("keep", fds=(writer,))
            raw.asked1("run", fds=(writer,))
            os.close(writer)
            (held,) = raw.asked1("fetch")
            os.close(held)
            raw.asked1("drop")
            raw.asked1("drop", "no such name")
            assert os.read(reader, 10) == b"h\n"
            assert os.read(reader, 10) == b""
            os.close(reader)
            later = raw.asked(b"\x01\x63\0\0\x07\0\0\0n\0")[0]
            assert later == shimwire1.packed(shimwire1.ANSWERS["no such operation"], 7)
            wrong = raw.asked(bytes([VERSION + 7]) + b"\x06\0\0\x08\0\0\0n\0")[0]
            assert wrong == shimwire1.packed(shimwire1.ANSWERS["no such version"], 8)
            raw.socket.close()

        await asyncio.to_thread(peer)

    shim_that_speaks(*speaks, tmp_path, body)


@pytest.mark.parametrize("speaks", [(0, 0), (1, 1)])
def test_exits_are_told_to_a_daemon_of_version_1_as_ever(speaks: tuple[int, int], tmp_path: Path) -> None:
    async def body(shim: Shim) -> None:
        raw = Raw(tmp_path)
        orphan = await shim.run(["/bin/sh", "-c", "(sleep 0.2; exit 7) >/dev/null 2>&1 & echo $!"], timeout=SECONDS)
        notice = await asyncio.to_thread(raw.socket.recv, 1000)
        (record,) = Shim.records(str(tmp_path))
        assert notice == shimwire1.packed(
            shimwire1.EXIT,
            sequence=struct.pack("<Q", record.sequence),
            time=struct.pack("<q", record.time_ns),
            pid=struct.pack("<I", int(orphan.output)),
        )
        raw.socket.close()

    shim_that_speaks(*speaks, tmp_path, body)


def test_a_shim_that_shall_speak_version_1_knows_no_hello(tmp_path: Path) -> None:
    async def body(shim: Shim) -> None:
        raw = Raw(tmp_path)
        asked = asyncio.to_thread(raw.asked, struct.pack("<BBHIBBH", 1, HELLO, 0, 0, VERSION, 1, 0))
        assert (await asked)[0] == shimwire1.packed(shimwire1.ANSWERS["hello"])
        raw.socket.close()

    shim_that_speaks(1, 1, tmp_path, body)


def test_hello_is_answered_in_any_version(tmp_path: Path) -> None:
    async def body(shim: Shim) -> None:
        raw = Raw(tmp_path)
        for sent in (1, VERSION, 0, 200):
            answer, _ = await asyncio.to_thread(raw.asked, struct.pack("<BBHIBBH", sent, HELLO, 0, 9, VERSION, 1, 0))
            assert answer == struct.pack("<BBHIiBBH", VERSION, HELLO, 0, 9, 0, VERSION, 1, 0)
        answer, _ = await asyncio.to_thread(raw.asked, struct.pack("<BBHIBB", 1, HELLO, 0, 9, VERSION, 1))
        assert answer == struct.pack("<BBHIi", VERSION, HELLO, 0, 9, 22)
        raw.socket.close()

    shim_that_speaks(0, 0, tmp_path, body)


@pytest.mark.parametrize(
    ("speaks", "spoken"), [((0, 0), VERSION), ((1, 1), 1), ((1, VERSION + 1), VERSION), ((VERSION, VERSION), VERSION)]
)
def test_all_that_a_shim_does_it_does_in_each_version(speaks: tuple[int, int], spoken: int, tmp_path: Path) -> None:
    async def body(shim: Shim) -> None:
        seen: list[ExitRecord] = []
        shim.on_exit(seen.append)
        done = await shim.run(["/bin/sh", "-c", "echo out; (exit 5) >/dev/null 2>&1 & exit 3"], timeout=SECONDS)
        assert (done.status, done.output) == (3, b"out\n")
        assert (shim.version, shim.stranger) == (spoken, "")
        await until(lambda: seen)
        assert [record.status for record in seen] == [5]
        assert shim.catch_up() == seen
        with pytest.raises(errors.DeadlineExceeded):
            await shim.run(["/bin/sleep", "1000"], timeout=0.1)
        reader, writer = os.pipe()
        await shim.keep("pipe", writer)
        os.close(writer)
        os.close(await shim.fetch("pipe"))
        await shim.drop("pipe")
        os.close(reader)
        again = await Shim.connect(str(tmp_path))
        assert (await again.run(["/bin/true"], timeout=SECONDS)).status == 0
        assert again.version == spoken
        again.close()

    shim_that_speaks(*speaks, tmp_path, body)


def test_a_shim_that_speaks_no_version_of_ours_can_be_ended(tmp_path: Path) -> None:
    async def body(shim: Shim) -> None:
        with pytest.raises(errors.Unimplemented, match=r"speaks versions 5 to 9 of its protocol, and this holdd"):
            await shim.run(["/bin/true"], timeout=SECONDS)
        raw = Raw(tmp_path)
        drop = struct.pack("<BBHI", 2, 6, 0, 3) + b"n\0"
        assert (await asyncio.to_thread(raw.asked, drop))[0] == struct.pack("<BBHIi", 9, 6, 0, 3, 93)
        raw.socket.close()

    shim_that_speaks(5, 9, tmp_path, body)
    assert not (tmp_path / "shim.sock").exists()
