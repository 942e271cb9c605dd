"""A disk that does not take what is written, and says so but once: nothing is counted on that may be on no disk."""

import errno

import pytest

from daemon.content.local import LocalContent
from daemon.metadata.store import Store
from spec import errors
from tests.disks import MIB, failing

pytestmark = pytest.mark.root
ROWS = 200


@pytest.fixture
def failing_disk(tmp_path):
    with failing(tmp_path) as made:
        yield made


def put(store, acknowledged, numbers):
    """Rows, as long as they are taken; the error that ended it."""
    for n in numbers:
        try:
            store.update(lambda txn, n=n: txn.put(b"%06d" % (n % 97), b"%d" % n * 200)).result()
        except errors.Error as exc:
            return exc
        acknowledged[b"%06d" % (n % 97)] = b"%d" % n * 200
    return None


def rows(store):
    with store.view() as view:
        return dict(view.items(b""))


@pytest.fixture(params=["a part", "all"])
def fail(failing_disk, request):
    return failing_disk.fail if request.param == "a part" else failing_disk.end


def test_a_store_whose_disk_fails_writes_no_more_and_can_still_be_read(failing_disk, fail):
    store = Store(str(failing_disk.path / "metadata"))
    acknowledged = {}
    assert put(store, acknowledged, range(ROWS)) is None
    fail()
    first = put(store, acknowledged, range(ROWS, 20 * ROWS))
    assert isinstance(first, errors.DataLoss)
    assert str(failing_disk.path / "metadata") in first.message
    assert first.message == store.failed
    assert [family.samples for family in store.families()] == [[("", "", 1)]]
    assert rows(store) == acknowledged
    if fail == failing_disk.fail:
        failing_disk.mend()
    with pytest.raises(errors.DataLoss, match="nothing is written"):
        store.update(lambda txn: txn.put(b"after", b"")).result()
    with pytest.raises(errors.DataLoss, match="nothing is written"):
        store.settle()
    store.close()
    failing_disk.again()
    store = Store(str(failing_disk.path / "metadata"))
    assert store.failed == ""
    found = rows(store)
    assert found == acknowledged
    assert put(store, acknowledged, range(ROWS)) is None
    store.close()


def test_a_store_is_opened_from_the_disk_and_not_from_what_was_cached_of_it(failing_disk):
    store = Store(str(failing_disk.path / "metadata"))
    acknowledged = {}
    put(store, acknowledged, range(ROWS))
    failing_disk.fail()
    assert put(store, acknowledged, range(ROWS, 20 * ROWS)) is not None
    failing_disk.mend()
    store.close()
    store = Store(str(failing_disk.path / "metadata"))
    assert rows(store) == acknowledged
    assert put(store, acknowledged, range(20 * ROWS)) is None
    store.close()
    failing_disk.again()
    store = Store(str(failing_disk.path / "metadata"))
    assert rows(store) == acknowledged
    store.close()


def test_a_blob_that_could_not_be_synced_begins_anew(failing_disk):
    store = LocalContent(str(failing_disk.path / "content"))
    data = b"some bytes" * (MIB // 10)
    failing_disk.fail()
    with store.writer("ref") as writer:
        writer.write(data)
        with pytest.raises(errors.Error):
            writer.commit()
        assert writer.status().offset == 0
    failing_disk.mend()
    with store.writer("ref") as writer:
        assert writer.status().offset == 0
        writer.write(data)
        digest = writer.commit()
    failing_disk.again()
    with LocalContent(str(failing_disk.path / "content")).reader(digest) as reader:
        assert reader.read() == data


def test_a_disk_that_fails_blobs_is_told_of(failing_disk):
    told = []
    store = LocalContent(str(failing_disk.path / "content"), failed=told.append)
    with store.writer("ref") as writer:
        writer.write(b"some bytes")
        failing_disk.end()
        with pytest.raises(errors.DataLoss):
            writer.commit()
    assert [exc.errno for exc in told] == [errno.EIO]
