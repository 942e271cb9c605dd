"""What is a namespace's own and what all share: records, ingests and events are one's own, bytes are shared.

What every content store does is in the contract suite.
"""

import pytest

from daemon.content.local import LocalContent
from daemon.metadata.store import Store
from daemon.metadata.tables import GLOBAL, NAMESPACES
from daemon.scoped.content import ScopedContent
from spec import digest as digests
from spec import errors
from spec.events import ContentCreate, ContentDelete
from spec.names import SHAREABLE
from spec.records import ContentInfo, Namespace

DATA = b"some bytes"
DIGEST = digests.of(DATA)


class Recorder:
    """A ports.Publisher that remembers."""

    def __init__(self):
        self.events = []

    def publish(self, namespace, topic, event):
        self.events.append((namespace, topic, event))


@pytest.fixture
def raw(tmp_path):
    return LocalContent(str(tmp_path / "content"))


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def namespace(tmp_path, raw, recorder):
    """`namespace(name)`: the store as that namespace sees it, by the shared policy; `shareable` says what it is
    labelled."""
    store = Store(str(tmp_path / "metadata"), sync=False)

    def make(name, isolated=False, shareable=""):
        if shareable:
            row = Namespace(name=name, labels={SHAREABLE: shareable})
            store.update(lambda txn: NAMESPACES.put(txn, row, GLOBAL, name)).result()
        return ScopedContent(raw, store, recorder, name, isolated=isolated)

    yield make
    store.close()


@pytest.fixture
def one(namespace):
    return namespace("one")


@pytest.fixture
def two(namespace):
    return namespace("two")


def put(content, data=DATA, labels=None):
    with content.writer("putting") as writer:
        writer.write(data)
        return writer.commit(labels=labels)


def test_what_another_has_is_not_there(one, two):
    put(one)
    for look in (two.info, two.reader, two.delete, lambda digest: two.update(ContentInfo(digest=digest))):
        with pytest.raises(errors.NotFound, match="namespace two"):
            look(DIGEST)
    assert list(two.list()) == []


def test_a_known_digest_needs_no_bytes(one, two, raw, recorder):
    """containerd's shared policy: a writer for what another namespace has is complete from the start."""
    put(one, labels={"of": "one"})
    recorder.events.clear()
    with two.writer("ref", len(DATA), DIGEST) as writer:
        status = writer.status()
        assert (status.ref, status.offset, status.total, status.expected) == ("ref", 10, 10, DIGEST)
        assert writer.digest() == DIGEST
        assert list(two.statuses()) == list(raw.statuses()) == []
        assert writer.commit(len(DATA), DIGEST, {"of": "two"}) == DIGEST
    assert two.info(DIGEST).labels == {"of": "two"}
    assert one.info(DIGEST).labels == {"of": "one"}
    with two.reader(DIGEST) as reader:
        assert reader.read() == DATA
    assert recorder.events == [("two", "/content/create", ContentCreate(digest=DIGEST, size=10))]


def test_a_complete_writer_takes_nothing_more(one, two):
    put(one)
    with two.writer("ref", expected=DIGEST) as writer:
        assert writer.write(b"") == 0
        with pytest.raises(errors.FailedPrecondition, match="complete"):
            writer.write(b"more")
        with pytest.raises(errors.FailedPrecondition):
            writer.commit(size=11)
        with pytest.raises(errors.FailedPrecondition):
            writer.commit(expected=digests.of(b"other"))
    with pytest.raises(errors.NotFound):
        two.info(DIGEST)
    with two.writer("ref", expected=DIGEST) as writer:
        writer.commit()
    with pytest.raises(errors.AlreadyExists, match="namespace two"):
        two.writer("ref", expected=DIGEST)


def test_another_size_than_the_shared_one_is_written_anew(one, two):
    put(one)
    with two.writer("ref", total=11, expected=DIGEST) as writer:
        assert writer.status().offset == 0
        writer.write(DATA + b"!")
        with pytest.raises(errors.FailedPrecondition):
            writer.commit()
    two.abort("ref")


def test_a_shared_blob_that_was_cut_is_healed(tmp_path, one, two):
    put(one)
    path = tmp_path / "content/blobs/sha256" / DIGEST.removeprefix("sha256:")
    path.unlink()
    path.write_bytes(DATA[:4])
    with two.writer("ref", len(DATA), DIGEST) as writer:
        writer.write(b"xxxx" + DATA[4:])
        with pytest.raises(errors.FailedPrecondition, match="digest"):
            writer.commit()
        writer.truncate()
        writer.write(DATA)
        assert writer.commit() == DIGEST
    for content in (one, two):
        with content.reader(DIGEST) as reader:
            assert reader.read() == DATA


def test_the_same_bytes_without_knowing(one, two, raw):
    """Whoever writes them learns nothing of the other."""
    put(one)
    assert put(two) == DIGEST
    assert two.info(DIGEST).size == len(DATA)
    assert [info.digest for info in raw.list()] == [DIGEST]
    with two.writer("again") as writer:
        writer.write(DATA)
        with pytest.raises(errors.AlreadyExists, match="namespace two"):
            writer.commit()


def test_ingests_of_one_ref_are_two(one, two):
    with one.writer("ref", 20) as first, two.writer("ref") as second:
        first.write(b"of one")
        second.write(b"two's")
        assert (first.status().ref, first.status().offset) == ("ref", 6)
        assert (second.status().ref, second.status().offset) == ("ref", 5)
    assert [(status.ref, status.total) for status in one.statuses()] == [("ref", 20)]
    assert [status.offset for status in two.statuses(["ref==ref"])] == [5]
    assert one.status("ref").offset == 6
    two.abort("ref")
    with pytest.raises(errors.NotFound):
        two.status("ref")
    with one.writer("ref", 20) as again:
        assert again.status().offset == 6
    one.abort("ref")


def test_a_namespace_that_begins_as_another(namespace):
    """`one/x` of namespace a and `x` of namespace `a/one` would be the same; no namespace has a slash in it."""
    one, longer = namespace("one"), namespace("one-more")
    with longer.writer("x") as writer:
        writer.write(b"y")
    assert list(one.statuses()) == []
    longer.abort("x")


def test_deleting_leaves_the_others_bytes(one, two, raw, recorder):
    put(one)
    put(two)
    recorder.events.clear()
    one.delete(DIGEST)
    with pytest.raises(errors.NotFound):
        one.delete(DIGEST)
    assert recorder.events == [("one", "/content/delete", ContentDelete(digest=DIGEST))]
    with two.reader(DIGEST) as reader:
        assert reader.read() == DATA
    assert raw.info(DIGEST).size == len(DATA)


def test_labels_are_ones_own(one, two):
    put(one, labels={"a": "1", "b": "2"})
    put(two, labels={"a": "9"})
    after = one.update(ContentInfo(digest=DIGEST, labels={"a": "3"}), ["labels.a"])
    assert after.labels == {"a": "3", "b": "2"}
    assert after.updated_at_ns > after.created_at_ns
    assert one.info(DIGEST) == after
    assert two.info(DIGEST).labels == {"a": "9"}
    assert [info.digest for info in one.list(["labels.b"])] == [DIGEST]
    assert list(two.list(["labels.b"])) == []


def test_labels_that_are_too_long_cost_no_bytes(one):
    """The commit can be tried again without them."""
    with one.writer("ref") as writer:
        writer.write(DATA)
        with pytest.raises(errors.InvalidArgument):
            writer.commit(labels={"key": "v" * 5000})
        assert writer.status().offset == len(DATA)
        assert writer.commit(labels={"key": "v"}) == DIGEST
    assert one.info(DIGEST).labels == {"key": "v"}


def test_a_commit_that_fails_says_nothing(one, recorder):
    with one.writer("ref") as writer:
        writer.write(DATA)
        with pytest.raises(errors.FailedPrecondition):
            writer.commit(size=1)
    one.abort("ref")
    assert recorder.events == []


def test_lists_longer_than_a_page(one):
    found = sorted(put(one, b"%d" % number) for number in range(250))
    assert [info.digest for info in one.list()] == found
    assert [info.digest for info in one.list([f"digest=={found[120]}"])] == [found[120]]


@pytest.mark.parametrize("left", [None, b"", DATA[:5]])
def test_bytes_that_were_lost_are_written_again(one, two, tmp_path, left):
    put(one, labels={"a": "b"})
    put(two)
    path = tmp_path / "content/blobs" / DIGEST.replace(":", "/")
    path.unlink()
    if left is not None:
        path.write_bytes(left)
    with one.writer("ref", len(DATA), DIGEST) as writer:
        assert writer.status().offset == 0
        writer.write(DATA)
        with pytest.raises(errors.AlreadyExists):
            writer.commit(len(DATA), DIGEST)
    assert one.info(DIGEST).labels == {"a": "b"}
    for content in (one, two):
        with content.reader(DIGEST) as reader:
            assert reader.read() == DATA
        with pytest.raises(errors.AlreadyExists):
            content.writer("ref", len(DATA), DIGEST)
    assert list(one.statuses()) == []


def test_isolated_a_known_digest_needs_its_bytes(namespace):
    put(namespace("one", isolated=True, shareable="no"))
    two = namespace("two", isolated=True)
    with two.writer("r", len(DATA), DIGEST) as writer:
        assert writer.status().offset == 0
        with pytest.raises(errors.FailedPrecondition):
            writer.commit(len(DATA), DIGEST)
    with two.writer("r", len(DATA), DIGEST) as writer:
        writer.write(b"x" * len(DATA))
        with pytest.raises(errors.FailedPrecondition):
            writer.commit(len(DATA), DIGEST)
        with pytest.raises(errors.NotFound):
            two.info(DIGEST)
        writer.truncate()
        writer.write(DATA)
        assert writer.commit(len(DATA), DIGEST) == DIGEST
    with two.reader(DIGEST) as reader:
        assert reader.read() == DATA
    assert not list(two.statuses())


def test_isolated_but_for_a_namespace_that_shares(namespace):
    put(namespace("one", isolated=True, shareable="true"))
    two = namespace("two", isolated=True)
    with two.writer("r", len(DATA), DIGEST) as writer:
        assert writer.status().offset == len(DATA)
        writer.commit()
    assert two.info(DIGEST).size == len(DATA)
