"""What is kept between pulls, by who may use it: nobody finds what was made with other credentials or another trust."""

import hashlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

import msgspec

MOST = 64  # kept at once, besides what is in use
REST_S = 60.0  # after that long what costs something is let go


class Kept(Protocol):
    def rest(self) -> None:
        """Nobody has used it for some time: let go of what others pay for. It may be used again."""

    def close(self) -> None: ...


K = TypeVar("K", bound=Kept)


class Keeper(Generic[K]):
    """From any thread. Whoever takes one gives it back; what was used last stays longest. `close` it."""

    def __init__(self, most: int = MOST, rest_s: float = REST_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._rest_s = rest_s
        self._clock = clock
        self._secret = os.urandom(32)
        self._lock = threading.Lock()
        self._kept: dict[bytes, _Entry[K]] = {}  # those that were used last come last
        self._timer: threading.Timer | None = None
        self._closed = False

    def key(self, *said: object) -> bytes:
        """What tells these values from others, and nobody what they are."""
        return hashlib.blake2b(msgspec.msgpack.encode(said), key=self._secret).digest()

    def take(self, key: bytes, make: Callable[[], K]) -> K:
        with self._lock:
            entry = self._kept.pop(key, None) or _Entry(make())
            self._kept[key] = entry
            entry.users += 1
            idle = [other for other, one in self._kept.items() if not one.users]
            for other in idle[: max(0, len(self._kept) - self._most)]:
                self._end(other)
            return entry.kept

    def give(self, key: bytes) -> None:
        with self._lock:
            entry = self._kept[key]
            entry.users -= 1
            entry.since = self._clock()
            entry.rests = False
            if self._closed:
                self._end(key)
            else:
                self._plan()

    def close(self) -> None:
        """Those in use are closed once they are given back."""
        with self._lock:
            self._closed = True
            timer, self._timer = self._timer, None
            for key in list(self._kept):
                self._end(key)
        if timer is not None:
            timer.cancel()
            timer.join()

    def _end(self, key: bytes) -> None:
        if not self._kept[key].users:
            self._kept.pop(key).kept.close()

    def _plan(self) -> None:
        """Be woken when the first has not been used for long enough."""
        waiting = [entry.since for entry in self._kept.values() if not entry.users and not entry.rests]
        if waiting and self._timer is None and not self._closed:
            self._timer = threading.Timer(max(0.0, min(waiting) + self._rest_s - self._clock()), self._wake)
            self._timer.name = "keeper"
            self._timer.daemon = True
            self._timer.start()

    def _wake(self) -> None:
        with self._lock:
            self._timer = None
            for entry in self._kept.values():
                if not entry.users and not entry.rests and self._clock() - entry.since >= self._rest_s:
                    entry.rests = True
                    entry.kept.rest()
            self._plan()


class _Entry(Generic[K]):
    def __init__(self, kept: K) -> None:
        self.kept = kept
        self.users = 0
        self.since = 0.0
        self.rests = False


def states(paths: Sequence[str]) -> Sequence[tuple[int, int, int]]:
    """What changes when a file's content does."""
    found = []
    for path in paths:
        try:
            about = os.stat(path)
        except OSError:
            found.append((0, 0, 0))
        else:
            found.append((about.st_ino, about.st_size, about.st_mtime_ns))
    return found
