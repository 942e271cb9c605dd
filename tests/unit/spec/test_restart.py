"""What the restart monitor decides: a table of labels and tasks."""

import pytest

from spec import errors, names
from spec.edges import time_of
from spec.records import Status
from spec.restart import Delays, Do, Moment, Policy, Seen, Verdict, decide, policy, put_off

NOW_NS = 1_800_000_000_000_000_000
DELAYS = Delays(first=1.0, longest=8.0, reset=10.0, grace=5.0)
AT, AFTER, COUNT, BACKOFF = names.RESTART_AT, names.RESTART_AFTER, names.RESTART_COUNT, names.RESTART_BACKOFF
RUNNING, PAUSED, CREATED = Seen(Status.RUNNING), Seen(Status.PAUSED), Seen(Status.CREATED)
FAILED, DONE = Seen(Status.STOPPED, 1, 7, 0.5), Seen(Status.STOPPED, 0, 7, 0.5)
NOTHING, STOP = Verdict(Do.NOTHING), Verdict(Do.STOP)


def labels(status="running", policy="", **more):
    given = {"status": status, "policy": policy, **more}
    return {f"containerd.io/restart.{key.replace('_', '-')}": value for key, value in given.items() if value}


def decided(marks, task, idle_s=100.0, chance=0.0):
    return decide(marks, task, DELAYS, Moment(NOW_NS, idle_s, chance))


def delay(verdict):
    """Of the restart that is planned."""
    return time_of(verdict.labels[AT]) - NOW_NS / 1e9


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("", Policy("always")),
        ("no", Policy("no")),
        ("always", Policy("always")),
        ("unless-stopped", Policy("unless-stopped")),
        ("on-failure", Policy("on-failure")),
        ("on-failure:3", Policy("on-failure", 3)),
        ("on-failure:0", Policy("on-failure")),
    ],
)
def test_policies(text, parsed):
    assert policy(text) == parsed


@pytest.mark.parametrize("text", ["never", "always:3", "on-failure:", "on-failure:-1", "on-failure:x", " no"])
def test_what_is_no_policy(text):
    with pytest.raises(errors.InvalidArgument, match="restart policy"):
        policy(text)
    with pytest.raises(errors.InvalidArgument, match="restart policy"):
        decided(labels(policy=text), FAILED)


ENDED = {
    ("", DONE): True,
    ("always", DONE): True,
    ("always", FAILED): True,
    ("no", FAILED): False,
    ("on-failure", DONE): False,
    ("on-failure", FAILED): True,
    ("unless-stopped", DONE): True,
}


@pytest.mark.parametrize(("policy", "task", "again"), [(*case, again) for case, again in ENDED.items()])
def test_who_is_started_again(policy, task, again):
    verdict = decided(labels(policy=policy), task)
    assert verdict.do is (Do.NOTE if again else Do.NOTHING)
    if again:
        assert verdict.labels[AFTER] == "7"


@pytest.mark.parametrize(("count", "again"), [("", True), ("1", True), ("2", False), ("3", False), ("rubbish", True)])
def test_on_failure_so_many_times(count, again):
    assert (decided(labels(policy="on-failure:2", count=count), FAILED) != NOTHING) is again


def test_who_was_stopped_stays_so():
    assert decided(labels(policy="unless-stopped", explicitly_stopped="true"), FAILED) == NOTHING
    assert decided(labels(policy="unless-stopped", explicitly_stopped="false"), FAILED).do is Do.NOTE
    assert decided(labels(policy="always", explicitly_stopped="true"), FAILED).do is Do.NOTE


@pytest.mark.parametrize("task", [RUNNING, PAUSED, Seen(Status.PAUSING), Seen(Status.UNKNOWN), CREATED])
def test_what_runs_or_is_about_to_is_left_alone(task):
    assert decided(labels(policy="always"), task) == NOTHING


@pytest.mark.parametrize("marks", [{}, {"a": "b"}, labels(status="maybe"), labels(status="", policy="always")])
@pytest.mark.parametrize("task", [None, RUNNING, FAILED])
def test_without_the_label_nothing_is_done(marks, task):
    assert decided(marks, task) == NOTHING


@pytest.mark.parametrize("task", [RUNNING, PAUSED, CREATED])
def test_what_shall_not_run_is_stopped(task):
    assert decided(labels("stopped", "always"), task) == STOP
    assert decided(labels("stopped", "always"), None) == decided(labels("stopped", "always"), DONE) == NOTHING


def test_without_a_task():
    """Its maker has time to make one; nothing of it has failed."""
    assert decided(labels(), None, idle_s=2.0) == Verdict(Do.NOTHING, wait_s=3.0)
    verdict = decided(labels(), None)
    assert (verdict.do, delay(verdict)) == (Do.NOTE, 0)
    assert AFTER not in verdict.labels
    assert decided(labels(policy="on-failure"), None) == NOTHING
    assert decided(labels(policy="unless-stopped", explicitly_stopped="true"), None) == NOTHING


def test_delays_double_up_to_the_longest():
    marks, seen = labels(), []
    for _ in range(5):
        verdict = decided(marks, FAILED)
        seen.append(delay(verdict))
        marks = {**labels(), BACKOFF: verdict.labels[BACKOFF]}
    assert seen == [1, 2, 4, 8, 8]


@pytest.mark.parametrize("backoff", ["nonsense", "-1", "0", "nan", "1e9"])
def test_a_backoff_that_is_none_of_ours_counts_as_none(backoff):
    assert delay(decided(labels(backoff=backoff), FAILED)) == 1


def test_who_ran_long_enough_begins_anew():
    assert delay(decided(labels(backoff="4"), FAILED._replace(ran_s=10.0))) == 1
    assert delay(decided(labels(backoff="4"), FAILED._replace(ran_s=9.9))) == 8


def test_chance_shortens_a_delay_by_a_quarter_at_most():
    assert delay(decided(labels(backoff="2"), FAILED, chance=1.0)) == 3
    assert delay(decided(labels(backoff="2"), FAILED, chance=0.5)) == 3.5


# Whoever finds a plan, perhaps after a kill -9, carries it out, and counts it once.


def planned(**more):
    return {**labels(policy="on-failure:3", **more), **decided(labels(policy="on-failure:3"), FAILED).labels}


def test_a_plan_is_carried_out_when_it_is_due():
    marks = planned()
    assert decided(marks, FAILED) == Verdict(Do.START, wait_s=1.0)
    for task in (FAILED, None, CREATED):
        assert decide(marks, task, DELAYS, Moment(NOW_NS + 2_000_000_000)) == Verdict(Do.START)


def test_what_runs_was_started_and_is_counted():
    for seen in (RUNNING, Seen(Status.UNKNOWN)):
        assert decided(planned(count="1"), seen) == Verdict(Do.NOTE, {AT: "", AFTER: "", COUNT: "2"})


def test_what_ran_and_has_ended_is_counted_and_planned_again():
    ended = FAILED._replace(exited_at_ns=8)
    verdict = decided(planned(count="1"), ended)
    assert (verdict.do, verdict.labels[COUNT], verdict.labels[AFTER], delay(verdict)) == (Do.NOTE, "2", "8", 2)
    assert decided(planned(count="2"), ended).labels == {COUNT: "3", AT: "", AFTER: ""}


def test_a_plan_is_given_up_with_its_reason():
    gone = {AT: "", AFTER: ""}
    for status, asked in (("stopped", "always"), ("", ""), ("running", "no")):
        marks = {**planned(), names.RESTART_STATUS: status, names.RESTART_POLICY: asked}
        assert decided(marks, FAILED) == Verdict(Do.NOTE, gone)
    assert decided({**planned(), **labels(policy="unless-stopped", explicitly_stopped="true")}, None).labels == gone


def test_a_clock_that_was_set_back_keeps_nobody_waiting():
    assert decide(planned(), FAILED, DELAYS, Moment(NOW_NS - 10**15)).wait_s == 8
    assert decided({**planned(), AT: "yesterday"}, FAILED) == Verdict(Do.START)


def test_what_could_not_be_done_is_due_later():
    marks = planned()
    assert put_off(marks, DELAYS, Moment(NOW_NS))[BACKOFF] == "2"
    assert set(put_off(marks, DELAYS, Moment(NOW_NS))) == {AT, BACKOFF}
