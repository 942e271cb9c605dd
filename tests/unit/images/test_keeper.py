"""What is kept for whom, how much of it, and for how long."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from daemon.images.keeper import Keeper, states
from spec.records import Namespace


class Thing:
    def __init__(self):
        self.rested = threading.Event()
        self.closed = False

    def rest(self):
        self.rested.set()

    def close(self):
        self.closed = True


@pytest.fixture
def keeper():
    made = Keeper(most=3)
    yield made
    made.close()


def used(keeper, name):
    thing = keeper.take(keeper.key(name), Thing)
    keeper.give(keeper.key(name))
    return thing


def test_the_same_is_found_again_and_nothing_else(keeper):
    values = [("a",), ("b",), ("a", "b"), (("a", "b"),), ("ab",), (Namespace(name="a"),), (Namespace(name="b"),)]
    assert len({keeper.key(*value) for value in values}) == len(values)
    assert keeper.key("a") != Keeper().key("a"), "nobody can guess one"
    assert used(keeper, "a") is used(keeper, "a")
    assert used(keeper, "a") is not used(keeper, "b")


def test_what_was_used_longest_ago_goes_first(keeper):
    things = {name: used(keeper, name) for name in "abc"}
    used(keeper, "a")
    used(keeper, "d")
    assert [name for name, thing in things.items() if thing.closed] == ["b"]


def test_what_is_in_use_stays(keeper):
    held = [keeper.take(keeper.key(name), Thing) for name in "abcde"]
    last = used(keeper, "f")
    assert not any(thing.closed for thing in held)
    used(keeper, "g")
    assert last.closed
    for name in "abcde":
        keeper.give(keeper.key(name))
    keeper.close()
    assert all(thing.closed for thing in held)


def test_what_is_in_use_is_closed_when_it_is_given_back(keeper):
    held, idle = keeper.take(keeper.key("a"), Thing), used(keeper, "b")
    keeper.close()
    assert (held.closed, idle.closed) == (False, True)
    keeper.give(keeper.key("a"))
    assert held.closed


def test_it_rests_once_nobody_uses_it():
    keeper = Keeper(rest_s=0.01)
    held, idle = keeper.take(keeper.key("held"), Thing), used(keeper, "idle")
    assert idle.rested.wait(30)
    assert not held.rested.is_set()
    keeper.give(keeper.key("held"))
    assert held.rested.wait(30)
    idle.rested.clear()
    assert used(keeper, "idle") is idle, "it is there still"
    assert idle.rested.wait(30)
    keeper.close()
    assert "keeper" not in {thread.name for thread in threading.enumerate()}


def test_many_at_once(keeper):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: used(keeper, number % 5), range(500)))
    assert len(keeper._kept) == 3


def test_states_of_files(tmp_path):
    path = tmp_path / "ca.pem"
    seen = [states([str(path)])]
    for text in ("one", "two", "three"):
        path.unlink(missing_ok=True)
        path.write_text(text)
        seen.append(states([str(path)]))
    assert len({str(state) for state in seen}) == 4
