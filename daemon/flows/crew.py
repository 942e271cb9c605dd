"""Who unpacks, for all journeys together: so many work at once, and whoever waits for bytes is not counted."""

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import TypeVar

from spec.ports import Cancel

T = TypeVar("T")
POLL_S = 0.2  # how often those who wait for a turn look whether they are still wanted


class Crew:
    """At most `size` have their turn at once, those who came first before the others. `executor` has threads for them
    and for those who rest."""

    def __init__(self, executor: Executor, size: int) -> None:
        self._executor = executor
        self._size = size
        self._changed = threading.Condition()
        self._tickets = itertools.count()
        self._waiting: list[int] = []
        self._working = 0

    def turn(self, cancel: Cancel) -> "Turn":
        return Turn(self, next(self._tickets), cancel)

    def start(self, after: "Future[None]", work: Callable[[], T]) -> "Future[T]":
        """Run `work` on a thread once `after` has ended, however it did. The outcome is cancelled if none took it."""
        outcome: Future[T] = Future()

        def submit(_: "Future[None]") -> None:
            try:
                running = self._executor.submit(_run, outcome, work)
            except RuntimeError:  # the pool is closed
                outcome.cancel()
            else:
                running.add_done_callback(lambda ended: ended.cancelled() and outcome.cancel())

        after.add_done_callback(submit)
        return outcome

    def take(self, ticket: int, cancel: Cancel) -> None:
        """Wait for a free place that nobody with a lower ticket wants."""
        with self._changed:
            self._waiting.append(ticket)
            try:
                while self._working == self._size or min(self._waiting) != ticket:
                    self._changed.wait(POLL_S)
                    cancel.check()
                self._working += 1
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()

    def give(self) -> None:
        with self._changed:
            self._working -= 1
            self._changed.notify_all()


class Turn:
    """One's turn to work. A context manager."""

    def __init__(self, crew: Crew, ticket: int, cancel: Cancel) -> None:
        self._crew = crew
        self._ticket = ticket
        self._cancel = cancel
        self._held = False

    def __enter__(self) -> "Turn":
        self._take()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._held:
            self._give()

    @contextmanager
    def rest(self) -> Iterator[None]:
        """Let another work while the block waits. When the block fails there is no more work, and no turn is taken."""
        self._give()
        yield
        self._take()

    def _take(self) -> None:
        self._crew.take(self._ticket, self._cancel)
        self._held = True

    def _give(self) -> None:
        self._held = False
        self._crew.give()


def _run(outcome: "Future[T]", work: Callable[[], T]) -> None:
    if not outcome.set_running_or_notify_cancel():
        return
    try:
        result = work()
    except BaseException as exc:
        outcome.set_exception(exc)
    else:
        outcome.set_result(result)
