"""The asynchronous client: many calls at once on one connection. Knows frames and descriptors, no service.

Frames of all calls share the connection, which has no credits: so that a reader who lags cannot hold up the others,
what waits for it is bounded, and past the bound its call fails with ResourceExhausted. Bulk transfers belong on the
blocking client, or on a connection of their own.
"""

import asyncio
import contextlib
import os
import socket
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Generic, TypeVar

from daemon.client.connection import (
    ANCILLARY_BYTES,
    RECEIVE_BYTES,
    close_fds,
    descriptors,
    path_of,
    raise_status,
)
from spec import errors, wire
from spec.api.service import Method
from spec.base import Request

Q = TypeVar("Q", bound=Request)
R = TypeVar("R")

MAX_WAITING_BYTES = 16 << 20  # received for one stream and not yet asked for
MAX_QUEUED_BYTES = 256 << 10  # unsent, above which senders to streams wait


class Client:
    """Calls the daemon at `address` (a path, or unix:///path). Make it with `connect`; an async context manager.

        async with await connect("/run/holdd/holdd.sock", namespace="default") as client:
            reply = await client.call(Version.version, VersionRequest())
            async for event in client.stream(Events.subscribe, SubscribeRequest()):
                ...
    """

    def __init__(
        self,
        address: str,
        sock: socket.socket,
        namespace: str,
        lease: str,
        timeout_s: float | None,
        trace: str = "",
    ) -> None:
        self.address = address
        self.timeout_s = timeout_s
        given = ((wire.NAMESPACE, namespace), (wire.LEASE, lease), (wire.TRACE, trace))
        self._metadata = {key: value for key, value in given if value}
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._decoder = wire.Decoder()
        self._calls: dict[int, _Call] = {}
        self._next = 1
        self._queue: deque[tuple[memoryview, Sequence[int]]] = deque()
        self._queued = 0
        self._drained: asyncio.Future[None] | None = None
        self._writing = False
        self._broken: errors.Error | None = None
        self._loop.add_reader(sock.fileno(), self._readable)

    async def call(self, method: Method[Q, R], request: Q, fds: Sequence[int] = ()) -> R:
        """The reply of a unary method."""
        reply, received = await self.call_fds(method, request, fds)
        close_fds(received)
        return reply

    async def call_fds(self, method: Method[Q, R], request: Q, fds: Sequence[int] = ()) -> tuple[R, list[int]]:
        """The reply and the descriptors that came with it. `fds` stay the caller's."""
        call = self._start(method, request, wire.REMOTE_CLOSED, fds)
        try:
            async with asyncio.timeout(self.timeout_s):
                frame = await call.next()
        except TimeoutError as exc:
            raise errors.DeadlineExceeded(f"calling {method.path}: the deadline has passed") from exc
        finally:
            self._end(call)
        try:
            response = wire.decode_response(frame.body)
            raise_status(response)
            return method.decode_reply(response.payload), frame.fds
        except BaseException:
            close_fds(frame.fds)
            raise

    async def stream(self, method: Method[Q, R], request: Q, fds: Sequence[int] = ()) -> AsyncIterator[R]:
        """The messages of a server's stream; closing the iterator cancels the call. `fds` stay the caller's."""
        async with Stream(self, method, self._start(method, request, wire.REMOTE_CLOSED, fds)) as stream:
            async for reply in stream:
                yield reply

    def duplex(self, method: Method[Q, R], request: Q | None = None) -> "Stream[Q, R]":
        """Open a stream; with `request` its one message, else `send` them. An async context manager."""
        flags = wire.REMOTE_OPEN | wire.NO_DATA if request is None else wire.REMOTE_CLOSED
        return Stream(self, method, self._start(method, request, flags, ()))

    async def close(self) -> None:
        """Calls under way fail with Canceled."""
        self._break(errors.Canceled(f"calling {self.address}: the client is closed"))

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def _start(self, method: Method[Q, R], request: Q | None, flags: int, fds: Sequence[int]) -> "_Call":
        if self._broken is not None:
            raise self._broken
        id = self._next
        data = wire.request(
            id,
            method.service.NAME,
            method.name,
            request,
            timeout_ns=int(self.timeout_s * 1e9) if self.timeout_s else 0,
            metadata=self._metadata,
            flags=flags,
            fd_count=len(fds),
        )
        self._next += 2
        call = self._calls[id] = _Call(id, self._loop)
        self._write(data, fds)
        return call

    def _end(self, call: "_Call") -> None:
        """Forget the call, and tell the daemon if it is not over."""
        if self._calls.pop(call.id, None) is not None and not call.over and self._broken is None:
            self._write(wire.cancel(call.id))
        call.drop()

    def _write(self, data: bytearray, fds: Sequence[int] = ()) -> None:
        # Duplicates, for it may be a while until they are sent, and their owner may not wait for that.
        self._queue.append((memoryview(data), [os.dup(fd) for fd in fds]))
        self._queued += len(data)
        if not self._writing:
            self._flush()

    async def _drain(self) -> None:
        while self._queued > MAX_QUEUED_BYTES and self._broken is None:
            if self._drained is None:
                self._drained = self._loop.create_future()
            await asyncio.shield(self._drained)

    def _flush(self) -> None:
        try:
            while self._queue:
                data, fds = self._queue[0]
                sent = socket.send_fds(self._sock, [data], list(fds), socket.MSG_NOSIGNAL)
                self._queued -= sent
                close_fds(fds)
                if sent < len(data):
                    self._queue[0] = (data[sent:], ())
                else:
                    self._queue.popleft()
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            # What the daemon said last is still to be read: reading finds out that it is gone.
            self._drop_queue()
        if self._queued <= MAX_QUEUED_BYTES and self._drained is not None:
            self._drained.set_result(None)
            self._drained = None
        if bool(self._queue) != self._writing:
            self._writing = bool(self._queue)
            if self._writing:
                self._loop.add_writer(self._sock.fileno(), self._flush)
            else:
                self._loop.remove_writer(self._sock.fileno())

    def _drop_queue(self) -> None:
        for _, fds in self._queue:
            close_fds(fds)
        self._queue.clear()
        self._queued = 0

    def _readable(self) -> None:
        try:
            data, ancillary, flags, _ = self._sock.recvmsg(RECEIVE_BYTES, ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as exc:
            self._break(errors.Unavailable(f"waiting for {self.address}: {exc.strerror or exc}"))
            return
        for frame in self._decoder.feed(data, descriptors(ancillary)):
            self._take(frame)
        if not data:
            self._break(errors.Unavailable(f"waiting for {self.address}: the daemon hung up"))
        elif flags & socket.MSG_CTRUNC:
            self._break(errors.ResourceExhausted(f"waiting for {self.address}: no descriptors left"))
        elif self._decoder.fault is not None:
            self._break(errors.Internal(f"waiting for {self.address}: {self._decoder.fault.error.message}"))

    def _take(self, frame: wire.Frame) -> None:
        call = self._calls.get(frame.stream)
        if call is not None:
            call.put(frame)
            return
        close_fds(frame.fds)
        if frame.stream == 0 and frame.type == wire.RESPONSE:
            with contextlib.suppress(errors.Internal):
                status = wire.decode_response(frame.body).status
                self._break(errors.from_code(status.code, status.message))

    def _break(self, error: errors.Error) -> None:
        if self._broken is not None:
            return
        self._broken = error
        self._loop.remove_reader(self._sock.fileno())
        if self._writing:
            self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        self._drop_queue()
        close_fds(self._decoder.leftovers())
        if self._drained is not None:
            self._drained.set_result(None)
            self._drained = None
        for call in self._calls.values():
            call.fail(error)


class _Call:
    """What has come for one call."""

    def __init__(self, id: int, loop: asyncio.AbstractEventLoop) -> None:
        self.id = id
        self.over = False
        self._loop = loop
        self._frames: deque[wire.Frame] = deque()
        self._waiting = 0
        self._error: errors.Error | None = None
        self._waiter: asyncio.Future[None] | None = None

    def put(self, frame: wire.Frame) -> None:
        self.over = self.over or frame.type == wire.RESPONSE
        self._waiting += len(frame.body)
        if self._error is not None or (self._waiting > MAX_WAITING_BYTES and not self.over):
            close_fds(frame.fds)
            self.fail(errors.ResourceExhausted("reading a stream: more came than was asked for in time"))
            return
        self._frames.append(frame)
        self._wake()

    def fail(self, error: errors.Error) -> None:
        if not self.over and self._error is None:
            self._error = error
        self._wake()

    async def next(self) -> wire.Frame:
        while not self._frames:
            if self._error is not None:
                raise self._error
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        frame = self._frames.popleft()
        self._waiting -= len(frame.body)
        return frame

    def drop(self) -> None:
        for frame in self._frames:
            close_fds(frame.fds)
        self._frames.clear()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Stream(Generic[Q, R]):
    """A call with many messages. An async context manager and iterator; leaving it early cancels the call."""

    def __init__(self, client: Client, method: Method[Q, R], call: _Call) -> None:
        self._client = client
        self._method = method
        self._call = call
        self._ended = False

    async def send(self, message: Q) -> None:
        self._client._write(wire.data(self._call.id, message))
        await self._client._drain()

    def close_send(self) -> None:
        self._client._write(wire.end(self._call.id))

    async def receive(self) -> R:
        """The next message; EOFError when the server has said its last."""
        if self._ended:
            raise EOFError
        frame = await self._call.next()
        close_fds(frame.fds)
        while frame.type == wire.DATA and frame.flags & wire.NO_DATA:
            frame = await self._call.next()
            close_fds(frame.fds)
        if frame.type == wire.DATA:
            return self._method.decode_reply(frame.body)
        self._ended = True
        raise_status(wire.decode_response(frame.body))
        raise EOFError

    def close(self) -> None:
        self._ended = True
        self._client._end(self._call)

    def __aiter__(self) -> "Stream[Q, R]":
        return self

    async def __anext__(self) -> R:
        try:
            return await self.receive()
        except EOFError:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> "Stream[Q, R]":
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.close()


async def connect(
    address: str, namespace: str = "", lease: str = "", timeout_s: float | None = None, trace: str = ""
) -> Client:
    """A connected client. Unavailable when no daemon answers, PermissionDenied when we may not ask."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        async with asyncio.timeout(timeout_s):
            await asyncio.get_running_loop().sock_connect(sock, path_of(address))
    except TimeoutError as exc:
        sock.close()
        raise errors.DeadlineExceeded(f"connecting to {address}: the deadline has passed") from exc
    except OSError as exc:
        sock.close()
        cls = errors.PermissionDenied if isinstance(exc, PermissionError) else errors.Unavailable
        raise cls(f"connecting to {address}: {(exc.strerror or str(exc)).lower()}") from exc
    except BaseException:
        sock.close()
        raise
    return Client(address, sock, namespace, lease, timeout_s, trace)
