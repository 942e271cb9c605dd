"""A flow's tidings as a stream: all of them, its error, and its end when nobody listens."""

import asyncio
import threading

import pytest

from daemon.kit.threads import Pool
from daemon.services.journey import journey
from spec import errors


@pytest.fixture
def pool():
    with Pool("journeys", 1) as pool:
        yield pool


def test_all_that_is_told_comes_out_in_order(pool):
    async def main():
        return [item async for item in journey(pool, lambda sink, token: [sink(number) for number in range(1000)])]

    assert asyncio.run(main()) == list(range(1000))


def test_an_error_comes_after_what_was_told(pool):
    def work(sink, token):
        sink("one")
        raise errors.DataLoss("gone")

    told = []

    async def main():
        async for item in journey(pool, work):
            told.append(item)

    with pytest.raises(errors.DataLoss, match="gone"):
        asyncio.run(main())
    assert told == ["one"]


def test_who_stops_listening_ends_the_work(pool):
    woken, ended = threading.Event(), []

    def work(sink, token):
        sink("begun")
        assert woken.wait(10)
        ended.append(token.cancelled)

    async def main():
        stream = journey(pool, work, woken.set)
        assert await anext(stream) == "begun"
        await stream.aclose()
        assert ended == [True]

    asyncio.run(main())
