"""Parts of a journey side by side, of which the first that fails ends the others."""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Executor, wait
from contextvars import copy_context
from typing import TypeVar

from daemon.kit.cancel import Token
from spec import errors

T = TypeVar("T")


def run(
    pool: Executor, parts: Sequence[Callable[[], T]], cancel: Token, close: Callable[[], None], what: str
) -> list[T]:
    """What each gave, in order. When one fails `cancel` is cancelled for the others, `close` wakes those of them that
    wait, and none outlives the call; `what` they are parts of is for the message."""
    running = [pool.submit(copy_context().run, part) for part in parts]
    try:
        done, _ = wait(running, return_when=FIRST_EXCEPTION)
        for one in done:
            one.result()
        return [one.result() for one in running]
    except BaseException:
        cancel.cancel(f"another part of the {what} failed")
        for one in running:
            one.cancel()
        close()
        wait(running)
        failures = [one.exception() for one in running if not one.cancelled()]
        for failure in failures:
            if failure is not None and not isinstance(failure, errors.Canceled):
                raise failure from None  # what the rest was cancelled for
        raise
