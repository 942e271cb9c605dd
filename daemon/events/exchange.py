"""The exchange: publishers on one side, subscribers on the other, and no publisher ever waits.

Events reach subscribers in the order in which they were published, through a bounded queue for each. A subscriber that
falls behind by more than the bound is told so and let go.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence

import msgspec

from daemon.kit.tally import Counter
from spec import errors, filters
from spec.base import Event, pack
from spec.events import Envelope, topic_of
from spec.exposition import Family
from spec.names import check_namespace, check_topic

QUEUE_LENGTH = 10_000  # events a subscriber may be behind


class Exchange:
    """Publish from any thread; subscribe on a running loop."""

    def __init__(self, clock: Callable[[], int] = time.time_ns) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._subscribers: list[_Subscriber] = []
        self._published = Counter("holdd_events_published_total", "Events that were published.", ("topic",))
        self._lagged = Counter("holdd_event_subscribers_lagged_total", "Subscribers let go for being too slow.")

    def publish(self, namespace: str, topic: str, event: Event) -> None:
        """Publish one of `spec.events`."""
        self._published.add(topic)
        if self._subscribers:
            self._deliver(topic, msgspec.Raw(pack(event)), namespace, self._clock())

    def emit(self, namespace: str, event: Event) -> None:
        """Publish an event under the topic that `spec.events.TOPICS` has for it."""
        self.publish(namespace, topic_of(event), event)

    def publish_raw(self, namespace: str, topic: str, event: msgspec.Raw) -> None:
        """Publish a foreign event; InvalidArgument for a bad topic or namespace."""
        self.forward(Envelope(timestamp_ns=self._clock(), namespace=namespace, topic=topic, event=event))

    def forward(self, envelope: Envelope) -> None:
        """Publish an envelope as it is, with the time it bears."""
        check_topic(envelope.topic)
        check_namespace(envelope.namespace)
        self._published.add(envelope.topic)
        self._deliver(envelope.topic, envelope.event, envelope.namespace, envelope.timestamp_ns)

    def _deliver(self, topic: str, event: msgspec.Raw, namespace: str, timestamp_ns: int) -> None:
        envelope = Envelope(timestamp_ns=timestamp_ns, topic=topic, event=event, namespace=namespace)
        with self._lock:
            for subscriber in self._subscribers:
                subscriber.offer(envelope)

    async def subscribe(self, filters_: Sequence[str] = ()) -> AsyncIterator[Envelope]:
        """Events that match, from the first step of the iteration on, until the caller stops.

        Filter fields: topic, namespace, event.FIELD. ResourceExhausted ends it when the caller is too slow.
        """
        subscriber = _Subscriber(asyncio.get_running_loop(), filters.matcher(filters_, _field))
        with self._lock:
            self._subscribers = [*self._subscribers, subscriber]
        try:
            while True:
                yield await subscriber.next()
        finally:
            with self._lock:
                self._subscribers = [other for other in self._subscribers if other is not subscriber]
            if subscriber.lagged:
                self._lagged.add()

    def families(self) -> Sequence[Family]:
        """What the metrics tell of it."""
        now = [("", "", len(self._subscribers))]
        subscribers = Family("holdd_event_subscribers", "gauge", "Subscribers to events.", now)
        return [self._published.family(), self._lagged.family(), subscribers]


class _Subscriber:
    def __init__(self, loop: asyncio.AbstractEventLoop, matches: Callable[[Envelope], bool]) -> None:
        self._loop = loop
        self._matches = matches
        self._queue: deque[Envelope] = deque()
        self._waiting: asyncio.Future[None] | None = None
        self.lagged = False

    def offer(self, envelope: Envelope) -> None:
        """From any thread, under the exchange's lock."""
        if self.lagged or not self._matches(envelope):
            return
        if len(self._queue) >= QUEUE_LENGTH:
            self.lagged = True
        else:
            self._queue.append(envelope)
        if len(self._queue) == 1 or self.lagged:
            self._loop.call_soon_threadsafe(self._wake)

    async def next(self) -> Envelope:
        while not self._queue:
            if self.lagged:
                raise errors.ResourceExhausted(f"subscribing to events: more than {QUEUE_LENGTH} behind")
            self._waiting = self._loop.create_future()
            try:
                await self._waiting
            finally:
                self._waiting = None
        return self._queue.popleft()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


def _field(envelope: Envelope, path: Sequence[str]) -> str | None:
    head, *rest = path
    if head == "topic" and not rest:
        return envelope.topic
    if head == "namespace" and not rest:
        return envelope.namespace
    if head != "event" or not rest:
        return None
    value: object = msgspec.msgpack.decode(envelope.event)
    for index, name in enumerate(rest):
        if not isinstance(value, dict):
            return None
        if ".".join(rest[index:]) in value:
            value = value[".".join(rest[index:])]
            break
        if name not in value:
            return None
        value = value[name]
    return value if isinstance(value, str) else str(value)
