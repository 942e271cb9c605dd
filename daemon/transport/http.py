"""The metrics endpoint: HTTP/1.1, GET of one path, to anyone who may connect. Knows no metric.

Everything is bounded: connections, the request, and the time in which each may send it or take its answer. A body is
made once for all who ask at the same time, and again when it is older than its age allows.
"""

import asyncio
import contextlib
import errno
import ipaddress
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable

from daemon.transport.unix import clear_stale
from spec import errors

PATH = "/v1/metrics"
CONNECTIONS = 64
REFUSED = 4 * CONNECTIONS  # beyond these nobody is even told so
REQUEST_BYTES = 16 << 10
PATIENCE_S = 10.0  # for a request, and for the peer to take a part of the answer
IDLE_S = 120.0  # between two requests; scrapers come every minute, or more often
PART_BYTES = 64 << 10
UNIX = "unix://"

log = logging.getLogger("holdd.transport")


class Page:
    """What `make` makes, kept for `max_age_s`. All who ask while it is made get the one that is being made."""

    def __init__(self, make: Callable[[], Awaitable[bytes]], max_age_s: float) -> None:
        self._make = make
        self._max_age_s = max_age_s
        self._body = b""
        self._made_at_s = float("-inf")
        self._making: asyncio.Task[bytes] | None = None

    async def body(self) -> bytes:
        if time.monotonic() - self._made_at_s < self._max_age_s:
            return self._body
        if self._making is None:
            self._making = asyncio.ensure_future(self._remake())
            self._making.add_done_callback(self._made)
        return await asyncio.shield(self._making)

    async def _remake(self) -> bytes:
        began_s = time.monotonic()
        body = await self._make()
        if self._max_age_s:
            self._body, self._made_at_s = body, began_s
        return body

    def _made(self, making: "asyncio.Task[bytes]") -> None:
        self._making = None
        if not making.cancelled():
            making.exception()  # whoever waits is told; perhaps nobody does any more

    async def close(self) -> None:
        if self._making is not None:
            await asyncio.wait([self._making])


class HttpServer:
    """Serves `page` as `content_type`."""

    def __init__(self, page: Page, content_type: str) -> None:
        self._page = page
        self._type = content_type
        self._server: asyncio.Server | None = None
        self._path = ""
        self._serving: set[asyncio.Task[None]] = set()

    @staticmethod
    def check(address: str) -> None:
        """Raise what `listen` would, and listen nowhere. Blocks."""
        path = address.removeprefix(UNIX)
        if path.startswith("/"):
            clear_stale(path)
            return
        host, port = _split(address)
        try:
            for family, kind, protocol, _, place in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
                with socket.socket(family, kind, protocol) as sock:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as asyncio does
                    if family == socket.AF_INET6:
                        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    sock.bind(place)
        except OSError as exc:
            raise _taken(exc, address) from exc

    async def listen(self, address: str) -> str:
        """`HOST:PORT`, or `unix://PATH`, or a path; where it listens, with the port that 0 became. AlreadyExists when
        the address is taken."""
        path = address.removeprefix(UNIX)
        if path.startswith("/"):
            clear_stale(path)
            self._server = await asyncio.start_unix_server(self._accept, sock=_bound(path), limit=REQUEST_BYTES)
            self._path = path
            return f"{UNIX}{path}"
        host, port = _split(address)
        try:
            self._server = await asyncio.start_server(self._accept, host, port, limit=REQUEST_BYTES)
        except OSError as exc:
            raise _taken(exc, address) from exc
        if not _is_loopback(host):
            log.warning("metrics at %s are for everyone who reaches it", address)
        return f"{host}:{self._server.sockets[0].getsockname()[1]}"

    @property
    def connections(self) -> int:
        """How many peers are being served."""
        return len(self._serving)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._serving:
            task.cancel()
        if self._serving:
            await asyncio.wait(self._serving)
        await self._page.close()
        if self._path:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if len(self._serving) > REFUSED:
                return
            while await self._one(reader, writer, len(self._serving) > CONNECTIONS):
                pass
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # the peer is gone, too slow, or says too much
        except asyncio.CancelledError:
            pass  # we are stopping
        finally:
            writer.transport.abort()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, busy: bool) -> bool:
        """Answer a request; whether there may be another. `busy` ones are turned away once they have asked, for else
        what they send would reset the connection before they read why."""
        async with asyncio.timeout(PATIENCE_S if busy else IDLE_S):
            first = await reader.readuntil(b"\n")
        async with asyncio.timeout(PATIENCE_S):
            keep = await _keeps(reader, first)
        method, _, rest = first.partition(b" ")
        target = rest.partition(b" ")[0].partition(b"?")[0]
        if busy:
            await _answer(writer, 503, b"too many connections\n", close=True)
        elif target != PATH.encode():
            await _answer(writer, 404, f"metrics are at {PATH}\n".encode(), close=True)
        elif method != b"GET":
            await _answer(writer, 405, b"GET it\n", close=True)
        else:
            try:
                body = await self._page.body()
            except Exception:
                log.exception("making the metrics")
                await _answer(writer, 500, b"see the daemon's log\n", close=True)
                return False
            await _answer(writer, 200, body, self._type, close=not keep)
            return keep
        return False


async def _keeps(reader: asyncio.StreamReader, first: bytes) -> bool:
    """Read the rest of a request's head; whether the connection is kept. A body is never asked for, so that one that is
    sent ends it (RFC 9112, 9.3 and 6.3)."""
    keep, size = first.rstrip().endswith(b"HTTP/1.1"), 0
    while line := (await reader.readuntil(b"\n")).strip():
        size += len(line)
        name, _, value = line.lower().partition(b":")
        if name in (b"content-length", b"transfer-encoding") and value.strip() != b"0":
            keep = False
        elif name == b"connection":
            keep = keep and b"close" not in value
        if size > REQUEST_BYTES:
            raise asyncio.LimitOverrunError("the head is too long", size)
    return keep


_REASONS = {
    200: "OK", 404: "Not Found", 405: "Method Not Allowed", 500: "Internal Server Error", 503: "Service Unavailable",
}  # fmt: skip


async def _answer(
    writer: asyncio.StreamWriter, status: int, body: bytes, type: str = "text/plain; charset=utf-8", close: bool = False
) -> None:
    """In parts, each of which the peer takes in time: no more of a body is ever queued than one."""
    lines = [f"HTTP/1.1 {status} {_REASONS[status]}", f"Content-Type: {type}", f"Content-Length: {len(body)}"]
    if status == 405:
        lines.append("Allow: GET")
    if close:
        lines.append("Connection: close")
    writer.write("\r\n".join([*lines, "", ""]).encode())
    view = memoryview(body)
    for start in range(0, len(body), PART_BYTES):
        writer.write(view[start : start + PART_BYTES])
        async with asyncio.timeout(PATIENCE_S):
            await writer.drain()
    if close:
        writer.write_eof()
        async with asyncio.timeout(PATIENCE_S):
            writer.transport.set_write_buffer_limits(0)
            await writer.drain()


def _bound(path: str) -> socket.socket:
    """A socket that root alone may connect to, from the first moment on."""
    sock = socket.socket(socket.AF_UNIX)
    umask = os.umask(0o177)
    try:
        sock.bind(path)
    except OSError as exc:
        sock.close()
        raise _taken(exc, path) from exc
    finally:
        os.umask(umask)
    return sock


def _split(address: str) -> tuple[str, int]:
    """Host, in brackets if it is one of IPv6, and port."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535 or not host.strip("[]"):
        raise errors.InvalidArgument(f"metrics: address {address!r} is neither HOST:PORT nor unix:///PATH")
    return host.strip("[]"), int(port)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _taken(exc: OSError, address: str) -> errors.Error:
    """What keeps us from an address, in the words of the system."""
    reason = os.strerror(exc.errno) if exc.errno and exc.errno > 0 else exc.strerror or str(exc)
    message = f"metrics: listen at {address}: {reason.lower()}"
    return errors.AlreadyExists(message) if exc.errno == errno.EADDRINUSE else errors.FailedPrecondition(message)
