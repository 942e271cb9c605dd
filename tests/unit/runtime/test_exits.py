"""Which process an exit is of."""

from daemon.runtime.bundle import ProcessRecord
from daemon.runtime.exits import Exits
from daemon.runtime.process import TaskProcess
from daemon.runtime.shim import ExitRecord


def process(pid, since=0):
    return TaskProcess("c", ProcessRecord(exec_id="e", pid=pid, since=since))


def record(sequence, pid):
    return ExitRecord(sequence, pid, 0, 1, False)


def test_records_are_matched_by_pid():
    exits, one = Exits(), process(5)
    assert exits.expect(one) == []
    assert exits.match(record(0, 6)) is None
    assert exits.match(record(1, 5)) is one
    assert exits.since == 2
    exits.forget(5)
    assert exits.match(record(2, 5)) is None


def test_a_pid_that_came_round_again():
    exits = Exits()
    two = process(5, since=3)
    exits.expect(two)
    assert exits.match(record(2, 5)) is None
    assert exits.match(record(3, 5)) is two


def test_an_exit_before_its_pid_is_known():
    exits, one = Exits(), process(5)
    with exits.launching():
        with exits.launching():
            assert exits.match(record(0, 5)) is None
            assert exits.match(record(1, 6)) is None
        assert exits.expect(one) == [record(0, 5)]
    assert exits.expect(process(6)) == []
    assert exits.match(record(2, 7)) is None
    assert exits.expect(process(7)) == []
