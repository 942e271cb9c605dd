"""Named bounded pools of threads, and the one way from the loop into them. Knows nothing of what runs there."""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from daemon.kit import context

P = ParamSpec("P")
T = TypeVar("T")


class Pool:
    """At most `size` threads, named after what they do; more work waits in order. A context manager."""

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self.size = size
        self.executor = ThreadPoolExecutor(size, thread_name_prefix=name)

    @property
    def waiting(self) -> int:
        """How much work waits for a thread."""
        return self.executor._work_queue.qsize()

    def close(self) -> None:
        """Drop what has not begun and wait for what has."""
        self.executor.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


async def hop(pool: Pool, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `work` on a thread of `pool`, in the caller's context, and return its result.

    When the awaiting task is cancelled, work that has not begun never does; work that has is told so by the call's
    token and awaited, so that nothing of a call runs on after the call, and what it returns is dropped.
    """
    here = contextvars.copy_context()
    future = pool.executor.submit(here.run, partial(work, *args, **kwargs))
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        if not future.cancel():
            _tell(context.cancel())
            await _outlast(asyncio.wrap_future(future))
        raise


def _tell(token: object) -> None:
    cancel = getattr(token, "cancel", None)
    if cancel is not None:
        cancel("the caller gave up")


async def _outlast(waiter: "asyncio.Future[T]") -> None:
    """Wait until it is done, however often we are cancelled; its outcome no longer matters."""
    while not waiter.done():
        try:
            await asyncio.wait([waiter])
        except asyncio.CancelledError:
            continue
    if not waiter.cancelled():
        waiter.exception()
