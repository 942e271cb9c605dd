"""Progress of a journey: who did how much of what, told no more often than is useful."""

import threading
import time

from spec.ports import ProgressSink
from spec.types import Progress

INTERVAL_NS = 300_000_000  # between two reports of one object's bytes


class Report:
    """Tells `sink` of the image `name` and its parts; from any thread. A change of phase is told at once, bytes now and
    then."""

    def __init__(self, sink: ProgressSink, name: str) -> None:
        self._sink = sink
        self._name = name
        self._lock = threading.Lock()
        self._told: dict[str, tuple[str, int]] = {}

    def tell(self, event: str, digest: str = "") -> None:
        """Of the image itself."""
        self._sink(Progress(event=event, name=self._name, descriptor=digest))

    def tell_part(self, event: str, name: str, progress: int = 0, total: int = 0, digest: str = "") -> None:
        """Of one of its blobs, by its ingest's ref; `progress` and `total` in bytes."""
        now = time.monotonic_ns()
        with self._lock:
            phase, told_at = self._told.get(name, ("", 0))
            if phase == event and now - told_at < INTERVAL_NS:
                return
            self._told[name] = (event, now)
        parents = (self._name,)
        part = Progress(event=event, name=name, parents=parents, progress=progress, total=total, descriptor=digest)
        self._sink(part)  # outside of the lock: it may block
