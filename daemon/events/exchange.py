"""The exchange: publishers on one side, subscribers on the other, and no publisher ever waits.

Every event gets the next sequence number, goes into the ring, and is then there for whoever subscribes, now or later. A
subscriber has no queue, only a place in the sequence: it reads from memory while it keeps up, from the ring when it is
behind, and is told how many events it missed when it is further behind than that.
"""

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import islice
from typing import NamedTuple

import msgspec

from daemon.events.ring import Ring
from daemon.kit.tally import Counter
from spec import errors, filters
from spec.base import Event, pack
from spec.events import Envelope, EventsLagged, topic_of
from spec.exposition import Family
from spec.names import check_namespace, check_topic

LARGEST = 256 << 10  # bytes of an event's body
RECENT = 1024  # events kept in memory
RECENT_BYTES = 2 << 20  # of their bodies together
BATCH = 64  # events a subscriber takes at once

_EMPTY = msgspec.Raw(b"\x80")


class Place(NamedTuple):
    """Where a subscriber is: behind the event of that sequence number; and where the ring has the next one."""

    after: int
    at: int = 0


class Exchange:
    """Publish from any thread; subscribe on a running loop. Without a `ring` only memory keeps what has happened."""

    def __init__(self, ring: Ring | None = None, clock: Callable[[], int] = time.time_ns) -> None:
        self._ring = ring
        self._clock = clock
        self._lock = threading.Lock()
        self._last = ring.last if ring is not None else 0
        self._recent: deque[Envelope] = deque()
        self._recent_bytes = 0
        self._waiting: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
        self._subscribed = 0
        self._counts = Counter("holdd_events_published_total", "Events that were published.", ("topic",))
        self._losses = Counter("holdd_event_subscribers_lagged_total", "Times that a subscriber missed some.")
        self._decoder = msgspec.msgpack.Decoder(Envelope)

    def publish(self, namespace: str, topic: str, event: Event) -> None:
        """Publish one of `spec.events`. One whose body is above LARGEST (labels can be) goes without it."""
        body = pack(event)
        self._deliver(topic, msgspec.Raw(body) if len(body) <= LARGEST else _EMPTY, namespace, self._clock())

    def emit(self, namespace: str, event: Event) -> None:
        """Publish an event under the topic that `spec.events.TOPICS` has for it."""
        self.publish(namespace, topic_of(event), event)

    def publish_raw(self, namespace: str, topic: str, event: msgspec.Raw) -> None:
        """Publish a foreign event; InvalidArgument for a bad topic or namespace, or a body above LARGEST."""
        self.forward(Envelope(timestamp_ns=self._clock(), namespace=namespace, topic=topic, event=event))

    def forward(self, envelope: Envelope) -> None:
        """Publish an envelope as it is, with the time it bears."""
        check_topic(envelope.topic)
        check_namespace(envelope.namespace)
        event = bytes(envelope.event)
        if len(event) > LARGEST:
            raise errors.InvalidArgument(
                f"publishing {envelope.topic[:100]}: the event has {len(event)} bytes, and may have {LARGEST}"
            )
        try:
            msgspec.msgpack.decode(event)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise errors.InvalidArgument(f"publishing {envelope.topic[:100]}: the event is no msgpack: {exc}") from exc
        self._deliver(envelope.topic, msgspec.Raw(event), envelope.namespace, envelope.timestamp_ns)

    async def subscribe(self, filters_: Sequence[str] = (), since: int | None = None) -> AsyncIterator[Envelope]:
        """Events that match, from the first step of the iteration on, until the caller stops.

        Filter fields: topic, namespace, event.FIELD. With `since` first those with higher sequence numbers that are
        still kept; OutOfRange when none has that number yet. Whoever is too slow, or asks for what is gone, is given an
        `EventsLagged` in place of what he missed, whatever he filters.
        """
        matches = filters.matcher(filters_, _field)
        place = self._start(since)
        self._subscribed += 1
        try:
            while True:
                envelopes, place = self._read(place)
                for envelope in envelopes:
                    if envelope.topic == _LAGGED or matches(envelope):
                        yield envelope
                if envelopes:
                    await asyncio.sleep(0)  # others have their turn, however little of it matches
                else:
                    await self._published(place.after)
        finally:
            self._subscribed -= 1

    def recent(self) -> Sequence[Envelope]:
        """The last events that are still kept, RECENT at most, oldest first."""
        with self._lock:
            if self._ring is None:
                return list(self._recent)
            records, _ = self._ring.read(max(0, self._last - RECENT), RECENT)
        return [self._decoder.decode(payload) for _, payload in records]

    def close(self) -> None:
        """Let go of the ring: what is published from now on is kept in memory alone."""
        with self._lock:
            self._ring = None

    def families(self) -> Sequence[Family]:
        """What the metrics tell of it."""
        subscribers = Family("holdd_event_subscribers", "gauge", "Subscribers to events.", [("", "", self._subscribed)])
        return [self._counts.family(), self._losses.family(), subscribers]

    def _deliver(self, topic: str, event: msgspec.Raw, namespace: str, timestamp_ns: int) -> None:
        self._counts.add(topic)
        with self._lock:
            self._last += 1
            envelope = Envelope(
                timestamp_ns=timestamp_ns, topic=topic, event=event, namespace=namespace, sequence=self._last
            )
            if self._ring is not None:
                self._ring.append(pack(envelope))
            self._recent.append(envelope)
            self._recent_bytes += len(memoryview(event))
            while len(self._recent) > RECENT or self._recent_bytes > RECENT_BYTES:
                self._recent_bytes -= len(memoryview(self._recent.popleft().event))
            waiting, self._waiting = self._waiting, {}
        here = _running_loop() if waiting else None
        for loop, futures in waiting.items():
            if loop is here:
                _wake(futures)
                continue
            with contextlib.suppress(RuntimeError):  # the loop is closed, and so nobody on it waits
                loop.call_soon_threadsafe(_wake, futures)

    def _start(self, since: int | None) -> Place:
        with self._lock:
            if since is None:
                return Place(self._last)
            if not 0 <= since <= self._last:
                raise errors.OutOfRange(f"subscribing since event {since}: the last one is {self._last}")
            return Place(since)

    def _read(self, place: Place) -> tuple[list[Envelope], Place]:
        """What comes next, or how much of it is gone; nothing when all has been read."""
        number = place.after + 1
        with self._lock:
            if number > self._last:
                return [], place
            recent = self._recent[0].sequence if self._recent else self._last + 1
            if number >= recent:
                start = number - recent
                found = list(islice(self._recent, start, start + BATCH))
                return found, Place(found[-1].sequence)
            oldest = recent if self._ring is None else self._ring.oldest
            if number < oldest or self._ring is None:
                return [self._lagged(oldest - number, oldest - 1)], Place(oldest - 1)
            records, at = self._ring.read(place.after, BATCH, place.at)
        return [self._decoder.decode(payload) for _, payload in records], Place(records[-1][0], at)

    def _lagged(self, missed: int, last: int) -> Envelope:
        self._losses.add()
        event = msgspec.Raw(pack(EventsLagged(missed=missed)))
        return Envelope(timestamp_ns=self._clock(), topic=_LAGGED, event=event, sequence=last)

    async def _published(self, after: int) -> None:
        """Wait for an event above `after`."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        with self._lock:
            if self._last > after:
                return
            self._waiting.setdefault(loop, []).append(future)
        try:
            await future
        finally:
            if not future.done() or future.cancelled():
                self._forget(loop, future)

    def _forget(self, loop: asyncio.AbstractEventLoop, future: "asyncio.Future[None]") -> None:
        with self._lock:
            futures = self._waiting.get(loop, [])
            if future in futures:
                futures.remove(future)
            if not futures:
                self._waiting.pop(loop, None)


_LAGGED = topic_of(EventsLagged(missed=0))


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _wake(futures: Sequence["asyncio.Future[None]"]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


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
