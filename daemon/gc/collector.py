"""One collection: read the graph, mark, sweep in small batches, then give bytes back.

Nothing is locked while it reads: whoever writes a record meanwhile tells what it refers to (`touch`), and what was
touched, with all it keeps, is spared. A batch asks once more inside its own transaction what was touched until then.
"""

import gc as pygc
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from daemon.gc.mark import Graph
from spec import errors
from spec.base import Record
from spec.edges import Node, Resource
from spec.ports import Collectible

BATCH = 64  # rows of one sweep transaction: what a creation may have to wait for
BREATH_S = 0.0002
STEP, WAY_S = 64, 0.0005  # resources, a quarter of a millisecond's work, and what those who write meanwhile have of it
# While it walks the graph, others wait for the interpreter this long at most, each time they need it: a creation does
# a dozen times, on two threads. At Python's 5 ms one took 30 ms, at 0.5 ms 10; the walk itself is not slower for it.
SWITCH_S = 0.00003

log = logging.getLogger(__name__)


class Collected(Record, frozen=True):
    """What one collection did."""

    seen: int = 0
    removed: dict[str, int] = {}
    mark_ns: int = 0
    total_ns: int = 0


class Collector:
    """Collects over `collectibles`, in their order. One collection at a time.

    `settle` waits until the writes that are under way are made: they may have told what they refer to before anybody
    listened, and be seen by halves, a lease without what it has just got and then that itself.
    """

    def __init__(
        self,
        collectibles: Sequence[Collectible],
        clock: Callable[[], float] = time.time,
        settle: Callable[[], None] = lambda: None,
    ) -> None:
        self._collectibles = collectibles
        self._settle = settle
        self._clock = clock
        self._one = threading.Lock()
        self._lock = threading.Lock()
        self._touched: list[Node] | None = None  # none: nobody is collecting
        self._told = False  # of a write, lately
        self._gone = True  # records went since the last collection; at first nobody knows
        self.mutated: Callable[[bool], None] = lambda removal: None
        """Told of each write; of a removal with True."""

    def touch(self, nodes: Iterable[Node]) -> None:
        """A ports.Tracker: what a write that is about to be made refers to."""
        self._told = True
        if self._touched is not None:
            with self._lock:
                if self._touched is not None:
                    self._touched += nodes
        self.mutated(False)

    def removed(self) -> None:
        """A ports.Tracker: a record went, and with it perhaps what kept others."""
        self._gone = self._told = True
        self.mutated(True)

    def graph(self) -> Graph:
        """What keeps what, now."""
        return Graph(self._resources(), self._clock())

    def holders(self, node: Node) -> list[list[Node]]:
        """Why `node` stays: a shortest way from each root that keeps it. NotFound when it is not there."""
        graph = self.graph()
        if graph.get(node) is None:
            raise errors.NotFound(f"{node[0]} {node[2]} not found in namespace {node[1]}")
        return graph.holders(node)

    def collect(self) -> Collected:
        """Remove what no root keeps. Raises when the graph cannot be read: then nothing is removed."""
        with self._one, _considerate():
            gone, self._gone = self._gone, False
            began = time.monotonic_ns()
            with self._lock:
                self._touched = []
            try:
                self._settle()
                graph = self.graph()
                live = graph.live()
                marked = time.monotonic_ns()
                log.debug("marked %d resources in %.1f ms", len(graph), (marked - began) / 1e6)
                removed = self._sweep(_Spared(graph, live, self._taken))
            finally:
                with self._lock:
                    self._touched = None
            seen = len(graph)
            graph.clear()
            while live:
                live.pop()
            self._clean(removed, gone)
            ended = time.monotonic_ns()
        return Collected(seen=seen, removed=removed, mark_ns=marked - began, total_ns=ended - began)

    def _resources(self) -> Iterator[Resource]:
        for collectible in self._collectibles:
            for number, resource in enumerate(collectible.resources()):
                if number % STEP == 0:
                    self._make_way()
                yield resource

    def _make_way(self) -> None:
        """Wait for a moment if somebody has written since the last time: there is more to come."""
        if self._told:
            self._told = False
            time.sleep(WAY_S)

    def _taken(self) -> list[Node]:
        """What was touched since the last time somebody asked."""
        with self._lock:
            touched, self._touched = self._touched or [], []
        return touched

    def _sweep(self, spared: "_Spared") -> dict[str, int]:
        removed: dict[str, int] = {}
        for collectible in self._collectibles:
            dead = [node for node in collectible.order(spared.dead()) if node[0] in collectible.kinds]
            for start in range(0, len(dead), BATCH):
                try:
                    gone = collectible.remove(dead[start : start + BATCH], spared.still_dead)
                except (errors.Error, OSError) as exc:
                    log.warning("collecting %s: %s", dead[start][0], exc)
                    self._settle()  # what cannot be written at all ends it
                    continue
                for kind, _, _ in gone:
                    removed[kind] = removed.get(kind, 0) + 1
                time.sleep(BREATH_S)
        return removed

    def _clean(self, removed: dict[str, int], gone: bool) -> None:
        for collectible in self._collectibles:
            try:
                collectible.clean(gone or any(kind in removed for kind in collectible.kinds))
            except (errors.Error, OSError) as exc:
                log.warning("giving back space of %s: %s", ", ".join(collectible.kinds), exc)


@contextmanager
def _considerate() -> Iterator[None]:
    """Walk a large graph so that others hardly feel it: no collection of Python's own stops everything to look through
    it (100,000 resources: 300 ms at a time), and whoever wants the interpreter soon has it."""
    enabled, interval = pygc.isenabled(), sys.getswitchinterval()
    pygc.disable()
    sys.setswitchinterval(SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
        if enabled:
            pygc.enable()


class _Spared:
    """What lives after all: touched since it was marked, or kept by what was."""

    def __init__(self, graph: Graph, live: set[Node], taken: Callable[[], list[Node]]) -> None:
        self._graph = graph
        self._live = live
        self._taken = taken

    def dead(self) -> list[Resource]:
        return [resource for resource in self._graph.resources() if resource.node not in self._live]

    def still_dead(self, nodes: Sequence[Node]) -> list[Node]:
        """Those of `nodes` that nobody wants at this instant."""
        touched = self._taken()
        if touched:
            self._graph.reach(touched, self._live)
        return [node for node in nodes if node not in self._live]
