"""What waits for the writer thread: changes that somebody wants soon, and patient ones, which collect garbage.

A commit waits for the disk, and whoever comes while one is under way waits twice. So a patient change has no commit of
its own while others have theirs: it joins one of them, and no commit has two. Alone it goes when nobody comes by.
"""

import queue
import time
from collections import deque
from typing import Generic, TypeVar

J = TypeVar("J")

MOST = 512  # in one commit
LULL_S = 0.05  # since the last change that is not patient: then none is expected
PATIENCE_S = 0.005


class Jobs(Generic[J]):
    """Put from any thread, taken on one. Those of a kind are taken in the order they came in."""

    def __init__(self) -> None:
        self._soon: queue.SimpleQueue[J | None] = queue.SimpleQueue()  # none: look around
        self._patient: deque[J] = deque()
        self._last_s = time.monotonic() - LULL_S
        self._closed = False

    def put(self, job: J, patient: bool = False) -> None:
        if patient:
            self._patient.append(job)
            self._soon.put(None)
        else:
            self._soon.put(job)

    def close(self) -> None:
        """No more will be put."""
        self._closed = True
        self._soon.put(None)

    def take(self) -> list[J]:
        """What makes the next commit; waits for it. Empty: it is closed, and nothing is left."""
        while True:
            batch = self._arrived(0.0 if self._patient or self._closed else None)
            if not batch and self._patient and not self._closed:
                lulled = time.monotonic() - self._last_s >= LULL_S
                batch = [] if lulled else self._arrived(PATIENCE_S)
            if batch:
                self._last_s = time.monotonic()
            if self._patient:
                batch.append(self._patient.popleft())
            if batch or (self._closed and self._soon.empty()):
                return batch

    def _arrived(self, within_s: float | None) -> list[J]:
        """All that are there or, if none is, the first that comes; empty when it was called to look around."""
        batch: list[J] = []
        try:
            job = self._soon.get(timeout=within_s) if within_s != 0.0 else self._soon.get_nowait()
            while True:
                if job is not None:
                    batch.append(job)
                if len(batch) == MOST:
                    return batch
                job = self._soon.get_nowait()
        except queue.Empty:
            return batch
