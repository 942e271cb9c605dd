"""Which resources live: three colours over the graph of what keeps what. Pure; knows no store."""

import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from spec.edges import LEASE, Condition, Node, Resource, time_of

_TERM = re.compile(r"usedat([<>])(.+)")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class Graph:
    """All resources with the edges between them, back references turned round."""

    def __init__(self, resources: Iterable[Resource], now_s: float) -> None:
        self._resources: dict[Node, Resource] = {}
        self._kept: dict[Node, list[Node]] = {}  # owner -> those it keeps by their own label
        conditional: list[tuple[Node, Condition]] = []
        for resource in resources:
            self._resources[resource.node] = resource
            for owner in resource.owners:
                self._kept.setdefault(owner, []).append(resource.node)
            conditional += ((resource.node, condition) for condition in resource.conditions)
        for node, condition in conditional:
            target = self._resources.get(condition.node)
            if target is not None and _meets(condition.terms, target.used_at, now_s):
                self._kept.setdefault(condition.node, []).append(node)

    def __len__(self) -> int:
        return len(self._resources)

    def clear(self) -> None:
        """Give it up piece by piece: all at once would keep the interpreter from others for long."""
        for part in (self._resources, self._kept):
            while part:
                part.popitem()

    def resources(self) -> Iterator[Resource]:
        return iter(self._resources.values())

    def get(self, node: Node) -> Resource | None:
        return self._resources.get(node)

    def next(self, node: Node) -> Sequence[Node]:
        """Everything that lives while `node` does."""
        resource = self._resources.get(node)
        own: Sequence[Node] = () if resource is None else (*resource.base, *resource.refs)
        kept = self._kept.get(node)
        return own if kept is None else (*own, *kept)

    def live(self) -> set[Node]:
        """All that a root keeps. What only flat leases keep, keeps its base alone."""
        live: set[Node] = set()
        flat: set[Node] = set()
        for resource in self._resources.values():
            if resource.root and not resource.flat:
                self.reach((resource.node,), live)
            elif resource.root:
                flat.add(resource.node)
                self._reach_flat(resource.refs, flat)
        return live | flat

    def reach(self, nodes: Iterable[Node], into: set[Node]) -> None:
        """Add `nodes` and all they keep to `into`."""
        waiting = deque(nodes)
        while waiting:
            node = waiting.pop()
            if node not in into:
                into.add(node)
                waiting.extend(self.next(node))

    def _reach_flat(self, nodes: Iterable[Node], into: set[Node]) -> None:
        waiting = deque(nodes)
        while waiting:
            node = waiting.pop()
            resource = self._resources.get(node)
            if node in into:
                continue
            into.add(node)
            if resource is not None:
                waiting.extend(resource.base)

    def holders(self, node: Node) -> list[list[Node]]:
        """Why `node` lives: for each root that keeps it a shortest way from the root to it. Leases come first."""
        above: dict[Node, list[Node]] = {}
        for resource in self._resources.values():
            for below in self.next(resource.node):
                above.setdefault(below, []).append(resource.node)
        ways: dict[Node, list[Node]] = {node: [node]}
        waiting = deque([node])
        while waiting:
            at = waiting.popleft()
            for upper in above.get(at, ()):
                if upper not in ways:
                    ways[upper] = [upper, *ways[at]]
                    waiting.append(upper)
        found = [way for start, way in ways.items() if (top := self._resources.get(start)) is not None and top.root]
        return sorted(found, key=lambda way: (way[0][0] != LEASE, len(way), way))


def _meets(terms: Sequence[str], used_at: str, now_s: float) -> bool:
    """Whether one of `terms` holds of the stamp; what cannot be read does not."""
    stamp = time_of(used_at) if used_at else None
    if stamp is None:
        return False
    for term in terms:
        match = _TERM.fullmatch(term.strip())
        limit = _duration(match[2]) if match else None
        if match and limit is not None and ((now_s - stamp < limit) if match[1] == "<" else (now_s - stamp > limit)):
            return True
    return False


def _duration(text: str) -> float | None:
    """Seconds, of a duration as Go writes it: 1h30m, 1.5s."""
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)
