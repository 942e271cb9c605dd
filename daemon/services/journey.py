"""A journey as a stream: a flow runs on a thread, and what it tells comes out on the loop."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import TypeVar

from daemon.kit.cancel import Token
from daemon.kit.threads import Pool, hop

T = TypeVar("T")


async def journey(
    pool: Pool, work: Callable[[Callable[[T], None], Token], object], give_up: Callable[[], None] = lambda: None
) -> AsyncGenerator[T, None]:
    """What `work` tells the sink that it is handed, until it is done; its error, if it fails.

    Whoever iterates closes it (`contextlib.aclosing`). When the caller is gone the token is cancelled, `give_up` wakes
    whoever waits for something else, and the work is awaited: nothing of a call runs on after the call.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[T | None] = asyncio.Queue()
    token = Token()

    def sink(item: T) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens
            loop.call_soon_threadsafe(queue.put_nowait, item)

    running = asyncio.ensure_future(hop(pool, work, sink, token))
    running.add_done_callback(lambda _: queue.put_nowait(None))
    try:
        while (item := await queue.get()) is not None:
            yield item
        await running
    finally:
        token.cancel("the caller gave up")
        give_up()
        await asyncio.wait([running])
