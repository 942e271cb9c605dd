"""Progress of a journey: who did how much of what, told no more often than is useful."""

import threading
import time

from spec.ports import ProgressSink
from spec.types import Progress

INTERVAL_NS = 300_000_000  # between two reports of one object's bytes


class Report:
    """Tells `sink`; from any thread. A change of phase is told at once, bytes now and then."""

    def __init__(self, sink: ProgressSink) -> None:
        self._sink = sink
        self._lock = threading.Lock()
        self._told: dict[str, tuple[str, int]] = {}

    def tell(self, event: str, name: str, progress: int = 0, total: int = 0, digest: str = "") -> None:
        now = time.monotonic_ns()
        with self._lock:
            phase, told_at = self._told.get(name, ("", 0))
            if phase == event and now - told_at < INTERVAL_NS:
                return
            self._told[name] = (event, now)
            self._sink(Progress(event=event, name=name, progress=progress, total=total, descriptor=digest))
