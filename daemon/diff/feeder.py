"""An unpacker fed by a thread of its own: the next bytes are inflated and hashed while those before are written."""

import threading
from collections.abc import Sequence
from queue import Queue

from pyx.unpack import Unpacker

BATCH = 1 << 20  # bytes handed over at once
WAITING = 2  # batches


class Feeder:
    """A context manager; a layer that fits a batch takes no thread. What is wrong with an archive is raised by the next
    `feed` or by `finish`."""

    def __init__(self, unpacker: Unpacker) -> None:
        self._unpacker = unpacker
        self._batch: list[bytes] = []
        self._size = 0
        self._queue: Queue[Sequence[bytes] | None] = Queue(WAITING)
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._ended = False

    def __enter__(self) -> "Feeder":
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended = True
        self._join()

    def feed(self, data: bytes) -> None:
        self._batch.append(data)
        self._size += len(data)
        if self._size >= BATCH:
            self._hand_over()

    def finish(self) -> tuple[int, int]:
        """All of it is unpacked: see Unpacker.finish."""
        if self._thread is None:
            self._write(self._batch)
        else:
            self._hand_over()
        self._join()
        if self._failure is not None:
            raise self._failure
        return self._unpacker.finish()

    def _hand_over(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="holdd-unpack")
            self._thread.start()
        self._queue.put(self._batch)
        self._batch, self._size = [], 0

    def _run(self) -> None:
        while (batch := self._queue.get()) is not None:
            if self._failure is None and not self._ended:
                try:
                    self._write(batch)
                except BaseException as exc:
                    self._failure = exc

    def _write(self, batch: Sequence[bytes]) -> None:
        for data in batch:
            self._unpacker.feed(data)

    def _join(self) -> None:
        if self._thread is not None and self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()
