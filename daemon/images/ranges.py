"""A large blob over several connections: a part by the one who reads, those after it by others, read in order.

Where one connection brings more than is unpacked in the same time, no others help it, and parts are longer: each costs
a request at both ends.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextvars import copy_context

from spec.ports import Source

READ = 1 << 20
ENOUGH = 64e6  # bytes a second that one connection brings
LONGER = 8  # parts in one, when they come so fast

Open = Callable[[int, int], Source]
"""The bytes from an offset to another, of a server that is known to give parts."""


class Ranges:
    """What all downloads share: at most `most` parts of `size` bytes are fetched ahead, on threads of `executor`, and
    that many are in memory. A blob that has no more than two parts left comes in one. A connection that brings `enough`
    bytes a second is not helped."""

    def __init__(self, executor: Executor, most: int, size: int, enough: float = ENOUGH) -> None:
        self.executor = executor
        self.size = size
        self.enough = enough
        self._free = threading.Semaphore(most)

    def end(self, offset: int, size: int) -> int:
        """Where the first part of what is left of a blob of `size` bytes ends; 0 when it comes in one."""
        return offset + self.size if size - offset > 2 * self.size else 0

    def take(self) -> bool:
        """Whether one more may be fetched ahead now: then `give` it back once it is out of memory."""
        return self._free.acquire(blocking=False)

    def give(self) -> None:
        self._free.release()


class Parts:
    """A ports.Source of a blob of `size` bytes, of which the first part, to `end`, is `first`.

    In rounds: while one part is read as it comes, those after it are fetched; then these are read. Its first bytes tell
    how fast a part comes, and so whether others are fetched meanwhile, and how long the next is.
    """

    def __init__(self, ranges: Ranges, first: Source, end: int, size: int, open: Open) -> None:
        self._ranges = ranges
        self._open = open
        self._current = first
        self._ahead: deque[Future[list[bytes]]] = deque()
        self._next = end
        self._size = size
        self._is_fast: bool | None = None  # the part that is read; None before its first bytes

    def read(self, size: int, /) -> bytes:
        while not (data := self._some(size)):
            self._current.close()
            if self._ahead:
                part = self._ahead[0].result()
                self._ahead.popleft()
                self._current = _Read(part, self._ranges.give)
            elif self._next < self._size:
                start, self._next = self._next, self._part(self._next, LONGER if self._is_fast else 1)
                self._current = self._open(start, self._next)
                self._is_fast = None
            else:
                return b""
        return data

    def close(self) -> None:
        self._current.close()
        for part in self._ahead:
            part.cancel()
            part.add_done_callback(lambda _: self._ranges.give())
        self._ahead.clear()

    def _some(self, size: int) -> bytes:
        if self._is_fast is not None:
            return self._current.read(size)
        began = time.monotonic()
        data = self._current.read(size)
        self._is_fast = len(data) >= (time.monotonic() - began) * self._ranges.enough
        if not self._is_fast:
            self._send_ahead()
        return data

    def _send_ahead(self) -> None:
        while self._next < self._size and self._ranges.take():
            start, self._next = self._next, self._part(self._next)
            try:
                part = self._ranges.executor.submit(copy_context().run, self._whole, start, self._next)
            except BaseException:
                self._ranges.give()
                raise
            self._ahead.append(part)

    def _part(self, start: int, parts: int = 1) -> int:
        """Where `parts` from `start` on end; what would be left behind them comes with them, if it is less than one."""
        end = start + parts * self._ranges.size
        return end if end + self._ranges.size * (parts > 1) < self._size else self._size

    def _whole(self, start: int, end: int) -> list[bytes]:
        source = self._open(start, end)
        try:
            pieces = []
            while data := source.read(READ):
                pieces.append(data)
            return pieces
        finally:
            source.close()


class _Read:
    """A ports.Source over a part that has come; `done` is called once."""

    def __init__(self, pieces: list[bytes], done: Callable[[], None]) -> None:
        self._pieces = deque(pieces)
        self._done: Callable[[], None] | None = done

    def read(self, size: int, /) -> bytes:
        if not self._pieces:
            return b""
        data = self._pieces.popleft()
        if len(data) > size:
            self._pieces.appendleft(data[size:])
        return data[:size]

    def close(self) -> None:
        self._pieces.clear()
        if self._done is not None:
            done, self._done = self._done, None
            done()
