"""The store: durable, atomic one by one though committed together, growing, and never opened twice."""

import asyncio
import subprocess
import sys
import threading

import pytest

from daemon.metadata import buckets, migrate
from daemon.metadata.kv import BucketKV
from daemon.metadata.store import Store
from daemon.metadata.table import Table
from spec import errors
from spec.records import Namespace

TABLE = Table("things", "thing", Namespace)


@pytest.fixture
def store(tmp_path):
    store = Store(str(tmp_path / "metadata"), map_size=1 << 20)
    yield store
    store.close()


def test_a_write_is_read_back_after_reopening(tmp_path):
    store = Store(str(tmp_path))
    store.update(lambda txn: TABLE.create(txn, Namespace(name="a", labels={"k": "v"}), "ns", "a")).result()
    store.close()
    store = Store(str(tmp_path))
    with store.view() as view:
        assert TABLE.get(view, "ns", "a") == Namespace(name="a", labels={"k": "v"})
    store.close()


def test_a_change_that_fails_after_writing_leaves_nothing_and_spares_the_others(store):
    gate = threading.Event()
    first = store.update(lambda txn: gate.wait(10))  # so that the next three share one batch

    def bad(txn):
        txn.put(b"bad", b"1")
        raise errors.Aborted("on purpose")

    good = [store.update(lambda txn, k=k: txn.put(k, b"1")) for k in (b"g1", b"g2")]
    failing = store.update(bad)
    late = store.update(lambda txn: txn.put(b"g3", b"1"))
    gate.set()
    assert first.result(10)
    for commit in [*good, late]:
        commit.result(10)
    with pytest.raises(errors.Aborted):
        failing.result(10)
    with store.view() as view:
        assert [key for key, _ in view.items(b"")] == [b"g1", b"g2", b"g3"]


def test_the_map_grows_when_it_is_full(store):
    value = b"x" * 2000
    commits = [store.update(lambda txn, n=n: txn.put(b"%06d" % n, value)) for n in range(3000)]
    for commit in commits:
        commit.result(60)
    with store.view() as view:
        assert sum(1 for _ in view.items(b"")) == 3000


LIMITED = """
import resource, sys
from daemon.metadata.store import Store
from spec import errors
store = Store(sys.argv[1], map_size=1 << 23)
used = int(open("/proc/self/statm").read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 22), used + (1 << 22)))
put = lambda n: store.update(lambda txn: txn.put(b"%06d" % n, bytes(3000))).exception()
written = 0
while (full := put(written)) is None:
    written += 1
print(type(full).__name__, written > 1000)
print(all(store.update(lambda txn, n=n: txn.delete(b"%06d" % n)).result() for n in range(100)))
print(put(0), put(1))
store.close()
"""


def test_a_map_that_cannot_grow_refuses_writes_takes_removals_and_goes_on(tmp_path):
    done = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["ResourceExhausted True", "True", "None None"], done.stderr


def test_growing_waits_for_readers_and_nested_reads_go_on(store):
    value = b"x" * 2000
    with store.view() as view:
        commits = [store.update(lambda txn, n=n: txn.put(b"%06d" % n, value)) for n in range(1500)]
        with store.view() as nested:
            assert nested.get(b"none") is None
        assert view.get(b"000000") is None
    for commit in commits:
        commit.result(60)


def test_a_coroutine_awaits_a_commit(store):
    async def main():
        return await store.update(lambda txn: (txn.put(b"k", b"v"), "done")[1])

    assert asyncio.run(main()) == "done"


def test_a_second_daemon_is_refused(tmp_path):
    store = Store(str(tmp_path))
    code = (
        "import sys\nfrom daemon.metadata.store import Store\nfrom spec import errors\n"
        "try: Store(sys.argv[1])\nexcept errors.FailedPrecondition as e: print(e.message)"
    )
    out = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "another daemon has it (pid " in out.stdout
    store.close()


def test_rows_are_scanned_in_order_by_page_and_by_namespace(store):
    names = [f"n{n:03}" for n in range(25)]
    for name in reversed(names):
        store.update(lambda txn, name=name: TABLE.create(txn, Namespace(name=name), "ns", name)).result()
    store.update(lambda txn: TABLE.create(txn, Namespace(name="z"), "ns2", "z")).result()
    with store.view() as view:
        assert [row.name for row in TABLE.scan(view, "ns")] == names
        mark, seen = b"", []
        while True:
            rows, mark = TABLE.page(view, mark, 10, "ns")
            seen += [row.name for row in rows]
            if not mark:
                break
        assert seen == names


def test_errors_name_the_row(store):
    with store.view() as view, pytest.raises(errors.NotFound, match="thing a in namespace ns not found"):
        TABLE.get(view, "ns", "a")
    store.update(lambda txn: TABLE.create(txn, Namespace(name="a"), "ns", "a")).result()
    with pytest.raises(errors.AlreadyExists, match="thing a in namespace ns already exists"):
        store.update(lambda txn: TABLE.create(txn, Namespace(name="a"), "ns", "a")).result()


def test_long_ids_stay_distinct(store):
    long = "x" * 600
    for tail in "ab":
        store.update(lambda txn, t=tail: TABLE.create(txn, Namespace(name=long + t), "ns", long + t)).result()
    with store.view() as view:
        assert TABLE.get(view, "ns", long + "b").name == long + "b"
        assert len(list(TABLE.scan(view, "ns"))) == 2
    assert len(buckets.key("ns", long)) == buckets.MAX_KEY


def test_a_name_with_nul_is_refused():
    with pytest.raises(errors.InvalidArgument):
        buckets.key("ns", "a\0b")


def test_migrations_run_once_in_order_and_a_newer_store_is_refused(store):
    assert migrate.migrate(store, ()) == 1
    ran = []
    steps = (lambda txn: ran.append(1), lambda txn: ran.append(2))
    assert migrate.migrate(store, steps) == 3
    assert migrate.migrate(store, steps) == 3
    assert ran == [1, 2]
    with pytest.raises(errors.FailedPrecondition, match="newer holdd"):
        migrate.migrate(store, ())


def test_kvs_of_different_names_share_nothing(store):
    one, two = BucketKV(store, "snapshotter", "one"), BucketKV(store, "snapshotter", "two")
    one.update(lambda txn: txn.put(b"k", b"1"))
    two.update(lambda txn: txn.put(b"k", b"2"))
    with one.view() as view:
        assert list(view.items()) == [(b"k", b"1")]
    assert two.update(lambda txn: txn.delete(b"k")) is True
    with two.view() as view:
        assert view.get(b"k") is None


def test_a_key_that_is_too_long_fails_its_own_change_only(store):
    gate = threading.Event()
    store.update(lambda txn: gate.wait(10))  # so that the next two share one batch
    bad = store.update(lambda txn: txn.put(b"k" * 600, b"1"))
    good = store.update(lambda txn: txn.put(b"good", b"1"))
    gate.set()
    good.result(10)
    with pytest.raises(errors.InvalidArgument):
        bad.result(10)


def test_to_settle_is_to_wait_for_what_has_begun(store):
    go, begun = threading.Event(), threading.Event()

    def change(txn):
        txn.put(b"k", b"v")
        begun.set()
        go.wait()

    store.update(change)
    begun.wait()
    settling = threading.Thread(target=store.settle)
    settling.start()
    assert settling.is_alive()
    go.set()
    settling.join()
    with store.view() as view:
        assert view.get(b"k") == b"v"
