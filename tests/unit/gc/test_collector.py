"""A collection: what it removes, what is spared while it works, and what a failure costs."""

import contextlib
import gc
import sys
import threading
import time

import pytest

from daemon.gc.collector import BATCH, STEP, SWITCH_S, WAY_S, Collector
from daemon.gc.mark import Graph
from spec import errors
from spec.edges import Resource


class Shelf:
    """A ports.Collectible in memory. `during` is called before each removal, `broken` names cannot be removed."""

    def __init__(self, kind="content", resources=(), during=lambda: None, broken=()):
        self.kinds = frozenset({kind})
        self.there = {resource.node: resource for resource in resources}
        self.during = during
        self.broken = broken
        self.cleaned = []

    def resources(self):
        return iter(list(self.there.values()))

    def order(self, dead):
        return [resource.node for resource in dead if resource.node in self.there]

    def remove(self, nodes, still_dead):
        self.during()
        gone = [node for node in still_dead(nodes) if node[2] not in self.broken]
        for node in gone:
            del self.there[node]
        if self.broken and not gone:
            raise errors.Unavailable("removing: not now")
        return gone

    def clean(self, removed):
        self.cleaned.append(removed)

    def names(self):
        return sorted(node[2] for node in self.there)


def node(name, kind="content"):
    return (kind, "ns", name)


def test_what_no_root_keeps_goes():
    rows = [Resource(node("a"), root=True, refs=[node("b")]), Resource(node("b")), Resource(node("c"))]
    shelf = Shelf(resources=rows)
    done = Collector([shelf]).collect()
    assert shelf.names() == ["a", "b"]
    assert (done.seen, done.removed) == (3, {"content": 1})


def test_what_is_touched_meanwhile_stays_with_all_it_keeps():
    rows = [Resource(node("a"), refs=[node("b")]), Resource(node("b"), base=[node("c")])]
    rows += [Resource(node("c")), Resource(node("d"))]
    shelf = Shelf(resources=rows)
    collector = Collector([shelf])
    shelf.during = lambda: collector.touch([node("a")])
    collector.collect()
    assert shelf.names() == ["a", "b", "c"]
    shelf.during = lambda: None
    collector.collect()
    assert shelf.names() == []


def test_what_was_touched_before_a_collection_is_as_it_is_marked():
    shelf = Shelf(resources=[Resource(node("a"))])
    collector = Collector([shelf])
    collector.touch([node("a")])
    collector.collect()
    assert shelf.names() == []


def test_one_that_cannot_go_stops_only_itself():
    rows = [Resource(node(f"{number:04}")) for number in range(BATCH + 1)]
    broken = Shelf("images", [Resource(node("x", "images"))], broken=("x",))
    shelf = Shelf(resources=rows)
    done = Collector([broken, shelf]).collect()
    assert (broken.names(), shelf.names(), done.removed) == (["x"], [], {"content": BATCH + 1})


def test_where_nothing_can_be_written_any_more_it_ends_with_the_first_failure():
    broken = [f"n{n}" for n in range(3 * BATCH)]
    tried, settled = [], []

    def settle():
        if tried:
            raise errors.DataLoss("the disk failed")
        settled.append(True)

    shelf = Shelf(resources=[Resource(node(name)) for name in broken], broken=broken, during=lambda: tried.append(True))
    with pytest.raises(errors.DataLoss):
        Collector([shelf], settle=settle).collect()
    assert (len(settled), len(tried)) == (1, 1)


def test_a_graph_that_cannot_be_read_removes_nothing():
    shelf = Shelf(resources=[Resource(node("a"))])
    broken = Shelf("images")

    def unreadable():
        raise errors.Unavailable("listing: not now")

    broken.resources = unreadable
    with pytest.raises(errors.Unavailable):
        Collector([shelf, broken]).collect()
    assert shelf.names() == ["a"]


def test_space_is_given_back_when_something_went():
    shelf = Shelf()
    collector = Collector([shelf])
    collector.collect()
    collector.collect()
    collector.removed()
    collector.collect()
    assert shelf.cleaned == [True, False, True]


def test_two_at_once_come_one_after_the_other():
    shelf = Shelf(resources=[Resource(node("a"))])
    collector = Collector([shelf])
    inside = []
    shelf.during = lambda: inside.append(threading.current_thread().name)
    threads = [threading.Thread(target=collector.collect) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(inside) == 1


def test_whoever_schedules_is_told():
    told = []
    collector = Collector([])
    collector.mutated = told.append
    collector.touch([node("a")])
    collector.removed()
    assert told == [False, True]


def test_holders_of_what_is_not_there():
    with pytest.raises(errors.NotFound, match="content x not found in namespace ns"):
        Collector([Shelf()]).holders(node("x"))


@pytest.mark.parametrize("fails", [False, True])
def test_python_is_left_as_it_was(fails):
    seen = []

    class Watching(Shelf):
        def resources(self):
            seen.append((gc.isenabled(), sys.getswitchinterval()))
            if fails:
                raise errors.DataLoss("reading")
            return super().resources()

    before = gc.isenabled(), sys.getswitchinterval()
    with contextlib.suppress(errors.DataLoss):
        Collector([Watching(resources=[Resource(node("a"))])]).collect()
    assert (gc.isenabled(), sys.getswitchinterval()) == before
    assert seen == [(False, pytest.approx(SWITCH_S))]


def test_a_graph_is_given_up():
    graph = Graph([Resource(node("a"), root=True), Resource(node("b"), owners=[node("a")])], 0)
    graph.clear()
    assert (len(graph), list(graph.resources()), graph.live()) == (0, [], set())


def test_a_write_that_told_before_anybody_listened_is_seen_whole_or_not_at_all():
    """Else a lease is read without what it has just got, and then that itself, which nobody keeps."""

    class Halves(Shelf):
        def resources(self):
            yield self.there[node("lease")]
            commit()
            yield from [resource for at, resource in self.there.items() if at != node("lease")]

    def commit():
        rows = [Resource(node("lease"), root=True, refs=[node("blob")]), Resource(node("blob"))]
        shelf.there = {resource.node: resource for resource in rows}

    shelf = Halves(resources=[Resource(node("lease"), root=True)])
    collector = Collector([shelf], settle=lambda: commit())
    collector.touch([node("blob")])
    collector.collect()
    assert shelf.names() == ["blob", "lease"]


def test_it_makes_way_for_those_who_write_and_for_nobody_else(monkeypatch):
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    shelf = Shelf(resources=[Resource(node(f"n{n}"), root=True) for n in range(3 * STEP)])
    collector = Collector([shelf])
    collector.graph()
    assert not slept
    collector.touch([node("a")])
    collector.graph()
    collector.removed()
    collector.graph()
    assert slept == [WAY_S, WAY_S]
