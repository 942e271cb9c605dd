"""The client: typed stubs of every service over as many blocking connections as calls are under way.

A connection carries one call at a time, so that a slow stream can never hold up another call. Idle ones are kept and
used again. Safe to use from many threads; a stream belongs to one thread.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Generic, TypeVar

from daemon.client.connection import Connection, close_fds, raise_status
from spec import errors, wire
from spec.api.service import Method
from spec.base import Request
from spec.names import GC_EXPIRE

if TYPE_CHECKING:  # a service's messages are made when it is first called: a start of ctr pays for what it uses
    from spec.api.containers import Containers
    from spec.api.content import Content
    from spec.api.diff import Diff
    from spec.api.events import Events
    from spec.api.images import Images
    from spec.api.introspection import Introspection
    from spec.api.leases import Leases
    from spec.api.namespaces import Namespaces
    from spec.api.snapshots import Snapshots
    from spec.api.tasks import Tasks
    from spec.api.transfer import Transfer
    from spec.api.version import Version
    from spec.records import Labels

Q = TypeVar("Q", bound=Request)
R = TypeVar("R")

KEEP_IDLE = 8
EXPIRES_S = 24 * 3600


class Pool:
    """Connections to one address."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._idle: list[Connection] = []
        self._closed = False

    def take(self, deadline: float | None) -> Connection:
        """An idle one that still works, else a new one."""
        if self._closed:
            raise errors.FailedPrecondition(f"calling {self.address}: the client is closed")
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return Connection(self.address, deadline)
            if connection.alive():
                return connection
            connection.close()

    def give(self, connection: Connection) -> None:
        """Back, with no call under way."""
        self._idle.append(connection)
        if self._closed or len(self._idle) > KEEP_IDLE:
            self._drop_one()

    def close(self) -> None:
        self._closed = True
        while self._idle:
            self._drop_one()

    def _drop_one(self) -> None:
        try:
            connection = self._idle.pop(0)
        except IndexError:
            return
        connection.close()


class Stream(Generic[Q, R]):
    """A call with many messages; a `service.Duplex`, and an iterator over what the server sends. A context manager.

    It has its connection for itself. Dropping or closing it early cancels the call.
    """

    def __init__(self, pool: Pool, connection: Connection, id: int, method: Method[Q, R], deadline: float | None):
        self._pool = pool
        self._connection: Connection | None = connection
        self._id = id
        self._method = method
        self._deadline = deadline
        self._ahead: wire.Frame | None = None

    def opened(self) -> None:
        """Wait until the server is at work on it: from then on a subscription misses nothing."""
        if self._ahead is None:
            self._ahead = self._frame()

    def send(self, message: Q) -> None:
        """The error that ended the stream, if it has ended."""
        self._send(wire.data(self._id, message))

    def close_send(self) -> None:
        self._send(wire.end(self._id))

    def receive(self) -> R:
        """The next message; EOFError when the server has said its last."""
        frame = self._frame()
        while frame.type == wire.DATA and frame.flags & wire.NO_DATA:
            frame = self._frame()
        try:
            if frame.type == wire.DATA:
                return self._method.decode_reply(frame.body)
            response = wire.decode_response(frame.body)
        except BaseException:
            self.close()
            raise
        connection, self._connection = self._connection, None
        assert connection is not None
        self._pool.give(connection)
        raise_status(response)
        raise EOFError

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _frame(self) -> wire.Frame:
        if self._connection is None:
            raise EOFError
        frame, self._ahead = self._ahead, None
        if frame is not None:
            return frame
        try:
            frame = self._connection.receive(self._id, self._deadline)
        except BaseException:
            self.close()
            raise
        close_fds(frame.fds)
        return frame

    def _send(self, data: bytearray) -> None:
        if self._connection is None:
            raise errors.FailedPrecondition(f"sending to {self._method.path}: the stream has ended")
        try:
            self._connection.send(data, (), self._deadline)
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> "Stream[Q, R]":
        return self

    def __next__(self) -> R:
        try:
            return self.receive()
        except EOFError:
            raise StopIteration from None

    def __enter__(self) -> "Stream[Q, R]":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class Client:
    """Calls the daemon at `address`: a path, or unix:///path. A context manager. Satisfies `service.Caller`.

    It connects when it first calls. Every call goes to `namespace`, has `lease` own what it makes, and ends with
    DeadlineExceeded after `timeout_s`. `trace` is the W3C traceparent of what calls are part of. Unavailable when no
    daemon answers.
    """

    def __init__(
        self,
        address: str,
        namespace: str = "",
        lease: str = "",
        timeout_s: float | None = None,
        pool: Pool | None = None,
        trace: str = "",
    ) -> None:
        self.address = address
        self.namespace = namespace
        self.lease = lease
        self.timeout_s = timeout_s
        self.trace = trace
        self._owns = pool is None
        self._pool = pool or Pool(address)
        given = ((wire.NAMESPACE, namespace), (wire.LEASE, lease), (wire.TRACE, trace))
        self._metadata = {key: value for key, value in given if value}

    def using(
        self, namespace: str | None = None, lease: str | None = None, timeout_s: float | None = None
    ) -> "Client":
        """A client of the same connections with other settings; None keeps ours. Good until we are closed."""
        return Client(
            self.address,
            self.namespace if namespace is None else namespace,
            self.lease if lease is None else lease,
            self.timeout_s if timeout_s is None else timeout_s,
            self._pool,
            self.trace,
        )

    @contextmanager
    def leased(self, labels: "Labels | None" = None) -> Iterator["Client"]:
        """A client whose calls make what they make under a lease of its own. That goes with the block, or with our
        process, whichever ends first; what a crash in between leaves of it expires in a day."""
        from spec.api.leases import CreateRequest, HoldRequest, Leases

        expires = datetime.fromtimestamp(time.time() + EXPIRES_S, UTC).isoformat()
        id = self.leases.create(CreateRequest(labels={GC_EXPIRE: expires, **(labels or {})})).id
        holder = Client(self.address, self.namespace, pool=self._pool)  # without our deadline
        with holder.server_stream(Leases.hold, HoldRequest(id=id, delete=True)):
            yield self.using(lease=id)

    def close(self) -> None:
        """Drop idle connections; streams under way keep theirs."""
        if self._owns:
            self._pool.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    # service.Caller.

    def unary(self, method: Method[Q, R], request: Q, fds: Sequence[int]) -> tuple[R, list[int]]:
        deadline = self._deadline()
        connection = self._pool.take(deadline)
        try:
            id = connection.stream()
            connection.send(self._open(id, method, request, wire.REMOTE_CLOSED, len(fds)), fds, deadline)
            frame = connection.receive(id, deadline)
        except BaseException:
            connection.close()
            raise
        self._pool.give(connection)
        return _answer(method, frame)

    def server_stream(self, method: Method[Q, R], request: Q, fds: Sequence[int] = ()) -> Stream[Q, R]:
        """Returns when the server is at work on it."""
        stream = self._start(method, request, wire.REMOTE_CLOSED, fds)
        stream.opened()
        return stream

    def duplex(self, method: Method[Q, R]) -> Stream[Q, R]:
        return self._start(method, None, wire.REMOTE_OPEN | wire.NO_DATA)

    def _start(self, method: Method[Q, R], request: Q | None, flags: int, fds: Sequence[int] = ()) -> Stream[Q, R]:
        deadline = self._deadline()
        connection = self._pool.take(deadline)
        try:
            id = connection.stream()
            connection.send(self._open(id, method, request, flags, len(fds)), fds, deadline)
        except BaseException:
            connection.close()
            raise
        return Stream(self._pool, connection, id, method, deadline)

    def _open(self, id: int, method: Method[Q, R], request: Q | None, flags: int, fd_count: int = 0) -> bytearray:
        timeout_ns = 0 if self.timeout_s is None else max(1, int(self.timeout_s * 1e9))
        return wire.request(
            id,
            method.service.NAME,
            method.name,
            request,
            timeout_ns=timeout_ns,
            metadata=self._metadata,
            flags=flags,
            fd_count=fd_count,
        )

    def _deadline(self) -> float | None:
        return None if self.timeout_s is None else time.monotonic() + self.timeout_s

    # Stubs.

    @cached_property
    def version(self) -> "Version":
        from spec.api.version import Version

        return Version(self)

    @cached_property
    def namespaces(self) -> "Namespaces":
        from spec.api.namespaces import Namespaces

        return Namespaces(self)

    @cached_property
    def images(self) -> "Images":
        from spec.api.images import Images

        return Images(self)

    @cached_property
    def containers(self) -> "Containers":
        from spec.api.containers import Containers

        return Containers(self)

    @cached_property
    def tasks(self) -> "Tasks":
        from spec.api.tasks import Tasks

        return Tasks(self)

    @cached_property
    def snapshots(self) -> "Snapshots":
        from spec.api.snapshots import Snapshots

        return Snapshots(self)

    @cached_property
    def content(self) -> "Content":
        from spec.api.content import Content

        return Content(self)

    @cached_property
    def diff(self) -> "Diff":
        from spec.api.diff import Diff

        return Diff(self)

    @cached_property
    def events(self) -> "Events":
        from spec.api.events import Events

        return Events(self)

    @cached_property
    def introspection(self) -> "Introspection":
        from spec.api.introspection import Introspection

        return Introspection(self)

    @cached_property
    def leases(self) -> "Leases":
        from spec.api.leases import Leases

        return Leases(self)

    @cached_property
    def transfer(self) -> "Transfer":
        from spec.api.transfer import Transfer

        return Transfer(self)


def _answer(method: Method[Q, R], frame: wire.Frame) -> tuple[R, list[int]]:
    try:
        response = wire.decode_response(frame.body)
        raise_status(response)
        reply = method.decode_reply(response.payload)
    except BaseException:
        close_fds(frame.fds)
        raise
    if not method.gives:
        close_fds(frame.fds)
        return reply, []
    return reply, frame.fds
