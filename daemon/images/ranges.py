"""A large blob over several connections: a part by the one who reads, those after it by others, read in order."""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextvars import copy_context

from spec.ports import Source

READ = 1 << 20

Open = Callable[[int, int], Source]
"""The bytes from an offset to another, of a server that is known to give parts."""


class Ranges:
    """What all downloads share: at most `most` parts of `size` bytes are fetched ahead, on threads of `executor`, and
    that many are in memory. A blob that has no more than two parts left comes in one."""

    def __init__(self, executor: Executor, most: int, size: int) -> None:
        self.executor = executor
        self.size = size
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

    In rounds: while one part is read as it comes, those after it are fetched; then these are read.
    """

    def __init__(self, ranges: Ranges, first: Source, end: int, size: int, open: Open) -> None:
        self._ranges = ranges
        self._open = open
        self._current = first
        self._ahead: deque[Future[list[bytes]]] = deque()
        self._next = end
        self._size = size
        self._send_ahead()

    def read(self, size: int, /) -> bytes:
        while not (data := self._current.read(size)):
            self._current.close()
            if self._ahead:
                part = self._ahead[0].result()
                self._ahead.popleft()
                self._current = _Read(part, self._ranges.give)
            elif self._next < self._size:
                start, self._next = self._next, self._part(self._next)
                self._current = self._open(start, self._next)
                self._send_ahead()
            else:
                return b""
        return data

    def close(self) -> None:
        self._current.close()
        for part in self._ahead:
            part.cancel()
            part.add_done_callback(lambda _: self._ranges.give())
        self._ahead.clear()

    def _send_ahead(self) -> None:
        while self._next < self._size and self._ranges.take():
            start, self._next = self._next, self._part(self._next)
            try:
                part = self._ranges.executor.submit(copy_context().run, self._whole, start, self._next)
            except BaseException:
                self._ranges.give()
                raise
            self._ahead.append(part)

    def _part(self, start: int) -> int:
        return min(start + self._ranges.size, self._size)

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
