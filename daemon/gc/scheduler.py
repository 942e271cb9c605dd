"""When to collect: after deletions or enough mutations, and never for more than a given share of the time.

The rules are containerd's (its gc scheduler plugin): a run is due an interval after the last one, and the interval
follows from how long runs take; a due run is skipped while nothing happened.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Sequence

from daemon.gc.collector import Collected
from daemon.kit.tally import Counter, Histogram
from spec.base import Record
from spec.exposition import Family

SHORTEST_S = 0.005  # a run is taken to last at least this long
FIRST_INTERVAL_S = 1.0
LONGEST_S = 3600.0  # what expires is collected on an idle host too

log = logging.getLogger(__name__)


class Thresholds(Record, frozen=True):
    """`pause` is the share of time that runs may take; `deletions` that many make one due at once (0: never), as many
    `mutations` make a scheduled one worth it. Delays are seconds."""

    pause: float = 0.02
    deletions: int = 0
    mutations: int = 100
    delay_s: float = 0.0
    startup_delay_s: float = 0.1


class Scheduler:
    """Runs `collect` on the loop it is run on. `notify` may be called from any thread."""

    def __init__(self, collect: Callable[[], Awaitable[Collected]], thresholds: Thresholds) -> None:
        self._collect = collect
        self.thresholds = thresholds
        self._lock = threading.Lock()
        self._deletions = 0
        self._mutations = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._due = asyncio.Event()
        self._one = asyncio.Lock()
        self._runs = 0
        self._spent_s = 0.0
        self._last_end_s = time.monotonic()
        self.failures = 0
        self.successes = 0
        self._collections = Counter("containerd_gc_collections_total", "Collections of garbage.", ("status",))
        for status in ("success", "fail"):
            self._collections.add(status, count=0)
        self._seconds = Histogram("containerd_gc_gc_seconds", "How long collections took.")
        self._removed = Counter("holdd_gc_removed_total", "What was collected.", ("type",))

    def notify(self, removal: bool) -> None:
        """A record was written, or removed."""
        with self._lock:
            if removal:
                self._deletions += 1
            else:
                self._mutations += 1
            due = 0 < self.thresholds.deletions <= self._deletions
        loop = self._loop
        if due and loop is not None:
            loop.call_soon_threadsafe(self._due.set)

    async def run(self) -> None:
        """Collect when it is due, until cancelled."""
        self._loop = asyncio.get_running_loop()
        try:
            await asyncio.sleep(self.thresholds.startup_delay_s)
            await self._attempt()
            while True:
                await self._wait()
                if self._worth():
                    await asyncio.sleep(self.thresholds.delay_s)
                    await self._attempt()
        finally:
            self._loop = None

    async def now(self) -> Collected:
        """Collect at once, after a run that is under way; what it did."""
        async with self._one:
            return await self._timed()

    def families(self) -> Sequence[Family]:
        """What the metrics tell of it."""
        return [self._collections.family(), self._seconds.family(), self._removed.family()]

    @property
    def interval_s(self) -> float:
        """Between two runs, so that they take no more than their share."""
        if not self._runs:
            return FIRST_INTERVAL_S
        average = max(self._spent_s / self._runs, SHORTEST_S)
        return average / self.thresholds.pause - average if self.thresholds.pause else LONGEST_S

    async def _wait(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.interval_s):  # wait_for may lose a cancellation (python/cpython#86296)
                await self._due.wait()
        self._due.clear()

    def _worth(self) -> bool:
        with self._lock:
            happened = self._deletions > 0 or self._mutations >= self.thresholds.mutations
        return happened or time.monotonic() - self._last_end_s >= LONGEST_S

    async def _attempt(self) -> None:
        try:
            await self.now()
        except Exception as exc:  # whatever it was, the next run may do better, and the daemon goes on
            log.warning("collecting garbage: %s", exc)
            await asyncio.sleep(self.interval_s + 1)

    async def _timed(self) -> Collected:
        with self._lock:
            self._deletions = self._mutations = 0
        began = time.monotonic()
        try:
            collected = await self._collect()
        except BaseException:
            self.failures += 1
            self._collections.add("fail")
            raise
        self.successes += 1
        self._collections.add("success")
        self._seconds.observe(time.monotonic() - began)
        for kind, count in collected.removed.items():
            self._removed.add(kind, count=count)
        self._runs += 1
        self._spent_s += time.monotonic() - began
        self._last_end_s = time.monotonic()
        if collected.removed:
            log.info("collected %s", ", ".join(f"{count} {kind}" for kind, count in sorted(collected.removed.items())))
        return collected
