"""What is LocalContent's own: layout, order, crashes. What every store does is in the contract suite."""

import hashlib
import os
import stat
import threading

import pytest

from daemon.content import ingest
from daemon.content.local import LocalContent
from spec import digest as digests
from spec import errors

DATA = b"some bytes"
DIGEST = digests.of(DATA)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "content"


@pytest.fixture
def store(root):
    return LocalContent(str(root))


def blob(root, digest=DIGEST):
    return root / "blobs" / digest.replace(":", "/")


def folder(root, ref):
    return root / "ingest" / hashlib.sha256(ref.encode()).hexdigest()


def put(store, data=DATA, ref="ref"):
    with store.writer(ref) as writer:
        writer.write(data)
        return writer.commit()


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_layout_and_modes(store, root):
    with store.writer("ref") as writer:
        writer.write(DATA)
        assert (folder(root, "ref") / "data").read_bytes() == DATA
        assert sorted(os.listdir(folder(root, "ref"))) == ["about", "data"]
        assert writer.commit() == DIGEST
    assert blob(root).read_bytes() == DATA
    assert mode(blob(root)) == 0o444
    assert os.listdir(root / "ingest") == []
    for path in (root, root / "blobs", root / "ingest", root / "blobs/sha256"):
        assert mode(path) == 0o700


def test_the_order_of_a_commit(store, root, monkeypatch):
    calls = []

    def record(name):
        real = getattr(os, name)

        def call(target, *rest):
            path = os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else target
            calls.append((name, os.path.relpath(path, root)))
            return real(target, *rest)

        monkeypatch.setattr(os, name, call)

    with store.writer("ref") as writer:
        writer.write(DATA)
        for name in ("fdatasync", "rename", "fsync", "mkdir", "fchmod"):
            record(name)
        writer.commit()
    data = os.path.relpath(folder(root, "ref") / "data", root)
    assert calls == [
        ("fdatasync", data),
        ("fchmod", data),
        ("mkdir", "blobs/sha256"),
        ("fsync", "blobs"),
        ("rename", data),
        ("fsync", "blobs/sha256"),
    ]


def test_without_sync_nothing_is_synced(root, monkeypatch):
    def fail(fd):
        raise AssertionError("synced")

    monkeypatch.setattr(os, "fsync", fail)
    monkeypatch.setattr(os, "fdatasync", fail)
    store = LocalContent(str(root), sync=False)
    put(store)
    assert store.info(DIGEST).size == len(DATA)


def test_a_store_keeps_no_labels(store):
    put(store)
    with pytest.raises(errors.Unimplemented):
        store.update(store.info(DIGEST), ["labels.a"])


def test_a_sha512_digest_that_is_first_expected_at_commit(store, root):
    expected = digests.of(DATA, "sha512")
    with store.writer("ref") as writer:
        writer.write(DATA)
        assert writer.digest() == DIGEST
        assert writer.commit(expected=expected) == expected
    assert blob(root, expected).read_bytes() == DATA


def test_a_wrong_sha512_digest_leaves_the_ingest_as_it_was(store):
    with store.writer("ref") as writer:
        writer.write(DATA)
        with pytest.raises(errors.FailedPrecondition):
            writer.commit(expected=digests.of(b"other", "sha512"))
        assert writer.commit() == DIGEST


def test_the_digest_expected_when_it_was_opened_is_checked(store):
    with store.writer("ref", expected=digests.of(b"other")) as writer:
        writer.write(DATA)
        with pytest.raises(errors.FailedPrecondition):
            writer.commit()
    with store.writer("ref", expected=DIGEST) as writer:  # whoever opens it last knows what he wants
        assert writer.status().expected == DIGEST
        assert writer.commit() == DIGEST


def test_a_total_that_was_not_known_at_first(store):
    with store.writer("ref") as writer:
        writer.write(b"some ")
    with store.writer("ref", total=len(DATA)) as writer:
        assert (writer.status().offset, writer.status().total) == (5, len(DATA))
    with store.writer("ref") as writer:
        assert (writer.status().offset, writer.status().total) == (5, len(DATA))
    with store.writer("ref", total=99) as writer:
        assert (writer.status().offset, writer.status().total) == (0, 99)


def test_a_restart_in_the_middle(store, root):
    with store.writer("ref", total=len(DATA), expected=DIGEST) as writer:
        writer.write(b"some ")
    again = LocalContent(str(root))
    assert again.status("ref").offset == 5
    with again.writer("ref", total=len(DATA), expected=DIGEST) as writer:
        assert writer.digest() == digests.of(b"some ")
        writer.write(b"bytes")
        assert writer.commit(len(DATA)) == DIGEST


@pytest.mark.parametrize("damage", ["no about", "no data", "empty about", "half an about", "half a write"])
def test_what_a_crash_leaves_of_an_ingest(store, root, damage):
    with store.writer("ref") as writer:
        writer.write(b"x" * 100)
    about, data = folder(root, "ref") / "about", folder(root, "ref") / "data"
    if damage == "no about":
        about.unlink()
    elif damage == "no data":
        data.unlink()
    elif damage == "empty about":
        about.write_bytes(b"")
    elif damage == "half an about":
        about.write_bytes(about.read_bytes()[:-5])
    else:
        (folder(root, "ref") / ".new-abc").write_bytes(b"rubbish")
    again = LocalContent(str(root))
    known = damage in ("no data", "half a write")
    assert [status.ref for status in again.statuses()] == (["ref"] if known else [])
    assert folder(root, "ref").exists() == known
    with again.writer("ref") as writer:
        writer.truncate()
        writer.write(DATA)
        assert writer.commit() == DIGEST
    assert os.listdir(root / "ingest") == []


def test_an_ingest_of_a_damaged_about_can_be_aborted(store, root):
    store.writer("ref").close()
    (folder(root, "ref") / "about").write_bytes(b"")
    store.abort("ref")
    assert os.listdir(root / "ingest") == []


def test_an_ingest_that_is_written_is_not_aborted(store):
    with store.writer("ref"), pytest.raises(errors.Unavailable):
        store.abort("ref")
    store.abort("ref")
    with pytest.raises(errors.NotFound):
        store.abort("ref")


def test_opening_fails_and_frees_the_ref(store, root):
    (root / "ingest").rename(root / "away")
    (root / "ingest").write_bytes(b"")
    with pytest.raises(errors.Error):
        store.writer("ref")
    (root / "ingest").unlink()
    (root / "away").rename(root / "ingest")
    store.writer("ref").close()


def test_a_closed_writer(store):
    writer = store.writer("ref")
    writer.write(DATA)
    writer.close()
    writer.close()
    for action in (lambda: writer.write(b"more"), lambda: writer.write(b""), writer.truncate, writer.commit):
        with pytest.raises(errors.FailedPrecondition):
            action()
    assert writer.status().offset == len(DATA)
    with store.writer("ref") as again:
        assert again.commit() == DIGEST


def test_a_writer_that_has_committed_cannot_touch_its_successor(store):
    first = store.writer("ref")
    first.write(DATA)
    first.commit()
    with store.writer("ref") as second:
        second.write(b"other")
        with pytest.raises(errors.FailedPrecondition):
            first.commit()
        first.close()
        assert second.commit() == digests.of(b"other")


def test_a_full_disk_keeps_count(store, monkeypatch):
    real = os.pwrite

    def pwrite(fd, data, offset):
        if offset >= 8:
            raise OSError(28, "No space left on device")
        return real(fd, data[:4], offset)

    with store.writer("ref") as writer:
        monkeypatch.setattr(os, "pwrite", pwrite)
        with pytest.raises(errors.ResourceExhausted, match="ref"):
            writer.write(DATA)
        assert (writer.status().offset, writer.digest()) == (8, digests.of(DATA[:8]))
        monkeypatch.undo()
        writer.write(DATA[8:])
        assert writer.commit() == DIGEST


def test_a_sync_that_fails_fails_the_commit(store, monkeypatch):
    def fail(fd):
        raise OSError(5, "Input/output error")

    with store.writer("ref") as writer:
        writer.write(DATA)
        monkeypatch.setattr(os, "fdatasync", fail)
        with pytest.raises(errors.DataLoss):
            writer.commit()
        with pytest.raises(errors.NotFound):
            store.info(DIGEST)


def test_a_blob_of_the_wrong_size_makes_way_for_a_verified_one(store, root):
    put(store)
    blob(root).chmod(0o600)
    blob(root).write_bytes(DATA[:3])
    assert put(store) == DIGEST
    assert blob(root).read_bytes() == DATA


def test_foreign_files_are_passed_over(store, root):
    put(store)
    (root / "blobs/README").write_bytes(b"")
    (root / "blobs/md5").mkdir()
    (root / "blobs/md5/abc").write_bytes(b"")
    (root / "blobs/sha256/short").write_bytes(b"")
    (root / "ingest/stray").write_bytes(b"")
    assert [info.digest for info in store.list()] == [DIGEST]
    assert store.statuses() == []
    LocalContent(str(root))
    assert (root / "ingest/stray").exists()


def test_a_blobs_time_is_that_of_its_commit(store, root):
    with store.writer("ref") as writer:
        writer.write(DATA)
        os.utime(folder(root, "ref") / "data", ns=(1, 1))
        writer.commit()
    info = store.info(DIGEST)
    assert info.created_at_ns == info.updated_at_ns > 10**18


def test_a_reader_keeps_its_bytes_when_the_blob_goes(store):
    put(store)
    with store.reader(DIGEST) as reader:
        store.delete(DIGEST)
        assert reader.read() == DATA
        assert os.pread(reader.fileno(), 4, 0) == DATA[:4]


def test_a_closed_reader(store):
    put(store)
    reader = store.reader(DIGEST)
    reader.close()
    reader.close()
    for action in (reader.read, reader.fileno, lambda: reader.pread(1, 0)):
        with pytest.raises(errors.FailedPrecondition):
            action()


@pytest.mark.parametrize("sync", [True, False])
def test_what_a_tail_has_read_leaves_memory_once_it_is_on_disk(root, sync):
    store = LocalContent(str(root), sync)
    data = os.urandom(2 * ingest.BEHIND)
    with store.writer("ref") as writer:
        writer.write(data)
        tail = writer.tail()
        digest = writer.commit()
    with blob(root, digest).open("rb") as file:
        os.fdatasync(file)
        buffer = memoryview(bytearray(ingest.BEHIND))
        assert [tail.preadinto(buffer, offset) for offset in range(0, len(data), ingest.BEHIND)] == [ingest.BEHIND] * 2
        tail.close()
        assert in_memory(file, 0) != sync
        assert in_memory(file, len(data) - 1)
    with store.reader(digest) as reader:
        assert reader.read() == data


def in_memory(file, offset):
    """Whether it is read without waiting for the disk (preadv2(2))."""
    try:
        return os.preadv(file.fileno(), [bytearray(1)], offset, os.RWF_NOWAIT) == 1
    except BlockingIOError:
        return False


def test_a_blob_that_is_a_symbolic_link_is_not_followed(store, root, tmp_path):
    put(store)
    (tmp_path / "secret").write_bytes(b"secret")
    blob(root).unlink()
    blob(root).symlink_to(tmp_path / "secret")
    with pytest.raises(errors.Error):
        store.reader(DIGEST)


def test_many_writers_of_one_blob(store):
    outcomes = []
    start = threading.Barrier(8)

    def work(number):
        with store.writer(f"ref {number}") as writer:
            writer.write(DATA)
            start.wait(20)
            try:
                outcomes.append(writer.commit())
            except errors.AlreadyExists:
                outcomes.append("exists")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["exists"] * 7 + [DIGEST]
    assert store.statuses() == []


def test_many_openers_of_one_ref(store):
    start = threading.Barrier(8)
    writers = []
    refused = []

    def work():
        start.wait(20)
        try:
            writers.append(store.writer("ref"))
        except errors.Unavailable:
            refused.append(1)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for writer in writers:
        writer.close()
    assert (len(writers), len(refused)) == (1, 7)


def test_blobs_are_listed_in_order_of_their_digests(root):
    store = LocalContent(str(root), sync=False)
    written = set()
    for number in range(400):  # so that many begin alike
        with store.writer(f"r{number}") as writer:
            writer.write(b"%d" % number)
            written.add(writer.commit())
    assert [info.digest for info in store.list()] == sorted(written)
