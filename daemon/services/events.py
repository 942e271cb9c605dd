"""Events: in from publishers outside the daemon, out to subscribers."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

import msgspec

from daemon.kit import context
from spec.api import events as api
from spec.base import Empty
from spec.events import Envelope


class Exchange(Protocol):
    """What this service needs of the exchange."""

    def publish_raw(self, namespace: str, topic: str, event: msgspec.Raw) -> None: ...

    def forward(self, envelope: Envelope) -> None: ...

    @property
    def subscribe(self) -> Callable[[Sequence[str], int | None], AsyncIterator[Envelope]]: ...


class Events:
    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def publish(self, request: api.PublishRequest) -> Empty:
        self._exchange.publish_raw(context.namespace(), request.topic, request.event)
        return Empty()

    def forward(self, request: api.ForwardRequest) -> Empty:
        self._exchange.forward(request.envelope)
        return Empty()

    async def subscribe(self, request: api.SubscribeRequest) -> AsyncIterator[Envelope]:
        async for envelope in self._exchange.subscribe(request.filters, request.since):
            yield envelope
