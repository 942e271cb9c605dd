"""What every content store does (spec.ports.ContentStore). A further implementation is one row of IMPLEMENTATIONS."""

import hashlib
import os
import random
import threading
from contextlib import contextmanager

import pytest

from daemon.client import connect
from daemon.client.proxies import RemoteContent
from daemon.content.local import LocalContent
from daemon.events.exchange import Exchange
from daemon.kit.threads import Pool
from daemon.metadata.store import Store
from daemon.scoped.content import ScopedContent
from daemon.services.content import Content
from spec import digest as digests
from spec import errors
from spec.api import content as content_api
from spec.records import ContentInfo
from tests.echo import SECONDS, Server

MISSING = digests.of(b"nobody wrote this")
MALFORMED = ["", "sha256", "sha256:", "sha256:abc", "md5:" + "0" * 32, "sha256:" + "A" * 64, "sha256:../" + "0" * 61]


@contextmanager
def local(directory):
    yield LocalContent(str(directory / "content"))


@contextmanager
def scoped(directory):
    store = Store(str(directory / "metadata"), sync=False)
    try:
        yield ScopedContent(LocalContent(str(directory / "content")), store, Exchange(), "default")
    finally:
        store.close()


@contextmanager
def remote(directory):
    pool = Pool("content", 4)
    with scoped(directory) as store:
        service = (content_api.Content, Content(lambda namespace: store, store, pool))
        with Server(extra=[service]) as server, connect(server.path, "default", timeout_s=SECONDS) as client:
            yield RemoteContent(client)
        pool.close()


# Each makes a context manager of an empty store, given a directory.
IMPLEMENTATIONS = {"local": local, "scoped": scoped, "remote": remote}
UNLABELLED = {"local"}


@pytest.fixture(params=IMPLEMENTATIONS)
def store(request, tmp_path):
    with IMPLEMENTATIONS[request.param](tmp_path) as store:
        yield store


@pytest.fixture
def labelled(request, store):
    if request.node.callspec.params["store"] in UNLABELLED:
        pytest.skip("this store keeps no labels")
    return store


def noise(size, seed=0):
    return random.Random(seed).randbytes(size)


def put(store, data, ref="ref", **commit):
    with store.writer(ref) as writer:
        writer.write(data)
        return writer.commit(**commit)


def read(store, digest):
    with store.reader(digest) as reader:
        return reader.read()


# Writing


def test_five_writers_at_once(store):
    """Interleaved, of 0 to 4 MiB, with size and digest given, only one of them, or none."""
    blobs = [noise(size, seed) for seed, size in enumerate((0, 1, 4096, 1 << 20, (4 << 20) + 7))]
    commits = [
        lambda data: {"size": len(data), "expected": digests.of(data)},
        lambda data: {"size": len(data)},
        lambda data: {"expected": digests.of(data)},
        lambda data: {},
        lambda data: {"size": len(data), "expected": digests.of(data)},
    ]
    writers = [store.writer(f"ref {number}") for number in range(5)]
    for start in range(0, 5 << 20, 1 << 18):
        for writer, data in zip(writers, blobs, strict=True):
            if start < len(data):
                assert writer.write(data[start : start + (1 << 18)]) == min(len(data) - start, 1 << 18)
    for writer, data, commit in zip(writers, blobs, commits, strict=True):
        assert writer.commit(**commit(data)) == digests.of(data)
        writer.close()
    for data in blobs:
        assert read(store, digests.of(data)) == data
        assert store.info(digests.of(data)).size == len(data)
    assert list(store.statuses()) == []


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_what_can_be_written(store, kind):
    assert put(store, kind(b"some bytes")) == digests.of(b"some bytes")


def test_nothing_is_visible_before_the_commit(store):
    data = b"some bytes"
    with store.writer("ref") as writer:
        writer.write(data)
        with pytest.raises(errors.NotFound):
            store.info(digests.of(data))
        assert list(store.list()) == []
        writer.commit()
    assert [info.digest for info in store.list()] == [digests.of(data)]


def test_status_while_writing(store):
    data = noise(256)
    with store.writer("ref", total=256) as writer:
        started = writer.status().started_at_ns
        for start, end in ((0, 64), (64, 192), (192, 256)):
            before = writer.status()
            writer.write(data[start:end])
            for status in (writer.status(), store.status("ref")):
                assert (status.ref, status.offset, status.total) == ("ref", end, 256)
                assert status.started_at_ns == started > 0
                assert before.updated_at_ns <= status.updated_at_ns
                assert status.started_at_ns <= status.updated_at_ns
            assert writer.digest() == digests.of(data[:end])
        writer.commit(256)
    with pytest.raises(errors.NotFound):
        store.status("ref")


@pytest.mark.parametrize("expected", [True, False], ids=["expected", "not expected"])
def test_a_commit_of_what_exists(store, expected):
    data = b"some bytes"
    digest = put(store, data, "first")
    writer = store.writer("second")
    writer.write(data)
    with pytest.raises(errors.AlreadyExists):
        writer.commit(len(data), digest if expected else "")
    writer.close()
    assert list(store.statuses()) == []
    assert read(store, digest) == data


def test_opening_for_what_exists(store):
    digest = put(store, b"some bytes")
    with pytest.raises(errors.AlreadyExists):
        store.writer("other", expected=digest)
    assert list(store.statuses()) == []


def test_a_commit_that_fails_can_be_tried_again(store):
    data = noise(1000)
    with store.writer("ref") as writer:
        writer.write(data)
        for wrong in ({"size": 999}, {"size": 1001}, {"expected": MISSING}, {"size": 1000, "expected": MISSING}):
            with pytest.raises(errors.FailedPrecondition):
                writer.commit(**wrong)
            assert store.status("ref").offset == 1000
    with store.writer("ref") as writer:
        assert writer.commit(1000, digests.of(data)) == digests.of(data)


def test_a_commit_of_another_algorithm(store):
    data = noise(1000)
    expected = digests.of(data, "sha512")
    assert put(store, data, expected=expected) == expected
    assert read(store, expected) == data


def test_an_empty_ref(store):
    with pytest.raises(errors.InvalidArgument):
        store.writer("")


@pytest.mark.parametrize("ref", ["../../etc/passwd", "a/b", ".", "with space", "ü" * 200, "x" * 4000])
def test_refs_are_only_names(store, ref):
    with store.writer(ref) as writer:
        writer.write(b"some")
    assert store.status(ref).ref == ref
    assert [status.ref for status in store.statuses()] == [ref]
    store.abort(ref)
    assert list(store.statuses()) == []


# Resuming


def test_resuming(store):
    data = noise(256)
    with store.writer("ref", total=256) as writer:
        writer.write(data[:128])
        before = writer.status()
        with pytest.raises(errors.Unavailable):
            store.writer("ref")
    with store.writer("ref", total=256) as writer:
        after = writer.status()
        assert after == before
        assert writer.digest() == digests.of(data[:128])
        writer.write(data[128:])
        assert writer.commit(256, digests.of(data)) == digests.of(data)
    assert read(store, digests.of(data)) == data


@pytest.mark.parametrize("size", [500, 5000, 50_000])
@pytest.mark.parametrize("done", [0, 0.1, 0.5, 0.9, 1])
@pytest.mark.parametrize("way", ["go on", "truncate", "discard"])
def test_resuming_anywhere(store, size, done, way):
    data = noise(size)
    with store.writer("ref") as writer:
        writer.write(data[: int(size * done)])
    if way == "discard":
        store.abort("ref")
    with store.writer("ref") as writer:
        if way == "truncate":
            writer.truncate()
            assert writer.digest() == digests.of(b"")
        offset = writer.status().offset
        assert offset == (int(size * done) if way == "go on" else 0)
        writer.write(data[offset:])
        assert writer.commit(size, digests.of(data)) == digests.of(data)
    assert read(store, digests.of(data)) == data


def test_another_total_starts_again(store):
    with store.writer("ref", total=100) as writer:
        writer.write(b"x" * 50)
    with store.writer("ref", total=200) as writer:
        assert (writer.status().offset, writer.status().total) == (0, 200)


def test_truncating_makes_other_content_possible(store):
    with store.writer("ref") as writer:
        writer.write(b"wrong")
        with pytest.raises(errors.FailedPrecondition):
            writer.commit(expected=digests.of(b"right"))
        writer.truncate()
        writer.write(b"right")
        assert writer.commit(expected=digests.of(b"right")) == digests.of(b"right")
    with pytest.raises(errors.NotFound):
        store.info(digests.of(b"wrong"))


# Ingests


def pread(tail, size, offset):
    buffer = memoryview(bytearray(size))
    return bytes(buffer[: tail.preadinto(buffer, offset)])


def test_a_tail_sees_what_is_written_now_and_later_and_after_the_commit(store):
    with store.writer("ref") as writer:
        writer.write(b"some ")
        try:
            tail = writer.tail()
        except errors.Unimplemented:
            return
        assert pread(tail, 100, 0) == b"some "
        assert pread(tail, 100, 5) == b""
        writer.write(b"bytes")
        assert pread(tail, 3, 4) == b" by"
        digest = writer.commit()
    store.delete(digest)
    assert pread(tail, 100, 0) == b"some bytes"
    tail.close()
    tail.close()
    with pytest.raises(errors.FailedPrecondition):
        pread(tail, 1, 0)


def test_listing_ingests(store):
    for ref in ("layer-1", "layer-2", "config"):
        with store.writer(ref) as writer:
            writer.write(ref.encode())
    assert {status.ref: status.offset for status in store.statuses()} == {"layer-1": 7, "layer-2": 7, "config": 6}
    assert {status.ref for status in store.statuses(["ref~=^layer"])} == {"layer-1", "layer-2"}
    assert {status.ref for status in store.statuses(["ref==config", "ref==layer-1"])} == {"config", "layer-1"}
    with pytest.raises(errors.InvalidArgument):
        store.statuses(["ref==="])


def test_aborting(store):
    with store.writer("ref") as writer:
        writer.write(b"some")
    store.abort("ref")
    for question in (store.status, store.abort):
        with pytest.raises(errors.NotFound, match="ref"):
            question("ref")
    with store.writer("ref") as writer:
        assert writer.status().offset == 0


def test_one_writer_a_ref(store):
    with store.writer("ref"):
        with pytest.raises(errors.Unavailable):
            store.writer("ref")
        store.writer("other").close()
    store.writer("ref").close()


# Reading


@pytest.mark.parametrize("size", [0, 1, 10, 70_000])
def test_reading(store, size):
    data = noise(size)
    digest = put(store, data)
    with store.reader(digest) as reader:
        assert reader.size == size
        assert reader.pread(size + 1, 0) == data
        assert reader.pread(3, 5) == data[5:8]
        assert reader.pread(1, size) == b""
        assert reader.read(3) == data[:3]
        assert reader.read(size + 1) == data[3:]
        assert reader.read(1) == b""
        assert reader.read() == b""
    with store.reader(digest) as reader:
        assert reader.read() == data


def test_a_readers_descriptor(store):
    data = noise(1000)
    with store.reader(put(store, data)) as reader:
        try:
            fd = reader.fileno()
        except errors.Unimplemented:
            pytest.skip("this store has no descriptors")
        assert os.pread(fd, 2000, 0) == data


def test_many_readers(store):
    data = noise(1 << 20)
    digest = put(store, data)
    found = []

    def work():
        with store.reader(digest) as reader:
            running = hashlib.sha256()
            while chunk := reader.read(10_007):
                running.update(chunk)
            found.append(running.hexdigest())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [hashlib.sha256(data).hexdigest()] * 4


def test_deleting(store):
    digest = put(store, b"some bytes")
    store.delete(digest)
    for question in (store.info, store.reader, store.delete):
        with pytest.raises(errors.NotFound, match=digest):
            question(digest)
    assert list(store.list()) == []


def test_what_was_deleted_can_be_written_again(store):
    digest = put(store, b"some bytes")
    store.delete(digest)
    assert put(store, b"some bytes") == digest
    assert read(store, digest) == b"some bytes"


@pytest.mark.parametrize("method", ["info", "reader", "delete"])
@pytest.mark.parametrize("digest", MALFORMED)
def test_malformed_digests(store, method, digest):
    with pytest.raises(errors.InvalidArgument):
        getattr(store, method)(digest)


@pytest.mark.parametrize("digest", MALFORMED[1:])
def test_malformed_expectations(store, digest):
    with pytest.raises(errors.InvalidArgument):
        store.writer("ref", expected=digest)
    with store.writer("ref") as writer, pytest.raises(errors.InvalidArgument):
        writer.commit(expected=digest)


# Listing


def test_listing(store):
    written = {put(store, noise(100, seed), f"ref {seed}") for seed in range(250)}
    assert {info.digest for info in store.list()} == written
    one = sorted(written)[7]
    assert [info.digest for info in store.list([f"digest=={one}"])] == [one]
    assert {info.digest for info in store.list([f"digest!={one}"])} == written - {one}
    assert [info.digest for info in store.list(["labels.a"])] == []


def test_listing_while_it_changes(store):
    written = {put(store, noise(100, seed), f"ref {seed}") for seed in range(5)}
    for info in store.list():
        assert store.info(info.digest) == info
        store.delete(info.digest)
        written.discard(info.digest)
    assert written == set()


def test_listing_with_a_filter_that_cannot_be_read(store):
    with pytest.raises(errors.InvalidArgument):
        list(store.list(["digest==="]))


def test_info(store):
    digest = put(store, b"some bytes")
    info = store.info(digest)
    assert (info.digest, info.size) == (digest, 10)
    assert 0 < info.created_at_ns <= info.updated_at_ns
    with pytest.raises(errors.NotFound):
        store.info(MISSING)


# Labels


def test_labels_given_at_commit(labelled):
    digest = put(labelled, b"some bytes", labels={"a": "1", "b": "2"})
    assert labelled.info(digest).labels == {"a": "1", "b": "2"}
    assert [info.digest for info in labelled.list(["labels.a==1"])] == [digest]
    assert list(labelled.list(["labels.a==2"])) == []


def test_updating_labels(labelled):
    digest = put(labelled, b"some bytes", labels={"a": "1", "b": "2"})
    created = labelled.info(digest).created_at_ns

    def update(labels, *fields):
        updated = labelled.update(ContentInfo(digest=digest, size=99, labels=labels), fields)
        assert updated == labelled.info(digest)
        assert (updated.size, updated.created_at_ns) == (10, created)
        return updated.labels

    assert update({"a": "10", "c": "3"}, "labels.a") == {"a": "10", "b": "2"}
    assert update({"c": "3"}, "labels.b", "labels.c") == {"a": "10", "c": "3"}
    assert update({"d": "4"}, "labels") == {"d": "4"}
    assert update({"e": "5"}) == {"e": "5"}
    assert update({}, "labels.e") == {}


def test_updating_anything_else(labelled):
    digest = put(labelled, b"some bytes")
    for field in ("size", "digest", "nonsense"):
        with pytest.raises(errors.InvalidArgument):
            labelled.update(ContentInfo(digest=digest), [field])
    with pytest.raises(errors.NotFound):
        labelled.update(ContentInfo(digest=MISSING, labels={"a": "1"}))
    with pytest.raises(errors.InvalidArgument):
        labelled.update(ContentInfo(digest="nonsense"))
