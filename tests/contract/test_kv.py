"""What every KV does (spec.ports.KV). A further implementation is one row of IMPLEMENTATIONS."""

import threading
from contextlib import contextmanager

import pytest

from daemon.kit.dictkv import DictKV
from daemon.metadata.kv import BucketKV
from daemon.metadata.store import Store

ROWS = {b"a": b"1", b"b": b"2", b"b\0": b"3", b"b1": b"4", b"b\xff": b"5", b"c": b""}


@contextmanager
def memory(directory):
    yield DictKV()


@contextmanager
def bucket(directory):
    """Between two buckets that are full: one that begins with its name, and one that comes right before it."""
    store = Store(str(directory), sync=False)
    try:
        for neighbour in ("tes", "test2"):
            BucketKV(store, "snapshots", neighbour).update(lambda txn: txn.put(b"b9", b"not of this bucket"))
        yield BucketKV(store, "snapshots", "test")
    finally:
        store.close()


# Each makes a context manager of an empty KV, given a directory.
IMPLEMENTATIONS = {"memory": memory, "bucket": bucket}


@pytest.fixture(params=IMPLEMENTATIONS)
def kv(request, tmp_path):
    with IMPLEMENTATIONS[request.param](tmp_path) as kv:
        yield kv


@pytest.fixture
def filled(kv):
    def fill(txn):
        for key in reversed(ROWS):
            txn.put(key, ROWS[key])

    kv.update(fill)
    return kv


def rows(kv, prefix=b""):
    with kv.view() as view:
        return list(view.items(prefix))


def test_an_empty_one(kv):
    assert rows(kv) == []
    assert rows(kv, b"b") == []
    with kv.view() as view:
        assert view.get(b"b9") is None


def test_rows_are_in_order_of_bytes(filled):
    assert rows(filled) == sorted(ROWS.items())
    with filled.view() as view:
        assert {key: view.get(key) for key in ROWS} == ROWS


@pytest.mark.parametrize("prefix", [b"", b"a", b"b", b"b\0", b"b\xff", b"c", b"d", b"\xff", b"b0", b"cc"])
def test_prefixes(filled, prefix):
    assert rows(filled, prefix) == sorted(item for item in ROWS.items() if item[0].startswith(prefix))


def test_an_update_returns_what_the_change_does_and_sees_its_own_writes(filled):
    def change(txn):
        txn.put(b"b", b"new")
        assert txn.delete(b"a") is True
        assert txn.delete(b"a") is False
        txn.put(b"b2", b"6")
        return txn.get(b"a"), txn.get(b"b"), [key for key, _ in txn.items(b"b")]

    assert filled.update(change) == (None, b"new", [b"b", b"b\0", b"b1", b"b2", b"b\xff"])
    after = {**ROWS, b"b": b"new", b"b2": b"6"}
    del after[b"a"]
    assert rows(filled) == sorted(after.items())


@pytest.mark.parametrize("error", [ValueError, KeyError, OSError])
def test_a_change_that_raises_was_not_made(filled, error):
    raised = error("no")

    def change(txn):
        txn.put(b"a", b"new")
        txn.put(b"new", b"new")
        txn.delete(b"b")
        raise raised

    with pytest.raises(error) as caught:
        filled.update(change)
    assert caught.value is raised
    assert rows(filled) == sorted(ROWS.items())
    filled.update(lambda txn: txn.put(b"a", b"after"))
    with filled.view() as view:
        assert view.get(b"a") == b"after"


def test_a_change_of_one_that_fails_costs_the_others_nothing(kv):
    """Whoever writes at the same moment, which a store may do in one transaction."""
    count = 40
    barrier = threading.Barrier(count)
    failed = []

    def write(number):
        def change(txn):
            txn.put(b"n%02d" % number, b"x")
            if number % 4 == 0:
                raise ValueError(number)

        barrier.wait()
        try:
            kv.update(change)
        except ValueError as exc:
            failed.append(exc.args[0])

    threads = [threading.Thread(target=write, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(failed) == list(range(0, count, 4))
    assert [key for key, _ in rows(kv)] == [b"n%02d" % number for number in range(count) if number % 4]


def test_updates_of_many_threads_add_up(kv):
    def add(txn):
        txn.put(b"n", b"%d" % (int(txn.get(b"n") or b"0") + 1))

    def work():
        for _ in range(50):
            kv.update(add)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert rows(kv) == [(b"n", b"200")]


def test_a_view_stays_as_it_was(filled):
    with filled.view() as view:
        seen = view.items()
        assert next(seen) == (b"a", b"1")

        def change(txn):
            for key in ROWS:
                txn.delete(key)
            txn.put(b"z", b"new")

        writer = threading.Thread(target=filled.update, args=(change,))
        writer.start()
        writer.join()
        assert list(seen) == sorted(ROWS.items())[1:]
        assert view.get(b"z") is None
    assert rows(filled) == [(b"z", b"new")]


def test_a_view_cannot_write(filled):
    with filled.view() as view:
        with pytest.raises(TypeError):
            view.put(b"a", b"new")
        with pytest.raises(TypeError):
            view.delete(b"a")
    assert rows(filled) == sorted(ROWS.items())


def test_the_longest_key_and_a_big_value(kv):
    kv.update(lambda txn: txn.put(b"k" * 400, b"v" * 100_000))
    assert rows(kv) == [(b"k" * 400, b"v" * 100_000)]


def test_buckets_share_nothing(tmp_path):
    store = Store(str(tmp_path), sync=False)
    try:
        one, two = BucketKV(store, "snapshots", "a"), BucketKV(store, "snapshots", "b")
        one.update(lambda txn: txn.put(b"key", b"1"))
        two.update(lambda txn: txn.put(b"key", b"2"))
        assert two.update(lambda txn: txn.delete(b"key"))
        assert rows(one) == [(b"key", b"1")]
        assert rows(BucketKV(store, "snapshots", "a")) == [(b"key", b"1")]
        assert rows(two) == []
    finally:
        store.close()
