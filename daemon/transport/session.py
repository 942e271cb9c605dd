"""The server's half of the protocol on one connection: streams, deadlines, cancellation. Knows frames, no socket."""

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

from daemon.kit.cancel import Token
from daemon.kit.context import CALL, Call, Peer
from daemon.transport.dispatch import Dispatcher, Observed, Route
from spec import errors, wire
from spec.base import Request
from spec.names import check_namespace

MAX_STREAMS = 1024
INBOX_HIGH = 16  # messages of one duplex stream that wait; above it, nothing more is read from the connection
YIELD_EVERY = 32  # messages of a stream after which others get their turn, if the peer reads as fast as we write

log = logging.getLogger("holdd.transport")


class Link(Protocol):
    """What a session needs of its connection."""

    peer: Peer

    def write(self, data: bytearray, fds: Sequence[int] = ()) -> None:
        """Send, or queue to be sent. Never blocks or raises; steals `fds`. Does nothing once the peer is gone."""

    async def drain(self) -> None:
        """Wait while much is queued. Unavailable once the peer is gone."""

    def hold(self) -> None:
        """Read no more until as many `release`."""

    def release(self) -> None: ...

    def finish(self) -> None:
        """Close once what is queued has been sent."""


class Inbox:
    """What the client sends on one duplex stream, as an asynchronous iterator of requests."""

    def __init__(self, route: Route, link: Link) -> None:
        self._route = route
        self._link = link
        self.received = 0
        self._bodies: deque[bytes] = deque()
        self._ended = False
        self._held = False
        self._waiter: asyncio.Future[None] | None = None

    def put(self, body: bytes) -> None:
        """InvalidArgument after the end."""
        if self._ended:
            raise errors.InvalidArgument(f"sending to {self._route.path}: the stream was half-closed already")
        self._bodies.append(body)
        self.received += 1
        if len(self._bodies) > INBOX_HIGH and not self._held:
            self._held = True
            self._link.hold()
        self._wake()

    def end(self) -> None:
        self._ended = True
        self._wake()

    def close(self) -> None:
        """Nobody iterates any more."""
        self._ended = True
        self._bodies.clear()
        self._unhold()

    def __aiter__(self) -> "Inbox":
        return self

    async def __anext__(self) -> Request:
        while not self._bodies:
            if self._ended:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        body = self._bodies.popleft()
        if len(self._bodies) <= INBOX_HIGH // 2:
            self._unhold()
        return self._route.decode(body)

    def _unhold(self) -> None:
        if self._held:
            self._held = False
            self._link.release()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Stream:
    """One call that runs as a task."""

    def __init__(self, id: int, route: Route, token: Token, fds: list[int]) -> None:
        self.id = id
        self.route = route
        self.token = token
        self.fds = fds
        self.observed: Observed | None = None
        self.inbox: Inbox | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.task: asyncio.Task[None] | None = None
        self.running = False
        self.sent = 0
        self.reason: errors.Error | None = None

    def cancel(self, reason: errors.Error) -> None:
        """End it with `reason`. A task that has not begun yet must begin, to clean up after itself."""
        if self.reason is None:
            self.reason = reason
            self.token.cancel(reason.message)
            if self.task is not None and self.running:
                self.task.cancel()

    def take_fds(self) -> list[int]:
        fds, self.fds = self.fds, []
        return fds


class Session:
    """Made by the connection, fed with its frames, and told when the peer is gone."""

    def __init__(self, dispatcher: Dispatcher, link: Link, loop: asyncio.AbstractEventLoop) -> None:
        self._dispatcher = dispatcher
        self._link = link
        self._loop = loop
        self._streams: dict[int, Stream] = {}
        self._last = 0
        self._idle: asyncio.Event = asyncio.Event()
        self._idle.set()

    def accept(self, frame: wire.Frame) -> None:
        """Take one frame; never raises."""
        if frame.type == wire.REQUEST:
            self._open(frame)
            return
        _close(frame.fds)
        if frame.type == wire.RESPONSE or frame.stream > self._last:
            message = f"reading a frame of type {frame.type} on stream {frame.stream}: it was not expected"
            self.fail(wire.Fault(frame.stream, errors.InvalidArgument(message)))
        elif frame.type == wire.DATA:
            self._feed(frame)
        elif stream := self._streams.get(frame.stream):
            stream.cancel(errors.Canceled(f"{stream.route.path}: canceled by the caller"))

    def fail(self, fault: wire.Fault) -> None:
        """Say what is wrong and end the connection."""
        log.warning("connection of pid %d: %s", self._link.peer.pid, fault.error.message)
        self._link.write(wire.failure(fault.stream, fault.error))
        self._link.finish()
        self.cancel_all(errors.Canceled("the connection failed"))

    def lost(self) -> None:
        """The peer is gone: nothing that it asked for is wanted any more."""
        self.cancel_all(errors.Canceled("the caller is gone"))

    def cancel_all(self, reason: errors.Error) -> None:
        for stream in list(self._streams.values()):
            stream.cancel(reason)

    async def ended(self) -> None:
        """Wait until no call runs."""
        await self._idle.wait()

    def _open(self, frame: wire.Frame) -> None:
        if frame.stream % 2 == 0 or frame.stream <= self._last:
            _close(frame.fds)
            message = f"opening stream {frame.stream}: ids must be odd and rise, the last was {self._last}"
            self.fail(wire.Fault(frame.stream, errors.InvalidArgument(message)))
            return
        self._last = frame.stream
        try:
            request = wire.decode_request(frame.body)
            route = self._dispatcher.route(request.service, request.method)
            self._check(route, request, frame)
            argument = None if route.duplex else route.decode(request.payload)
        except errors.Error as exc:
            _close(frame.fds)
            self._link.write(wire.failure(frame.stream, exc))
            return
        if route.inline:
            self._answer(frame, route, request.metadata, argument)
        else:
            self._spawn(frame, route, request, argument)

    def _check(self, route: Route, request: wire.Request, frame: wire.Frame) -> None:
        if frame.fds and not route.takes:
            raise errors.InvalidArgument(f"calling {route.path}: it takes no descriptors")
        if namespace := request.metadata.get(wire.NAMESPACE):
            check_namespace(namespace)
        elif route.namespaced:
            raise errors.FailedPrecondition(f"calling {route.path}: a namespace is required")
        if len(self._streams) >= MAX_STREAMS:
            raise errors.ResourceExhausted(f"calling {route.path}: {MAX_STREAMS} calls are under way already")

    def _observed(self, route: Route, metadata: dict[str, str]) -> Observed | None:
        return self._dispatcher.observed(route, metadata.get(wire.NAMESPACE, ""), metadata.get(wire.TRACE, ""))

    def _call(self, metadata: dict[str, str], token: Token | None, observed: Observed | None) -> Call:
        return Call(
            namespace=metadata.get(wire.NAMESPACE, ""),
            lease=metadata.get(wire.LEASE, ""),
            trace=observed.trace if observed else metadata.get(wire.TRACE, ""),
            peer=self._link.peer,
            cancel=token,
        )

    def _answer(self, frame: wire.Frame, route: Route, metadata: dict[str, str], argument: Request | None) -> None:
        """The fast path: no task, no timer."""
        observed = self._observed(route, metadata)
        code = 0
        reset = CALL.set(self._call(metadata, None, observed))
        try:
            result = route.handler(argument, frame.fds) if route.takes else route.handler(argument)
            self._respond(frame.stream, route, result)
        except Exception as exc:
            code = self._refuse(frame.stream, route, exc)
        finally:
            CALL.reset(reset)
        if observed:
            observed.sent = 0 if code else 1
            self._dispatcher.ended(observed, code)

    def _spawn(self, frame: wire.Frame, route: Route, request: wire.Request, argument: Request | None) -> None:
        deadline_ns = time.monotonic_ns() + request.timeout_ns if request.timeout_ns > 0 else 0
        token = Token(deadline_ns)
        stream = Stream(frame.stream, route, token, frame.fds)
        if route.duplex:
            stream.inbox = Inbox(route, self._link)
            if not frame.flags & wire.NO_DATA:
                stream.inbox.put(bytes(request.payload))
            if frame.flags & wire.REMOTE_CLOSED:
                stream.inbox.end()
        if request.timeout_ns > 0:
            late = errors.DeadlineExceeded(f"{route.path}: the deadline of {request.timeout_ns / 1e9:g} s has passed")
            stream.timer = self._loop.call_later(request.timeout_ns / 1e9, stream.cancel, late)
        self._streams[stream.id] = stream
        self._idle.clear()
        stream.observed = self._observed(route, request.metadata)
        reset = CALL.set(self._call(request.metadata, token, stream.observed))
        try:
            stream.task = self._loop.create_task(self._run(stream, argument))
        finally:
            CALL.reset(reset)

    def _feed(self, frame: wire.Frame) -> None:
        stream = self._streams.get(frame.stream)
        if stream is None:
            return  # it ended before the client could know
        if stream.inbox is None:
            stream.cancel(errors.InvalidArgument(f"{stream.route.path}: takes one request and no stream"))
            return
        try:
            if not frame.flags & wire.NO_DATA:
                stream.inbox.put(frame.body)
            if frame.flags & wire.REMOTE_CLOSED:
                stream.inbox.end()
        except errors.Error as exc:
            stream.cancel(exc)

    async def _run(self, stream: Stream, argument: Request | None) -> None:
        stream.running = True
        code = 0
        try:
            if stream.reason is not None:
                raise stream.reason
            await self._serve(stream, argument)
        except asyncio.CancelledError:
            code = self._refuse(stream.id, stream.route, stream.reason or errors.Canceled("the daemon is stopping"))
        except Exception as exc:
            code = self._refuse(stream.id, stream.route, stream.reason or exc)
        finally:
            self._forget(stream)
        if stream.observed:
            stream.observed.sent = stream.sent if stream.route.streams else 0 if code else 1
            if stream.inbox is not None:
                stream.observed.received = stream.inbox.received
            self._dispatcher.ended(stream.observed, code)

    async def _serve(self, stream: Stream, argument: Request | None) -> None:
        route = stream.route
        if route.streams:
            source = argument if stream.inbox is None else stream.inbox
            assert source is not None
            # Runs when the handler has got to where it waits for the first time, or has sent something already.
            self._loop.call_soon(self._opened, stream)
            await self._send_all(stream, route.replies(source, stream.take_fds()))
            self._link.write(wire.response(stream.id, wire.NIL))
        elif route.takes:
            self._respond(stream.id, route, await route.handler(argument, stream.take_fds()))
        else:
            self._respond(stream.id, route, await route.handler(argument))

    def _opened(self, stream: Stream) -> None:
        if not stream.sent and stream.id in self._streams:
            self._link.write(wire.opened(stream.id))

    async def _send_all(self, stream: Stream, replies: AsyncIterator[Any]) -> None:
        try:
            async for reply in replies:
                self._link.write(wire.data(stream.id, reply))
                stream.sent += 1
                await self._link.drain()
                if stream.sent % YIELD_EVERY == 0:
                    await asyncio.sleep(0)
        finally:
            aclose = getattr(replies, "aclose", None)
            if aclose is not None:
                await aclose()

    def _respond(self, id: int, route: Route, result: Any) -> None:
        if not route.gives:
            self._link.write(wire.response(id, result))
            return
        reply, fds = result
        try:
            data = wire.response(id, reply, len(fds))
        except BaseException:
            _close(fds)
            raise
        self._link.write(data, fds)

    def _refuse(self, id: int, route: Route, exc: BaseException) -> int:
        """Answer with `exc`, whose wire code is returned. What is no error of ours is a defect and is only logged."""
        if not isinstance(exc, errors.Error):
            log.error("%s failed", route.path, exc_info=exc)
            exc = errors.Internal(f"{route.path}: {type(exc).__name__}, see the daemon's log")
        self._link.write(wire.failure(id, exc))
        return exc.code

    def _forget(self, stream: Stream) -> None:
        del self._streams[stream.id]
        _close(stream.take_fds())
        if stream.timer is not None:
            stream.timer.cancel()
        if stream.inbox is not None:
            stream.inbox.close()
        if not self._streams:
            self._idle.set()


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
