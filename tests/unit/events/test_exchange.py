"""The exchange: order, filters, and publishers that never wait."""

import asyncio
import threading

import msgspec
import pytest

from daemon.events import exchange
from daemon.events.exchange import Exchange
from spec import errors
from spec.events import ContainerCreate, Envelope, TaskExit, TaskStart


async def collected(events, count, filters=()):
    found = []
    async for envelope in events.subscribe(filters):
        found.append(envelope)
        if len(found) == count:
            return found
    raise AssertionError("the stream ended")


async def drained(stream, into):
    async for envelope in stream:
        into.append(envelope)


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


def test_one_who_is_too_slow_is_told_and_let_go(monkeypatch):
    monkeypatch.setattr(exchange, "QUEUE_LENGTH", 10)

    async def main():
        events = Exchange()
        stream = events.subscribe()
        first = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        for number in range(30):
            events.publish("ns", "/tasks/start", TaskStart(container_id=str(number)))
        seen = [await first]
        with pytest.raises(errors.ResourceExhausted, match="behind"):
            await drained(stream, seen)
        assert len(seen) == 10

    run(main())


def test_one_who_is_too_slow_costs_the_others_nothing(monkeypatch):
    monkeypatch.setattr(exchange, "QUEUE_LENGTH", 10)

    async def main():
        events = Exchange()
        slow, quick = events.subscribe(), events.subscribe()
        firsts = [asyncio.ensure_future(anext(stream)) for stream in (slow, quick)]
        await asyncio.sleep(0)
        events.publish("ns", "/tasks/start", TaskStart(container_id="0"))
        await asyncio.gather(*firsts)
        for number in range(1, 30):
            events.publish("ns", "/tasks/start", TaskStart(container_id=str(number)))
            found = await anext(quick)
            assert msgspec.msgpack.decode(found.event)["container_id"] == str(number)
        with pytest.raises(errors.ResourceExhausted):
            await drained(slow, [])
        await quick.aclose()

    run(main())


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
