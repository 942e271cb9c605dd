"""Which hosts are down, so that nobody waits for one that another just waited for. Shared by all pulls and pushes.

A host that rests is passed over while there is another to ask; the last one is asked all the same. When its time is
over, one request tries it for all.
"""

import threading
import time
from collections.abc import Callable

FIRST_S = 10.0
LONGEST_S = 300.0
PROBE_S = 10.0  # what the one who tries a host has before another does


class Breakers:
    """From any thread. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._resting: dict[str, tuple[float, float]] = {}  # by host: until when, and how long that was

    def may_ask(self, host: str) -> bool:
        """Whether it is not known to be down. Of those who ask about one whose rest is over the first is told so."""
        with self._lock:
            if host not in self._resting:
                return True
            until, length = self._resting[host]
            now = self._clock()
            if now < until:
                return False
            self._resting[host] = (now + PROBE_S, length)
            return True

    def failed(self, host: str, rest_s: float = 0.0) -> None:
        """It could not be reached, or wants to be left alone for `rest_s`."""
        with self._lock:
            _, last = self._resting.get(host, (0.0, 0.0))
            length = min(max(rest_s, last * 2, FIRST_S), LONGEST_S)
            self._resting[host] = (self._clock() + length, length)

    def answered(self, host: str) -> None:
        with self._lock:
            self._resting.pop(host, None)
