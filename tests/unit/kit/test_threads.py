import asyncio
import threading

import pytest

from daemon.kit import context
from daemon.kit.threads import Pool, hop

SECONDS = 20.0


class Token:
    def __init__(self) -> None:
        self.canceled = threading.Event()

    def check(self) -> None: ...

    def cancel(self, reason: str = "") -> None:
        self.canceled.set()


def test_work_runs_on_a_named_thread_with_the_context():
    def work(number: int, *, more: int) -> tuple[int, str, str]:
        return number + more, context.namespace(), threading.current_thread().name

    async def main() -> None:
        with Pool("data", 2) as pool, context.using(namespace="n"):
            total, namespace, thread = await hop(pool, work, 1, more=2)
            assert (total, namespace) == (3, "n")
            assert thread.startswith("data")

    asyncio.run(main())


def test_errors_come_back():
    def work() -> None:
        raise KeyError("x")

    async def main() -> None:
        with Pool("data", 1) as pool, pytest.raises(KeyError):
            await hop(pool, work)

    asyncio.run(main())


def test_pool_is_bounded():
    running, most, lock = 0, 0, threading.Lock()
    both = threading.Barrier(2)

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        both.wait(SECONDS)
        with lock:
            running -= 1

    async def main() -> None:
        with Pool("data", 2) as pool:
            await asyncio.gather(*(hop(pool, work) for _ in range(20)))

    asyncio.run(main())
    assert most == 2


def test_canceled_work_is_told_and_outlived():
    token = Token()
    begun, ended = threading.Event(), threading.Event()

    def work() -> str:
        begun.set()
        assert token.canceled.wait(SECONDS)
        ended.set()
        raise RuntimeError("nobody hears this")

    async def main() -> None:
        with Pool("data", 1) as pool, context.entered(context.Call(cancel=token)):
            task = asyncio.create_task(hop(pool, work))
            await asyncio.to_thread(begun.wait, SECONDS)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert ended.is_set()

    asyncio.run(main())


def test_canceling_twice_still_waits():
    token = Token()
    begun, go, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        assert go.wait(SECONDS)
        ended.set()

    async def main() -> None:
        with Pool("data", 1) as pool, context.entered(context.Call(cancel=token)):
            task = asyncio.create_task(hop(pool, work))
            await asyncio.to_thread(begun.wait, SECONDS)
            for _ in range(3):
                task.cancel()
                await asyncio.sleep(0)
            assert not task.done()
            go.set()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert ended.is_set()

    asyncio.run(main())


def test_work_that_has_not_begun_never_does():
    begun, go = threading.Event(), threading.Event()
    ran = []

    def block() -> None:
        begun.set()
        assert go.wait(SECONDS)

    async def main() -> None:
        with Pool("data", 1) as pool:
            first = asyncio.create_task(hop(pool, block))
            await asyncio.to_thread(begun.wait, SECONDS)
            second = asyncio.create_task(hop(pool, ran.append, 1))
            await asyncio.sleep(0)
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second
            go.set()
            await first

    asyncio.run(main())
    assert ran == []
