"""What the monitor needs of the API: methods of `spec.api`, as the daemon's own services have them."""

from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, NamedTuple, Protocol

from spec.api import containers, namespaces, tasks
from spec.events import Envelope
from spec.records import Container, Process


class Namespaces(Protocol):
    def list(self, request: namespaces.ListRequest, /) -> namespaces.ListReply: ...


class Containers(Protocol):
    def get(self, request: containers.GetRequest, /) -> Container: ...

    def list_stream(self, request: containers.ListRequest, /) -> AsyncIterator[containers.ListReply]: ...

    def update(self, request: containers.UpdateRequest, /) -> Coroutine[Any, Any, Container]: ...


class Tasks(Protocol):
    def get(self, request: tasks.GetRequest, /) -> Process: ...

    def create(self, request: tasks.CreateRequest, fds: Sequence[int], /) -> Coroutine[Any, Any, tasks.CreateReply]: ...

    def start(self, request: tasks.StartRequest, /) -> Coroutine[Any, Any, tasks.StartReply]: ...

    def kill(self, request: tasks.KillRequest, /) -> Coroutine[Any, Any, object]: ...

    def wait(self, request: tasks.WaitRequest, /) -> Coroutine[Any, Any, tasks.WaitReply]: ...

    def delete(self, request: tasks.DeleteRequest, /) -> Coroutine[Any, Any, tasks.DeleteReply]: ...


class API(NamedTuple):
    """`subscribe` gives events that match any of the filters it is given, from its first step on."""

    namespaces: Namespaces
    containers: Containers
    tasks: Tasks
    subscribe: Callable[[Sequence[str]], AsyncIterator[Envelope]]
