"""The metrics endpoint over real sockets: what it answers, and what those cost who ask badly or never read."""

import asyncio
import contextlib
import os
import socket
import stat

import pytest

from daemon.transport import http
from daemon.transport.http import CONNECTIONS, HttpServer, Page
from spec import errors

GET = b"GET /v1/metrics HTTP/1.1\r\nHost: x\r\n\r\n"
SECONDS = 60.0


class Made:
    """A page's maker that counts, and waits for `gate` when there is one."""

    def __init__(self, body=b"metric 1\n"):
        self.body = body
        self.count = 0
        self.gate = None
        self.begun = asyncio.Event()

    async def __call__(self):
        self.count += 1
        self.begun.set()
        if self.gate is not None:
            await self.gate.wait()
        if isinstance(self.body, Exception):
            raise self.body
        return self.body


@contextlib.asynccontextmanager
async def served(made, address="127.0.0.1:0", max_age_s=0.0):
    server = HttpServer(Page(made, max_age_s), "text/plain")
    where = await server.listen(address)
    try:
        yield where
    finally:
        await server.close()


async def connected(where):
    if where.startswith("unix://"):
        return await asyncio.open_unix_connection(where[7:])
    host, port = where.rsplit(":", 1)
    return await asyncio.open_connection(host, int(port))


async def answer(reader):
    """Status and body of one answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:] if line)
    return int(head.split()[1]), await reader.readexactly(int(fields["Content-Length"]))


async def ask(where, request=GET):
    """Status and body, and what comes after them until the end."""
    reader, writer = await connected(where)
    writer.write(request)
    writer.write_eof()
    try:
        status, body = await answer(reader)
        assert await reader.read() == b""
        return status, body
    finally:
        writer.close()


def run(work):
    async def bounded():
        async with asyncio.timeout(SECONDS):
            await work

    asyncio.run(bounded())


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (GET, 200),
        (b"GET /v1/metrics?x=1 HTTP/1.0\n\n", 200),
        (b"GET / HTTP/1.1\r\n\r\n", 404),
        (b"GET /v1/metrics/ HTTP/1.1\r\n\r\n", 404),
        (b"POST /v1/metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 405),
        (b"\xff\x00\r\n\r\n", 404),
    ],
)
def test_answers(request_, status):
    async def work():
        async with served(Made()) as where:
            assert (await ask(where, request_))[0] == status

    run(work())


@pytest.mark.parametrize("request_", [b"", b"GET", b"GET /v1/metrics HTTP/1.1\r\n", b"x" * (1 << 20)])
def test_half_a_request_has_no_answer(request_):
    async def work():
        async with served(made := Made()) as where:
            reader, writer = await connected(where)
            with contextlib.suppress(ConnectionError):
                writer.write(request_)
                writer.write_eof()
                assert await reader.read() == b""
            writer.close()
            assert made.count == 0
            assert await ask(where) == (200, made.body)

    run(work())


def test_many_requests_on_one_connection():
    async def work():
        async with served(made := Made()) as where:
            reader, writer = await connected(where)
            for _ in range(3):
                writer.write(GET)
                assert await answer(reader) == (200, made.body)
            writer.write(GET.replace(b"Host: x", b"Connection: close"))
            assert await answer(reader) == (200, made.body)
            assert await reader.read() == b""
            writer.close()

    run(work())


def test_those_who_ask_at_once_get_the_same():
    async def work():
        made = Made()
        async with served(made) as where:
            made.gate = asyncio.Event()
            asking = [asyncio.ensure_future(ask(where)) for _ in range(20)]
            await made.begun.wait()
            made.gate.set()
            assert {body for _, body in await asyncio.gather(*asking)} == {made.body}
            assert made.count < 20

    run(work())


@pytest.mark.parametrize(("max_age_s", "count"), [(0.0, 3), (3600.0, 1)])
def test_age(max_age_s, count):
    async def work():
        async with served(made := Made(), max_age_s=max_age_s) as where:
            for _ in range(3):
                await ask(where)
            assert made.count == count

    run(work())


def test_what_cannot_be_made(caplog):
    async def work():
        async with served(made := Made(ValueError("a secret"))) as where:
            status, body = await ask(where)
            assert (status, b"secret" in body) == (500, False)
            made.body = b"again\n"
            assert await ask(where) == (200, b"again\n")

    run(work())
    assert "a secret" in caplog.text


def test_scrapers_that_stop_reading(monkeypatch):
    """Each is let go in time, with no more queued than a part; others are served meanwhile."""
    monkeypatch.setattr(http, "PATIENCE_S", 2.0)

    async def work():
        made = Made(b"x" * (8 << 20))  # more than the kernel takes for a socket (tcp_wmem)
        server = HttpServer(Page(made, 3600.0), "")
        host, port = (await server.listen("127.0.0.1:0")).rsplit(":", 1)
        with contextlib.ExitStack() as stack:
            for _ in range(8):
                stopped = stack.enter_context(socket.socket())
                stopped.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
                stopped.connect((host, int(port)))
                stopped.sendall(GET)
            assert await ask(f"{host}:{port}") == (200, made.body)
            while server.connections:  # noqa: ASYNC110 what it waits for happens on the same loop
                await asyncio.sleep(0.01)
        await server.close()

    run(work())


def test_one_connection_too_many():
    async def work():
        async with served(Made()) as where:
            idle = [await connected(where) for _ in range(CONNECTIONS)]
            for _, writer in idle[:1]:
                writer.write(GET)
            assert (await answer(idle[0][0]))[0] == 200
            assert (await ask(where))[0] == 503
            idle.pop()[1].close()
            while (await ask(where))[0] != 200:
                pass
            for _, other in idle:
                other.close()

    run(work())


def test_a_unix_socket(tmp_path):
    path = tmp_path / "metrics.sock"

    async def work():
        for address in (f"unix://{path}", str(path)):
            async with served(made := Made(), address) as where:
                assert where == f"unix://{path}"
                assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
                assert await ask(where) == (200, made.body)
                with pytest.raises(errors.AlreadyExists, match="another"):
                    await HttpServer(Page(made, 0), "").listen(address)
            assert not path.exists()

    run(work())


def test_an_address_that_is_taken():
    async def work():
        async with served(Made()) as where:
            with pytest.raises(errors.AlreadyExists, match=f"^metrics: listen at {where}: address already in use$"):
                await HttpServer(Page(Made(), 0), "").listen(where)

    run(work())


@pytest.mark.parametrize("address", ["127.0.0.1", ":80", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536", "[]:1"])
def test_an_address_that_is_none(address):
    async def work():
        with pytest.raises(errors.InvalidArgument, match="metrics: address"):
            await HttpServer(Page(Made(), 0), "").listen(address)

    run(work())


@pytest.mark.parametrize("address", ["192.0.2.1:0", "unix:///nosuch/folder/x"])
def test_an_address_that_cannot_be(address):
    async def work():
        with pytest.raises(errors.Error, match="metrics: listen at"):
            await HttpServer(Page(Made(), 0), "").listen(address)

    run(work())
