"""What is DictKV's own; what every KV does is in the contract suite."""

import threading

import pytest

from daemon.kit.dictkv import DictKV


def test_order_and_prefixes():
    kv = DictKV()
    kv.update(lambda txn: [txn.put(key, key.upper()) for key in (b"b2", b"a", b"b1", b"c", b"b")])
    with kv.view() as view:
        assert [key for key, _ in view.items()] == [b"a", b"b", b"b1", b"b2", b"c"]
        assert list(view.items(b"b")) == [(b"b", b"B"), (b"b1", b"B1"), (b"b2", b"B2")]
        assert list(view.items(b"d")) == []


def test_a_change_that_raises_was_not_made():
    kv = DictKV()
    kv.update(lambda txn: txn.put(b"kept", b"1"))

    def change(txn):
        txn.put(b"new", b"2")
        assert txn.delete(b"kept")
        assert [key for key, _ in txn.items()] == [b"new"]
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        kv.update(change)
    with kv.view() as view:
        assert list(view.items()) == [(b"kept", b"1")]


def test_a_view_stays_as_it_was():
    kv = DictKV()
    kv.update(lambda txn: txn.put(b"key", b"old"))
    with kv.view() as view:
        kv.update(lambda txn: txn.put(b"key", b"new"))
        assert view.get(b"key") == b"old"
    with kv.view() as view:
        assert view.get(b"key") == b"new"


def test_a_view_cannot_write():
    kv = DictKV()
    with kv.view() as view:
        with pytest.raises(TypeError):
            view.put(b"key", b"value")
        with pytest.raises(TypeError):
            view.delete(b"key")


def test_delete_says_whether_it_was_there():
    kv = DictKV()
    kv.update(lambda txn: txn.put(b"key", b"value"))
    assert kv.update(lambda txn: txn.delete(b"key")) is True
    assert kv.update(lambda txn: txn.delete(b"key")) is False


def test_updates_of_many_threads_add_up():
    kv = DictKV()

    def add(txn):
        txn.put(b"n", b"%d" % (int(txn.get(b"n") or b"0") + 1))

    def work():
        for _ in range(100):
            kv.update(add)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with kv.view() as view:
        assert view.get(b"n") == b"400"
