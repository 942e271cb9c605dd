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
        while True:
            with self._lock:
                flight = self._flights.get(key)
                if flight is None:
                    mine: Future[T] = Future()
                    self._flights[key] = mine
                    break
            if _ended(flight, cancel):
                return flight.result()
        try:
            result = work()
        except BaseException as exc:
            with self._lock:
                del self._flights[key]
                mine.set_exception(exc)
            raise
        with self._lock:
            del self._flights[key]
            mine.set_result(result)
        return result


def _ended(flight: "Future[T]", cancel: Cancel | None) -> bool:
    """Wait for another's flight; whether it brought a result."""
    while True:
        try:
            return flight.exception(POLL_S) is None
        except TimeoutError:
            if cancel is not None:
                cancel.check()
