"""Counters and histograms by label, told from any thread, for whoever shows them. Knows no metric by its name."""

import threading
from bisect import bisect_left
from collections.abc import Sequence

from spec.exposition import Family, labels

# Seconds; those of Prometheus's clients, and below them what a call on a unix socket takes.
BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
LONG_BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0)


class Counter:
    """Counts by the values of `names`."""

    def __init__(self, name: str, help: str, names: Sequence[str] = ()) -> None:
        self.name = name
        self.help = help
        self._names = tuple(names)
        self._counts: dict[tuple[str, ...], int] = {} if names else {(): 0}
        self._lock = threading.Lock()

    def add(self, *values: str, count: int = 1) -> None:
        with self._lock:
            self._counts[values] = self._counts.get(values, 0) + count

    def family(self) -> Family:
        with self._lock:
            counts = sorted(self._counts.items())
        samples = [("", labels(dict(zip(self._names, values, strict=True))), count) for values, count in counts]
        return Family(self.name, "counter", self.help, samples)


class Histogram:
    """How long things took, in seconds, by the values of `names`."""

    def __init__(
        self, name: str, help: str, names: Sequence[str] = (), buckets: Sequence[float] = LONG_BUCKETS
    ) -> None:
        self.name = name
        self.help = help
        self._names = tuple(names)
        self._buckets = buckets
        self._counts: dict[tuple[str, ...], list[float]] = {}  # one a bucket, one beyond, the sum
        self._lock = threading.Lock()
        if not names:
            self._counts[()] = self._none()

    def _none(self) -> list[float]:
        return [0] * (len(self._buckets) + 1) + [0.0]

    def observe(self, seconds: float, *values: str) -> None:
        with self._lock:
            counts = self._counts.get(values)
            if counts is None:
                counts = self._counts[values] = self._none()
            counts[bisect_left(self._buckets, seconds)] += 1
            counts[-1] += seconds

    def family(self) -> Family:
        with self._lock:
            known = sorted((values, counts.copy()) for values, counts in self._counts.items())
        samples: list[tuple[str, str, float]] = []
        for values, counts in known:
            given = labels(dict(zip(self._names, values, strict=True)))
            comma = "," if given else ""
            total: float = 0
            for bound, count in zip([*map(str, self._buckets), "+Inf"], counts[:-1], strict=True):
                total += count
                samples.append(("_bucket", f'{given}{comma}le="{bound}"', total))
            samples += [("_sum", given, counts[-1]), ("_count", given, total)]
        return Family(self.name, "histogram", self.help, samples)
