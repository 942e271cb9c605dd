"""Patient jobs join others, one to a commit, and are done when there are none."""

import threading

import pytest

from daemon.metadata import jobs
from daemon.metadata.jobs import MOST, Jobs


@pytest.fixture
def waiting(monkeypatch):
    """Jobs that wait for company as long as it takes."""
    monkeypatch.setattr(jobs, "LULL_S", 1000.0)
    monkeypatch.setattr(jobs, "PATIENCE_S", 1000.0)
    found = Jobs()
    found.put("first")
    assert found.take() == ["first"]
    return found


def test_all_that_wait_make_one_commit_up_to_a_bound():
    found = Jobs()
    for n in range(MOST + 3):
        found.put(n)
    assert found.take() == list(range(MOST))
    assert found.take() == list(range(MOST, MOST + 3))


def test_a_patient_one_joins_those_that_wait_and_no_two_join_one_commit():
    found = Jobs()
    found.put("p1", patient=True)
    found.put("a")
    found.put("p2", patient=True)
    found.put("b")
    assert found.take() == ["a", "b", "p1"]
    assert found.take() == ["p2"]


def test_a_patient_one_goes_alone_where_nobody_comes_by():
    found = Jobs()
    found.put("p", patient=True)
    assert found.take() == ["p"]


def test_a_patient_one_waits_for_company_while_others_come_and_go(waiting):
    waiting.put("p", patient=True)
    threading.Timer(0.05, waiting.put, ["a"]).start()
    assert waiting.take() == ["a", "p"]


def test_a_patient_one_does_not_wait_for_ever(monkeypatch):
    monkeypatch.setattr(jobs, "LULL_S", 1000.0)
    found = Jobs()
    found.put("a")
    assert found.take() == ["a"]
    found.put("p", patient=True)
    assert found.take() == ["p"]


def test_what_waits_when_it_is_closed_is_taken_and_then_there_is_nothing(waiting):
    waiting.put("p1", patient=True)
    waiting.put("p2", patient=True)
    waiting.put("a")
    waiting.close()
    assert [waiting.take() for _ in range(4)] == [["a", "p1"], ["p2"], [], []]


def test_one_that_waits_is_told_of_the_end():
    found = Jobs()
    threading.Timer(0.05, found.close).start()
    assert found.take() == []
