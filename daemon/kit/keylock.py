"""One worker a key: whoever comes second waits, or takes the first one's result."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Generic, TypeVar

from spec.ports import Cancel

T = TypeVar("T")
POLL_S = 0.2  # how often a waiter looks whether it is still wanted


class KeyLock:
    """`with lock.held(key)`: exclusive for a key, free across keys."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._held: set[str] = set()

    @contextmanager
    def held(self, key: str) -> Iterator[None]:
        with self._condition:
            while key in self._held:
                self._condition.wait()
            self._held.add(key)
        try:
            yield
        finally:
            with self._condition:
                self._held.discard(key)
                self._condition.notify_all()


class Once(Generic[T]):
    """Single flight: of all who ask for a key at once, one does the work and all get its outcome."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[str, Future[T]] = {}

    def do(self, key: str, work: Callable[[], T], cancel: Cancel | None = None) -> T:
        """The result of `work`, or of the same work that is under way. A waiter whose `cancel` fires stops waiting;
        when the worker fails, its waiters try for themselves, one by one."""
        while not (flight := self.begin(key)).mine:
            if flight.landed(cancel):
                return flight.result()
        try:
            result = work()
        except BaseException as exc:
            flight.fail(exc)
            raise
        flight.land(result)
        return result

    def begin(self, key: str) -> "Flight[T]":
        """The key's flight: ours, which we must `land` or `fail`, or another's. For work that is done in parts."""
        with self._lock:
            outcome = self._flights.get(key)
            if outcome is not None:
                return Flight(outcome, None)
            outcome = self._flights[key] = Future()
            return Flight(outcome, lambda: self._end(key))

    def _end(self, key: str) -> None:
        with self._lock:
            del self._flights[key]


class Flight(Generic[T]):
    """Work under a key that is under way. Whoever holds several waits for another's only once all of his own that those
    behind it need have landed."""

    def __init__(self, outcome: "Future[T]", end: Callable[[], None] | None) -> None:
        self._outcome = outcome
        self._end = end

    @property
    def mine(self) -> bool:
        return self._end is not None

    def land(self, result: T) -> None:
        """For the one whose it is."""
        self._ending()
        self._outcome.set_result(result)

    def fail(self, exc: BaseException) -> None:
        """For the one whose it is; nothing when it has landed."""
        if not self._outcome.done():
            self._ending()
            self._outcome.set_exception(exc)

    def landed(self, cancel: Cancel | None = None) -> bool:
        """Wait for its end; whether it brought a result."""
        while True:
            try:
                return self._outcome.exception(POLL_S) is None
            except TimeoutError:
                if cancel is not None:
                    cancel.check()

    def result(self) -> T:
        return self._outcome.result()

    def _ending(self) -> None:
        """The key is free before anyone hears of the outcome: who asks again begins anew."""
        if self._end is not None:
            self._end()
