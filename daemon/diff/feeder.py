"""An unpacker fed by whoever inflates, or, while cores are idle, by a thread of its own: then the next bytes are
inflated and hashed while those before are written."""

import os
import threading
from queue import SimpleQueue

from pyx.unpack import Unpacker

ROOM = 256 << 10  # bytes of a buffer: what was inflated is still in the processor's cache when it is hashed and written
WAITING = 8  # buffers
ALONE = 1 << 20  # bytes that are not worth a thread

_open = 0
_counting = threading.Lock()
_cores = len(os.sched_getaffinity(0))


class Feeder:
    """A context manager. Fill a `room`, then `feed`. What is wrong with an archive is raised by the next `feed` or by
    `finish`."""

    def __init__(self, unpacker: Unpacker) -> None:
        self._unpacker = unpacker
        self._rooms = [memoryview(bytearray(ROOM))]  # those that nobody writes from
        self._lent = 0
        self._back: SimpleQueue[memoryview] = SimpleQueue()
        self._handed: SimpleQueue[tuple[memoryview, int] | None] = SimpleQueue()
        self._fed = 0
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._given_up = False

    def __enter__(self) -> "Feeder":
        _count(1)
        return self

    def __exit__(self, *exc: object) -> None:
        _count(-1)
        self._given_up = exc[0] is not None
        if self._thread is not None:
            self._handed.put(None)
            self._thread.join()

    def room(self) -> memoryview:
        """Where the next bytes are to be."""
        while not self._rooms:
            if self._lent < WAITING:
                self._rooms.append(memoryview(bytearray(ROOM)))
            else:
                self._take_back()
        return self._rooms[-1]

    def feed(self, size: int) -> None:
        """So many bytes are in the room."""
        self._fed += size
        room = self._rooms.pop()
        if self._fed > ALONE and _open < _cores:
            self._hand_over(room, size)
            return
        self._drain()
        self._unpacker.feed(room[:size])
        self._rooms.append(room)

    def finish(self) -> tuple[int, int]:
        """All of it is unpacked: see Unpacker.finish."""
        self._drain()
        return self._unpacker.finish()

    def _hand_over(self, room: memoryview, size: int) -> None:
        if self._failure is not None:
            raise self._failure
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="holdd-unpack")
            self._thread.start()
        self._lent += 1
        self._handed.put((room, size))

    def _drain(self) -> None:
        """Until all that was handed over is written."""
        while self._lent:
            self._take_back()
        if self._failure is not None:
            raise self._failure

    def _take_back(self) -> None:
        self._rooms.append(self._back.get())
        self._lent -= 1

    def _run(self) -> None:
        while (handed := self._handed.get()) is not None:
            room, size = handed
            if self._failure is None and not self._given_up:
                try:
                    self._unpacker.feed(room[:size])
                except BaseException as exc:
                    self._failure = exc
            self._back.put(room)


def _count(by: int) -> None:
    """How many layers are being unpacked."""
    global _open
    with _counting:
        _open += by
