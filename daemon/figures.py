"""What the metrics endpoint tells of the daemon itself: one row a figure, beside what components count themselves.
Knows components by what it asks of them."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from daemon.kit.threads import Pool, hop
from spec import exposition
from spec.exposition import Family, labels
from spec.ports import Task
from spec.version import REVISION, VERSION

Families = Callable[[], Sequence[Family]]


class Text(Protocol):
    def text(self) -> str: ...


class Internals:
    """`counted` are figures that components count; the others are asked for here."""

    def __init__(
        self, counted: Sequence[Families], tasks: Callable[[], Sequence[Task]], pools: Sequence[Pool]
    ) -> None:
        self._counted = counted
        self._tasks = tasks
        self._pools = pools

    def families(self) -> list[Family]:
        return [
            Family("containerd_build_info_total", "counter", "The release.", [("", labels(BUILD), 1)]),
            Family("holdd_tasks", "gauge", "Tasks by status.", self._by_status()),
            Family("holdd_pool_threads", "gauge", "Most threads of a pool.", self._of_pools(lambda pool: pool.size)),
            Family("holdd_pool_waiting", "gauge", "Work without a thread.", self._of_pools(lambda pool: pool.waiting)),
            *(family for families in self._counted for family in families()),
        ]

    def _by_status(self) -> Sequence[tuple[str, str, float]]:
        counts = Counter((task.namespace, task.process().status.name.lower()) for task in self._tasks())
        return [
            ("", labels({"namespace": namespace, "status": status}), count)
            for (namespace, status), count in sorted(counts.items())
        ]

    def _of_pools(self, value: Callable[[Pool], int]) -> Sequence[tuple[str, str, float]]:
        return [("", labels({"pool": pool.name}), value(pool)) for pool in self._pools]


class Telling:
    """All that the endpoint tells. `containers` are read on the thread of `pool`; `calls` is an observer of them."""

    def __init__(self, containers: Text, internals: Internals, calls: Any, pool: Pool) -> None:
        self.calls = calls
        self._containers = containers
        self._internals = internals
        self._pool = pool

    async def body(self) -> bytes:
        return await hop(self._pool, self._body)

    def _body(self) -> bytes:
        return (exposition.text(self._internals.families()) + self._containers.text()).encode()


BUILD: Mapping[str, str] = {"version": VERSION, "revision": REVISION}
