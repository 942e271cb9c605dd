import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from daemon.kit.cancel import Token
from daemon.kit.keylock import KeyLock, Once
from spec import errors

SECONDS = 20.0


@pytest.fixture
def pool():
    with ThreadPoolExecutor(8) as pool:
        yield pool


def test_one_holder_a_key(pool):
    lock = KeyLock()
    inside = []
    most = []

    def work(number):
        with lock.held("key"):
            inside.append(number)
            most.append(len(inside))
            inside.remove(number)

    list(pool.map(work, range(200)))
    assert max(most) == 1
    assert len(most) == 200


def test_keys_do_not_wait_for_each_other(pool):
    lock = KeyLock()

    def take(key):
        with lock.held(key):
            return key

    with lock.held("a"):
        assert pool.submit(take, "b").result(SECONDS) == "b"
        waiting = pool.submit(take, "a")
        assert not waiting.done()
    assert waiting.result(SECONDS) == "a"


def test_a_key_is_free_after_a_failure():
    lock = KeyLock()
    with pytest.raises(ValueError, match="broken"), lock.held("key"):
        raise ValueError("broken")
    with lock.held("key"):
        pass


class Flight:
    """Work that begins, waits to be let go, and counts."""

    def __init__(self, failures=0):
        self.failures = failures
        self.count = 0
        self.begun = threading.Event()
        self.go = threading.Event()

    def __call__(self):
        self.count += 1
        number = self.count
        self.begun.set()
        assert self.go.wait(SECONDS)
        if number <= self.failures:
            raise errors.Unavailable(f"attempt {number}")
        return f"result {number}"


def test_all_who_ask_at_once_share_one_result(pool):
    once, flight = Once(), Flight()
    first = pool.submit(once.do, "key", flight)
    assert flight.begun.wait(SECONDS)
    others = [pool.submit(once.do, "key", flight) for _ in range(5)]
    flight.go.set()
    assert [future.result(SECONDS) for future in (first, *others)] == ["result 1"] * 6
    assert flight.count == 1


def test_who_asks_later_works_again():
    once = Once()
    results = iter(range(2))
    assert once.do("key", lambda: next(results)) == 0
    assert once.do("key", lambda: next(results)) == 1


def test_keys_fly_apart(pool):
    once, flight = Once(), Flight()
    first = pool.submit(once.do, "a", flight)
    assert flight.begun.wait(SECONDS)
    assert once.do("b", lambda: "other") == "other"
    flight.go.set()
    assert first.result(SECONDS) == "result 1"


def test_waiters_try_for_themselves_when_the_worker_fails(pool):
    once, flight = Once(), Flight(failures=1)
    first = pool.submit(once.do, "key", flight)
    assert flight.begun.wait(SECONDS)
    second = pool.submit(once.do, "key", flight)
    flight.go.set()
    with pytest.raises(errors.Unavailable, match="attempt 1"):
        first.result(SECONDS)
    assert second.result(SECONDS) == "result 2"


def test_a_waiter_that_is_cancelled_leaves_and_the_worker_goes_on(pool):
    once, flight, token = Once(), Flight(), Token()
    first = pool.submit(once.do, "key", flight)
    assert flight.begun.wait(SECONDS)
    second = pool.submit(once.do, "key", flight, token)
    token.cancel("no longer wanted")
    with pytest.raises(errors.Canceled, match="no longer wanted"):
        second.result(SECONDS)
    flight.go.set()
    assert first.result(SECONDS) == "result 1"


def test_a_flight_in_parts_is_one_persons_until_it_lands(pool):
    once = Once()
    mine = once.begin("key")
    theirs = once.begin("key")
    assert mine.mine
    assert not theirs.mine
    waiting = pool.submit(theirs.landed)
    mine.land("result")
    mine.fail(ValueError("too late"))
    assert waiting.result(SECONDS)
    assert theirs.result() == "result"
    assert once.begin("key").mine


def test_a_flight_that_fails_is_free_for_the_next(pool):
    once = Once()
    mine, theirs = once.begin("key"), once.begin("key")
    waiting = pool.submit(theirs.landed)
    mine.fail(errors.Unavailable("broken"))
    assert not waiting.result(SECONDS)
    assert once.do("key", lambda: "result") == "result"
