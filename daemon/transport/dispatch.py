"""From a request's names to the handler that answers it. Knows no socket and no service by name."""

import inspect
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from daemon.kit.tracing import Span
from spec import errors, wire
from spec.api.service import Method, Service
from spec.base import Request


class Observed:
    """A call, as observers see it: `trace` is its traceparent, which an observer may make another's child; `received`
    and `sent` count messages."""

    __slots__ = ("began_ns", "kind", "method", "namespace", "received", "sent", "service", "span", "trace")

    def __init__(self, route: "Route", namespace: str, trace: str) -> None:
        self.kind = route.kind
        self.service = route.method.service.NAME
        self.method = route.method.name
        self.namespace = namespace
        self.trace = trace
        self.began_ns = time.monotonic_ns()
        self.received = 0 if route.duplex else 1
        self.sent = 0
        self.span: Span | None = None


class Observer(Protocol):
    """Told of each call that comes to its handler, on the loop; `code` is the wire's, 0 for success."""

    def begun(self, call: Observed, /) -> None: ...

    def ended(self, call: Observed, code: int, /) -> None: ...


class Route:
    """One method with its handler.

    The handler is the attribute of the implementation with the method's name. By kind of method:

        unary           handler(request) -> reply; a plain function runs on the loop at once, so it must not block; a
                        coroutine function runs as a task
        takes           handler(request, fds) -> reply; owns the descriptors from its first line on
        giving          handler(request) -> (reply, fds); the descriptors are closed once they are sent
        server_stream   handler(request) -> asynchronous iterator of replies, best an asynchronous generator; one that
                        takes is handed `fds` as above
        duplex          handler(requests) -> the same, over an asynchronous iterator of requests
    """

    def __init__(self, method: Method[Request, Any], handler: Callable[..., Any]) -> None:
        self.method = method
        self.handler = handler
        self.path = method.path
        self.namespaced = method.service.NAMESPACED
        self.takes = method.takes
        self.gives = method.gives
        self.streams = method.server_streams
        self.duplex = method.client_streams
        self.kind = "bidi_stream" if self.duplex else "server_stream" if self.streams else "unary"
        self.inline = not self.streams and not inspect.iscoroutinefunction(handler)
        self._decoder = msgspec.msgpack.Decoder(method.request)

    def decode(self, payload: bytes | msgspec.Raw) -> Request:
        """The method's request; InvalidArgument with what is wrong with it."""
        try:
            return self._decoder.decode(payload)
        except wire.UNREADABLE as exc:
            raise errors.InvalidArgument(f"decoding the request of {self.path}: {exc}") from exc

    def replies(self, argument: Request | AsyncIterator[Request], fds: Sequence[int]) -> AsyncIterator[Any]:
        """The answers of a method that streams."""
        answers: AsyncIterator[Any] = self.handler(argument, fds) if self.takes else self.handler(argument)
        return answers


class Dispatcher:
    """The routes of a daemon. A method its implementation lacks is Unimplemented when it is called."""

    def __init__(
        self, services: Sequence[tuple[type[Service], object]], observers: Sequence[Observer] = ()
    ) -> None:
        self._observers = observers
        self._routes: dict[str, Mapping[str, Route]] = {}
        for service, implementation in services:
            if service.NAME in self._routes:
                raise ValueError(f"{service.NAME} is served twice")
            self._routes[service.NAME] = _routes(service, implementation)

    def observed(self, route: Route, namespace: str, trace: str) -> Observed | None:
        """A call that begins; None when nobody observes."""
        if not self._observers:
            return None
        call = Observed(route, namespace, trace)
        for observer in self._observers:
            observer.begun(call)
        return call

    def ended(self, call: Observed | None, code: int) -> None:
        if call is not None:
            for observer in self._observers:
                observer.ended(call, code)

    def route(self, service: str, method: str) -> Route:
        """Unimplemented, naming the service or the method, when there is none."""
        routes = self._routes.get(service)
        if routes is None:
            raise errors.Unimplemented(f"calling {service}/{method}: unknown service {service}")
        route = routes.get(method)
        if route is None:
            raise errors.Unimplemented(f"calling {service}/{method}: unknown method {method}")
        return route


def _routes(service: type[Service], implementation: object) -> Mapping[str, Route]:
    routes = {}
    for method in service.methods():
        handler = getattr(implementation, method.attribute, None)
        if handler is not None:
            routes[method.name] = Route(method, handler)
    return routes
