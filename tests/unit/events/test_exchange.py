"""The exchange: order, filters, and publishers that never wait."""

import asyncio
import threading
from contextlib import closing

import msgspec
import pytest

from daemon.events import exchange
from daemon.events.exchange import Exchange
from daemon.events.ring import Ring
from spec import errors
from spec.events import ContainerCreate, ContainerUpdate, Envelope, TaskExit, TaskStart

SIZE = 8 * 4096


@pytest.fixture
def ring_path(tmp_path):
    return str(tmp_path / "ring")


@pytest.fixture
def ring(ring_path):
    with closing(Ring(ring_path, SIZE)) as ring:
        yield ring


async def collected(events, count, filters=(), since=None):
    found = []
    async for envelope in events.subscribe(filters, since):
        found.append(envelope)
        if len(found) == count:
            return found
    raise AssertionError("the stream ended")


def run(work):
    return asyncio.run(asyncio.wait_for(work, 30))


def test_two_subscribers_see_the_same_order_even_from_threads():
    async def main():
        events = Exchange()
        both = [asyncio.ensure_future(collected(events, 200)) for _ in range(2)]
        await asyncio.sleep(0)

        def publish(start):
            for number in range(start, start + 100):
                events.publish("ns", "/tasks/start", TaskStart(container_id=f"c{number}", pid=number))

        threads = [threading.Thread(target=publish, args=(start,)) for start in (0, 100)]
        for thread in threads:
            thread.start()
        one, two = await asyncio.gather(*both)
        for thread in threads:
            thread.join()
        assert one == two
        assert len({bytes(envelope.event) for envelope in one}) == 200

    run(main())


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ((), ["a", "b", "c"]),
        (['topic=="/tasks/exit"'], ["b"]),
        (["namespace==two"], ["c"]),
        (["topic~=|^/tasks/|,namespace==one"], ["b"]),
        (["event.container_id==b", "event.id==a"], ["a", "b"]),
        (["event.exit_status==3"], ["b"]),
        (['topic!="/containers/create"'], ["b"]),
    ],
)
def test_filters(filters, expected):
    async def main():
        events = Exchange()
        task = asyncio.ensure_future(collected(events, len(expected), filters))
        await asyncio.sleep(0)
        events.publish("one", "/containers/create", ContainerCreate(id="a"))
        events.publish("one", "/tasks/exit", TaskExit(container_id="b", id="b", exit_status=3))
        events.publish("two", "/containers/create", ContainerCreate(id="c"))
        found = [msgspec.msgpack.decode(envelope.event) for envelope in await task]
        assert [body.get("id") or body["container_id"] for body in found] == expected

    run(main())


def test_a_bad_filter_is_refused_at_once():
    with pytest.raises(errors.InvalidArgument):
        run(collected(Exchange(), 1, ["topic~=,"]))


@pytest.mark.parametrize("topic", ["", "test", "/", "/a//b", "/a b"])
def test_topics(topic):
    with pytest.raises(errors.InvalidArgument):
        Exchange().publish_raw("ns", topic, msgspec.Raw(b"\x80"))
    with pytest.raises(errors.InvalidArgument):
        Exchange().forward(Envelope(timestamp_ns=1, namespace="ns", topic=topic, event=msgspec.Raw(b"\x80")))


def test_what_is_forwarded_keeps_its_time():
    async def main():
        events = Exchange()
        task = asyncio.ensure_future(collected(events, 1))
        await asyncio.sleep(0)
        events.forward(Envelope(timestamp_ns=42, namespace="ns", topic="/a/b", event=msgspec.Raw(b"\x80")))
        assert (await task)[0].timestamp_ns == 42

    run(main())


def publish(events, *numbers):
    for number in numbers:
        events.publish("ns", "/tasks/start", TaskStart(container_id=f"c{number}", pid=number))


def said(envelope):
    """An event's pid, or minus how many were missed."""
    body = msgspec.msgpack.decode(envelope.event)
    return -body["missed"] if envelope.topic == "/events/lagged" else body["pid"]


def test_one_who_is_too_slow_for_memory_and_ring_is_told_how_much_is_missing(monkeypatch):
    monkeypatch.setattr(exchange, "RECENT", 10)

    async def main():
        events = Exchange()
        slow, quick = events.subscribe(["event.pid!=7"]), events.subscribe()
        firsts = [asyncio.ensure_future(anext(stream)) for stream in (slow, quick)]
        await asyncio.sleep(0)
        publish(events, 1)
        await asyncio.gather(*firsts)
        for number in range(2, 31):
            publish(events, number)
            assert said(await anext(quick)) == number
        found = [await anext(slow) for _ in range(11)]
        assert [said(envelope) for envelope in found] == [-19, *range(21, 31)]
        assert [envelope.sequence for envelope in found] == list(range(20, 31))
        await slow.aclose()
        await quick.aclose()

    run(main())


def test_with_a_ring_one_who_is_slow_misses_nothing(monkeypatch, ring):
    monkeypatch.setattr(exchange, "RECENT", 10)

    async def main():
        events = Exchange(ring)
        slow = events.subscribe()
        first = asyncio.ensure_future(anext(slow))
        await asyncio.sleep(0)
        publish(events, *range(1, 151))
        assert [said(await first), *[said(await anext(slow)) for _ in range(149)]] == list(range(1, 151))
        await slow.aclose()

    run(main())


@pytest.mark.parametrize(
    ("since", "expected"),
    [(0, [*range(1, 8)]), (5, [6, 7]), (6, [7])],
)
def test_what_was_published_while_nobody_listened(ring, since, expected):
    async def main():
        events = Exchange(ring)
        publish(events, *range(1, 7))
        task = asyncio.ensure_future(collected(events, len(expected), (), since))
        await asyncio.sleep(0)
        publish(events, 7)
        found = await task
        assert [said(envelope) for envelope in found] == expected
        assert [envelope.sequence for envelope in found] == expected

    run(main())


def test_a_restart_goes_on_with_the_sequence(ring, ring_path):
    publish(Exchange(ring), 1, 2)
    with closing(Ring(ring_path, SIZE)) as again:
        events = Exchange(again)
        publish(events, 3)
        found = run(collected(events, 3, (), 0))
    assert [(envelope.sequence, said(envelope)) for envelope in found] == [(1, 1), (2, 2), (3, 3)]


def test_what_the_ring_has_no_more_is_told(ring, monkeypatch):
    monkeypatch.setattr(exchange, "RECENT", 10)
    events = Exchange(ring)
    publish(events, *range(1, 1001))
    gone = ring.oldest - 1
    assert 0 < gone < 1000
    found = run(collected(events, 1001 - gone, ["event.pid"], 0))
    assert [said(envelope) for envelope in found] == [-gone, *range(gone + 1, 1001)]


@pytest.mark.parametrize("since", [-1, 3, 1 << 62])
def test_since_what_has_not_happened(since):
    events = Exchange()
    publish(events, 1, 2)
    with pytest.raises(errors.OutOfRange, match=f"since event {since}: the last one is 2"):
        run(collected(events, 1, (), since))


def test_an_event_that_is_too_large():
    events = Exchange()
    large = msgspec.Raw(msgspec.msgpack.encode({"k": "v" * exchange.LARGEST}))
    with pytest.raises(errors.InvalidArgument, match=f"may have {exchange.LARGEST}"):
        events.publish_raw("ns", "/a/b", large)
    labels = {str(number): "v" * 4000 for number in range(100)}
    events.publish("ns", "/containers/update", ContainerUpdate(id="c", labels=labels))
    [found] = run(collected(events, 1, (), 0))
    assert (found.topic, found.sequence, bytes(found.event)) == ("/containers/update", 1, b"\x80")


def test_an_event_that_is_no_msgpack():
    with pytest.raises(errors.InvalidArgument, match="no msgpack"):
        Exchange().publish_raw("ns", "/a/b", msgspec.Raw(b"\x81"))


def test_memory_is_bounded_by_bytes_too():
    events = Exchange()
    body = msgspec.Raw(msgspec.msgpack.encode("v" * (200 << 10)))
    for _ in range(100):
        events.publish_raw("ns", "/a/b", body)
    [lagged] = run(collected(events, 1, (), 0))
    assert 100 + said(lagged) <= exchange.RECENT_BYTES // (200 << 10)


def test_one_who_leaves_gets_nothing_more():
    async def main():
        events = Exchange()
        stays, leaves = events.subscribe(), events.subscribe()
        firsts = [asyncio.ensure_future(anext(stream)) for stream in (stays, leaves)]
        await asyncio.sleep(0)
        firsts[1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await firsts[1]
        events.publish("ns", "/tasks/start", TaskStart(container_id="c"))
        assert (await firsts[0]).topic == "/tasks/start"
        with pytest.raises(StopAsyncIteration):
            await anext(leaves)
        await stays.aclose()
        events.publish("ns", "/tasks/start", TaskStart(container_id="nobody listens"))

    run(main())


def test_a_subscriber_is_woken_by_a_thread_while_its_loop_sleeps():
    async def main():
        events = Exchange()
        waiting = asyncio.ensure_future(collected(events, 1))
        await asyncio.sleep(0)
        publish = threading.Thread(target=events.emit, args=("ns", TaskStart(container_id="c")))
        publish.start()
        assert (await waiting)[0].topic == "/tasks/start"
        publish.join()

    run(main())


def test_the_last_events_are_there_after_a_restart(ring_path):
    with closing(Ring(ring_path, SIZE)) as ring:
        before = Exchange(ring)
        for number in range(10):
            before.publish("ns", "/tasks/start", TaskStart(container_id=f"c{number}"))
    with closing(Ring(ring_path, SIZE)) as ring:
        assert [envelope.sequence for envelope in Exchange(ring).recent()] == list(range(1, 11))
    assert list(Exchange().recent()) == []


def test_the_last_events_are_the_last_ones(ring, monkeypatch):
    monkeypatch.setattr(exchange, "RECENT", 4)
    events = Exchange(ring)
    for number in range(1000):
        events.publish("ns", "/tasks/start", TaskStart(container_id=f"c{number}"))
    assert [envelope.sequence for envelope in events.recent()] == [997, 998, 999, 1000]


def test_what_was_before_a_restart_is_told_before_anything_happens_after_it(ring_path):
    with closing(Ring(ring_path, SIZE)) as ring:
        before = Exchange(ring)
        for number in range(3):
            before.publish("ns", "/tasks/start", TaskStart(container_id=f"c{number}"))
    with closing(Ring(ring_path, SIZE)) as ring:
        found = run(collected(Exchange(ring), 2, since=1))
    assert [envelope.sequence for envelope in found] == [2, 3]
