"""Records on a disk with not one byte left: what is there can be removed, and what that frees is of use at once."""

import pytest

from daemon.metadata import journal
from daemon.metadata.store import ROOM, Store
from spec import errors
from tests.disks import KINDS, MIB, disk, fill

pytestmark = pytest.mark.root
ROWS = 4000


@pytest.fixture(params=KINDS)
def room(tmp_path, request):
    with disk(tmp_path, request.param, 32 * MIB) as directory:
        yield directory


def put(store, numbers, value=b"v" * 200):
    for commit in [store.update(lambda txn, n=n: txn.put(b"%06d" % n, value)) for n in numbers]:
        commit.result()


def test_all_rows_can_be_removed_one_by_one_and_the_store_opens(room):
    store = Store(str(room / "metadata"))
    put(store, range(ROWS))
    fill(room)
    for n in range(0, ROWS, 7):  # each from a page of its own
        assert store.update(lambda txn, n=n: txn.delete(b"%06d" % n)).result()
    store.close()
    store = Store(str(room / "metadata"))  # half of the room is left
    put(store, [ROWS])
    assert store.update(lambda txn: txn.delete(b"%06d" % ROWS)).result()
    for n in set(range(ROWS)) - set(range(0, ROWS, 7)):
        assert store.update(lambda txn, n=n: txn.delete(b"%06d" % n)).result()
    with store.view() as view:
        assert not list(view.items(b""))
    store.close()


def test_writes_stop_before_removals_do_and_go_on_at_once(room):
    store = Store(str(room / "metadata"))
    put(store, range(ROWS))
    filler = fill(room)
    written = ROWS
    while (full := store.update(lambda txn, n=written: txn.put(b"%06d" % n, b"w" * 3000)).exception()) is None:
        written += 1
    assert isinstance(full, errors.ResourceExhausted)
    assert (written - ROWS) * 3000 <= ROOM
    with pytest.raises(errors.ResourceExhausted):
        put(store, range(3))
    for n in range(0, ROWS, 3):
        assert store.update(lambda txn, n=n: txn.delete(b"%06d" % n)).result()
    filler.unlink()
    put(store, range(ROWS))
    with store.view() as view:
        expected = dict(view.items(b""))
    assert len(expected) == written
    store.close()
    store = Store(str(room / "metadata"))
    logged = {}
    assert journal.read(str(room / "metadata/journal"), logged)[2] == ""
    assert {key: row[4:] for key, row in logged.items()} == expected
    store.close()


def test_a_batch_that_has_no_room_spares_the_removals_in_it(room):
    store = Store(str(room / "metadata"))
    put(store, range(10))
    fill(room)
    large = [store.update(lambda txn, n=n: txn.put(b"large%d" % n, bytes(3 * MIB))) for n in range(3)]
    small = [store.update(lambda txn, n=n: txn.delete(b"%06d" % n)) for n in range(10)]
    assert all(commit.result() for commit in small)
    assert any(commit.exception() for commit in large)
    assert {type(commit.exception()) for commit in large} <= {type(None), errors.ResourceExhausted}
    store.close()
