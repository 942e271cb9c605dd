import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from daemon.flows.crew import Crew
from daemon.kit.cancel import Token
from spec import errors

SECONDS = 20.0


@pytest.fixture
def pool():
    with ThreadPoolExecutor(8) as pool:
        yield pool


def done():
    future = Future()
    future.set_result(None)
    return future


def test_no_more_than_its_size_work_at_once(pool):
    crew = Crew(pool, 2)
    lock, inside, most = threading.Lock(), [], []

    def work(number):
        with crew.turn(Token()):
            with lock:
                inside.append(number)
                most.append(len(inside))
            with lock:
                inside.remove(number)

    list(pool.map(work, range(200)))
    assert max(most) <= 2
    assert len(most) == 200


def test_a_free_place_is_for_the_lowest_ticket(pool):
    crew = Crew(pool, 1)
    order, waiting = [], threading.Semaphore(0)
    turns = [crew.turn(Token()) for _ in range(4)]

    def work(number):
        waiting.release()
        with turns[number]:
            order.append(number)

    with turns[0]:
        futures = [pool.submit(work, number) for number in (3, 1, 2)]
        while len(crew._waiting) < 3:
            assert waiting.acquire(timeout=SECONDS) or True
    for future in futures:
        future.result(SECONDS)
    assert order == [1, 2, 3]


def test_who_rests_lets_another_work(pool):
    crew = Crew(pool, 1)
    with crew.turn(Token()) as turn:
        with turn.rest():
            assert pool.submit(lambda: crew.turn(Token()).__enter__().__exit__()).result(SECONDS) is None
        assert crew._working == 1
    assert crew._working == 0


def test_a_rest_that_fails_leaves_no_turn_behind(pool):
    crew = Crew(pool, 1)
    with pytest.raises(ValueError, match="broken"), crew.turn(Token()) as turn, turn.rest():
        raise ValueError("broken")
    assert crew._working == 0


def test_who_is_no_longer_wanted_stops_waiting(pool):
    crew, token = Crew(pool, 1), Token()
    with crew.turn(Token()):
        waiting = pool.submit(crew.turn(token).__enter__)
        token.cancel("enough")
        with pytest.raises(errors.Canceled, match="enough"):
            waiting.result(SECONDS)
    assert (crew._working, crew._waiting) == (0, [])


def test_work_starts_after_what_it_waits_for(pool):
    crew, after = Crew(pool, 1), Future()
    outcome = crew.start(after, lambda: "result")
    assert not outcome.done()
    after.set_exception(ValueError("it ended"))
    assert outcome.result(SECONDS) == "result"


def test_work_that_fails(pool):
    def work():
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        Crew(pool, 1).start(done(), work).result(SECONDS)


def test_work_that_has_not_begun_can_be_cancelled(pool):
    crew, after, ran = Crew(pool, 1), Future(), []
    outcome = crew.start(after, lambda: ran.append(1))
    assert outcome.cancel()
    after.set_result(None)
    assert crew.start(done(), lambda: "later").result(SECONDS) == "later"
    assert not ran


def test_a_closed_pool_cancels_what_it_cannot_run():
    pool = ThreadPoolExecutor(1)
    crew, after, go = Crew(pool, 1), Future(), threading.Event()
    running = crew.start(done(), lambda: go.wait(SECONDS))
    queued = crew.start(done(), lambda: None)
    late = crew.start(after, lambda: None)
    pool.shutdown(wait=False, cancel_futures=True)
    go.set()
    pool.shutdown()
    after.set_result(None)
    assert running.result(SECONDS)
    assert queued.cancelled()
    assert late.cancelled()
