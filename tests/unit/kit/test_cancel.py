import threading
import time

import pytest

from daemon.kit.cancel import Token
from spec import errors


def past():
    return time.monotonic_ns() - 1


def far():
    return time.monotonic_ns() + 3600 * 10**9


def test_a_new_token_lets_work_go_on():
    token = Token()
    token.check()
    assert not token.cancelled
    assert token.deadline_ns == 0


def test_the_first_reason_counts():
    token = Token()
    token.cancel("the client hung up")
    token.cancel("the daemon stops")
    with pytest.raises(errors.Canceled, match="the client hung up"):
        token.check()
    assert token.cancelled


def test_one_of_many_reasons_from_many_threads_stays():
    token = Token()
    threads = [threading.Thread(target=token.cancel, args=(f"reason {number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with pytest.raises(errors.Canceled) as first:
        token.check()
    token.cancel("too late")
    with pytest.raises(errors.Canceled) as second:
        token.check()
    assert first.value.message == second.value.message
    assert first.value.message.startswith("reason ")


def test_a_deadline_that_passed():
    with pytest.raises(errors.DeadlineExceeded):
        Token(past()).check()


def test_a_deadline_to_come():
    token = Token(far())
    token.check()
    assert not token.cancelled


def test_a_child_ends_with_its_parent():
    parent = Token()
    grandchild = parent.child().child(far())
    parent.cancel("enough")
    with pytest.raises(errors.Canceled, match="enough"):
        grandchild.check()


def test_a_child_ends_with_its_parents_deadline():
    with pytest.raises(errors.DeadlineExceeded):
        Token(past()).child().check()


def test_a_child_ends_alone():
    parent = Token()
    parent.child().cancel()
    parent.check()


@pytest.mark.parametrize(
    ("above", "own", "first"), [(0, 0, 0), (7, 0, 7), (0, 7, 7), (5, 7, 5), (7, 5, 5)], ids=str
)
def test_the_first_deadline_of_a_chain(above, own, first):
    assert Token(above).child(own).deadline_ns == first
