"""Hosts that are down rest, and one request tries them again."""

from daemon.images.breaker import FIRST_S, LONGEST_S, PROBE_S, Breakers


def test_a_host_rests_longer_each_time_and_is_tried_by_one():
    now = [0.0]
    breakers = Breakers(lambda: now[0])
    assert breakers.may_ask("a")
    breakers.failed("a")
    assert not breakers.may_ask("a")
    assert breakers.may_ask("b")
    now[0] = FIRST_S
    assert breakers.may_ask("a")
    assert not breakers.may_ask("a"), "one tries it for all"
    now[0] += PROBE_S
    assert breakers.may_ask("a"), "the one who tried it never came back"
    breakers.failed("a")
    now[0] += FIRST_S
    assert not breakers.may_ask("a")
    now[0] += FIRST_S
    assert breakers.may_ask("a")
    breakers.answered("a")
    assert breakers.may_ask("a")


def test_a_rest_that_was_asked_for_ends_some_day():
    now = [0.0]
    breakers = Breakers(lambda: now[0])
    breakers.failed("a", 60)
    now[0] = 59
    assert not breakers.may_ask("a")
    breakers.failed("a", 10**9)
    now[0] += LONGEST_S
    assert breakers.may_ask("a")
