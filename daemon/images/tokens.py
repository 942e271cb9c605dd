"""The tokens that one caller has for one host. Knows no registry."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

POLL_S = 0.2  # how often those who wait for another's token look whether they are still wanted
MOST = 256  # scopes


class Tokens:
    """From any thread. `asks_password`: the host wants a user's name and password itself. `refresh` is what tokens are
    asked for with, once it has replaced the caller's."""

    def __init__(self) -> None:
        self.asks_password = False
        self.refresh = ""
        self._lock = threading.Lock()
        self._known: dict[str, tuple[str, float]] = {}

    def header(self, scope: str) -> str:
        """One that is good now; "" when there is none."""
        header, until = self._known.get(scope, ("", 0.0))
        return header if time.monotonic() < until else ""

    def put(self, scope: str, header: str, until: float) -> None:
        """`until` by the monotonic clock, in seconds. By whoever has the `turn`."""
        self._known.pop(scope, None)
        while len(self._known) >= MOST:
            del self._known[next(iter(self._known))]
        self._known[scope] = (header, until)

    @contextmanager
    def turn(self, check: Callable[[], None]) -> Iterator[None]:
        """Of all who want a token one asks, and the others find it. `check` raises when it is not wanted any more."""
        while not self._lock.acquire(timeout=POLL_S):
            check()
        try:
            yield
        finally:
            self._lock.release()
