import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import pytest

from daemon.client import aio
from spec import errors
from tests.echo import SECONDS, Echo, Inside, Server, Text


@pytest.fixture(params=["asyncio", "uvloop"])
def server(request: pytest.FixtureRequest):
    with Server(request.param) as server:
        yield server


def run(server: Server, work: Callable[[aio.Client], Awaitable[None]], **settings) -> None:
    async def main() -> None:
        async with asyncio.timeout(SECONDS), await aio.connect(server.path, **settings) as client:
            await work(client)

    asyncio.run(main())


def test_many_calls_share_one_connection(server: Server):
    async def work(client: aio.Client) -> None:
        hanging = asyncio.create_task(client.call(Echo.hang, Text()))
        calls = [client.call(Echo.say_later, Text(number=n)) for n in range(200)]
        assert [said.number for said in await asyncio.gather(*calls)] == list(range(200))
        assert await asyncio.to_thread(server.connections) == 1
        hanging.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hanging
        await asyncio.to_thread(server.echo.wait_for, lambda: server.echo.ended == ["hang"])
        assert (await client.call(Echo.say, Text(text="still"))).text == "still"

    run(server, work)


def test_streams_side_by_side(server: Server):
    async def work(client: aio.Client) -> None:
        async def numbers() -> list[int]:
            return [said.number async for said in client.stream(Echo.count, Text(number=200))]

        assert await asyncio.gather(*(numbers() for _ in range(20))) == [list(range(200))] * 20

    run(server, work)


def test_leaving_a_stream_cancels_it_alone(server: Server):
    async def work(client: aio.Client) -> None:
        async with aclosing(client.stream(Echo.flood, Text())) as stream:
            async for said in stream:
                if said.number == 5:
                    break
        await asyncio.to_thread(server.echo.wait_for, lambda: server.echo.ended == ["flood"])
        assert (await client.call(Echo.say, Text(text="still"))).text == "still"

    run(server, work)


def test_reader_who_lags_fails_alone(server: Server):
    async def work(client: aio.Client) -> None:
        async with client.duplex(Echo.flood, Text(number=1_000_000)) as stream:
            while stream._call._error is None:
                await client.call(Echo.say, Text())
            with pytest.raises(errors.ResourceExhausted):
                async for _ in stream:
                    pass
        assert (await client.call(Echo.say, Text(text="still"))).text == "still"

    run(server, work)


def test_duplex(server: Server):
    async def work(client: aio.Client) -> None:
        async with client.duplex(Echo.total) as stream:
            for number in (1, 2, 3):
                await stream.send(Text(number=number))
            stream.close_send()
            assert [said.number async for said in stream] == [1, 3, 6, 6]
            with pytest.raises(EOFError):
                await stream.receive()

    run(server, work)


def test_errors_and_metadata(server: Server):
    async def work(client: aio.Client) -> None:
        with pytest.raises(errors.NotFound, match="gone"):
            await client.call(Echo.fail, Text(number=5, text="gone"))
        assert (await client.call(Inside.where, Text())).text == "here/l"

    run(server, work, namespace="here", lease="l")


def test_deadline(server: Server):
    async def work(client: aio.Client) -> None:
        with pytest.raises(errors.DeadlineExceeded):
            await client.call(Echo.hang, Text())

    run(server, work, timeout_s=0.1)


def test_descriptors_both_ways(server: Server):
    async def work(client: aio.Client) -> None:
        reply, fds = await client.call_fds(Echo.give, Text(number=2, text="x"))
        assert reply.number == 2
        assert (await client.call(Echo.take, Text(), fds)).text == "xx"
        for fd in fds:
            os.close(fd)
        await client.call(Echo.give, Text(number=2))

    run(server, work)


def test_hanging_up_fails_all(server: Server):
    async def work(client: aio.Client) -> None:
        calls = [asyncio.create_task(client.call(Echo.hang, Text())) for _ in range(3)]
        await asyncio.to_thread(server.echo.wait_for, lambda: len(server.echo.begun) == 3)
        await asyncio.to_thread(server.on_loop, server.server.close())
        for outcome in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(outcome, errors.Unavailable)
        with pytest.raises(errors.Unavailable):
            await client.call(Echo.say, Text())

    run(server, work)


def test_no_daemon(tmp_path):
    with pytest.raises(errors.Unavailable, match="connecting to"):
        asyncio.run(aio.connect(str(tmp_path / "s")))


def test_closing_fails_what_is_under_way(server: Server):
    async def work(client: aio.Client) -> None:
        call = asyncio.create_task(client.call(Echo.hang, Text()))
        await asyncio.sleep(0)
        await client.close()
        with pytest.raises(errors.Canceled):
            await call

    run(server, work)
