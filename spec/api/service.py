"""How a service is declared: a class whose attributes are its methods.

The one table serves everything that must know the methods: the dispatcher, the client's stubs, the protocol page and
the JSON Schema. A declaration

    class Version(Service):
        NAME = "holdd.services.version.v1.Version"
        version = unary(VersionRequest, VersionReply)

is also the typed stub: `Version(caller).version(VersionRequest())` calls it and returns a VersionReply.

Kinds: `unary`; `server_stream`, which answers with many messages; `duplex`, in which both sides send many. A method
that `takes` or `gives` descriptors passes them beside its request or reply (SCM_RIGHTS).
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import ClassVar, Generic, Protocol, TypeVar, overload

import msgspec

from spec import errors, wire
from spec.base import Reply, Request

Q = TypeVar("Q", bound=Request)
R = TypeVar("R")
Sent = TypeVar("Sent", contravariant=True)
Received = TypeVar("Received", covariant=True)


class Duplex(Protocol[Sent, Received]):
    """A stream both ways, at the client: send, half-close, and iterate over what comes back."""

    def send(self, message: Sent) -> None: ...

    def close_send(self) -> None: ...

    def receive(self) -> Received:
        """The next message; EOFError when the server has said its last."""

    def close(self) -> None:
        """Cancel what is still under way."""


class Caller(Protocol):
    """What a stub needs of a connection."""

    def unary(self, method: "Method[Q, R]", request: Q, fds: Sequence[int]) -> tuple[R, list[int]]: ...

    def server_stream(self, method: "Method[Q, R]", request: Q, fds: Sequence[int]) -> Iterator[R]: ...

    def duplex(self, method: "Method[Q, R]") -> Duplex[Q, R]: ...


class Method(Generic[Q, R]):
    """One row: its Python name, the RPC's name, what it takes and gives."""

    client_streams: ClassVar[bool] = False
    server_streams: ClassVar[bool] = False
    takes: bool = False
    gives: bool = False

    def __init__(self, request: type[Q], reply: type[R]) -> None:
        self.request = request
        self.reply = reply

    def __set_name__(self, owner: type["Service"], name: str) -> None:
        self.attribute = name
        self.name = "".join(part.capitalize() for part in name.split("_"))
        self.service = owner

    def decode_reply(self, payload: bytes | msgspec.Raw) -> R:
        """From msgpack. Internal when it is no such reply."""
        try:
            return self._reply_decoder.decode(payload)
        except wire.UNREADABLE as exc:
            raise errors.Internal(f"decoding the reply of {self.path}: {exc}") from exc

    @cached_property
    def _reply_decoder(self) -> msgspec.msgpack.Decoder[R]:
        """Made when first used, for a client imports many methods and calls few."""
        return msgspec.msgpack.Decoder(self.reply)

    @property
    def path(self) -> str:
        """`service/Method`, unique over the API."""
        return f"{self.service.NAME}/{self.name}"


class Service:
    """Base of every service's table. Made with a caller, it is the stub."""

    NAME: ClassVar[str]
    NAMESPACED: ClassVar[bool] = True

    def __init__(self, caller: Caller) -> None:
        self.caller = caller

    @classmethod
    def methods(cls) -> list["Method[Request, Reply]"]:
        """All rows, in order of declaration."""
        return [value for value in vars(cls).values() if isinstance(value, Method)]


class unary(Method[Q, R]):
    def __init__(self, request: type[Q], reply: type[R], *, takes: bool = False) -> None:
        super().__init__(request, reply)
        self.takes = takes

    @overload
    def __get__(self, stub: None, owner: type) -> "unary[Q, R]": ...
    @overload
    def __get__(self, stub: Service, owner: type) -> Callable[..., R]: ...
    def __get__(self, stub: Service | None, owner: type) -> "unary[Q, R] | Callable[..., R]":
        if stub is None:
            return self
        caller = stub.caller

        def call(request: Q, fds: Sequence[int] = ()) -> R:
            return caller.unary(self, request, fds)[0]

        return call


class giving(Method[Q, R]):
    """A unary method whose reply comes with descriptors; the caller owns them."""

    gives = True

    @overload
    def __get__(self, stub: None, owner: type) -> "giving[Q, R]": ...
    @overload
    def __get__(self, stub: Service, owner: type) -> Callable[[Q], tuple[R, list[int]]]: ...
    def __get__(self, stub: Service | None, owner: type) -> "giving[Q, R] | Callable[[Q], tuple[R, list[int]]]":
        if stub is None:
            return self
        caller = stub.caller
        return lambda request: caller.unary(self, request, ())


class server_stream(Method[Q, R]):
    server_streams = True

    def __init__(self, request: type[Q], reply: type[R], *, takes: bool = False) -> None:
        super().__init__(request, reply)
        self.takes = takes

    @overload
    def __get__(self, stub: None, owner: type) -> "server_stream[Q, R]": ...
    @overload
    def __get__(self, stub: Service, owner: type) -> Callable[..., Iterator[R]]: ...
    def __get__(self, stub: Service | None, owner: type) -> "server_stream[Q, R] | Callable[..., Iterator[R]]":
        if stub is None:
            return self
        caller = stub.caller

        def call(request: Q, fds: Sequence[int] = ()) -> Iterator[R]:
            return caller.server_stream(self, request, fds)

        return call


class duplex(Method[Q, R]):
    client_streams = True
    server_streams = True

    @overload
    def __get__(self, stub: None, owner: type) -> "duplex[Q, R]": ...
    @overload
    def __get__(self, stub: Service, owner: type) -> Callable[[], Duplex[Q, R]]: ...
    def __get__(self, stub: Service | None, owner: type) -> "duplex[Q, R] | Callable[[], Duplex[Q, R]]":
        if stub is None:
            return self
        caller = stub.caller
        return lambda: caller.duplex(self)
