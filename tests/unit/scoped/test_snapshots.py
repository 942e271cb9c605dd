"""One snapshotter seen from two namespaces. What every snapshotter does is in the contract suite."""

import pytest

from daemon.kit.dictkv import DictKV
from daemon.scoped.snapshots import ScopedSnapshots
from daemon.snapshots.native import Native
from spec import errors
from spec.events import SnapshotCommit, SnapshotPrepare, SnapshotRemove
from spec.records import Kind, SnapshotInfo


class Recorder:
    """A ports.Publisher that remembers."""

    def __init__(self):
        self.events = []

    def publish(self, namespace, topic, event):
        self.events.append((namespace, topic, event))


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def namespace(tmp_path, recorder):
    """`namespace(name)`: the snapshotter as that namespace sees it."""
    raw = Native(str(tmp_path), DictKV())
    yield lambda name: ScopedSnapshots(raw, "native", recorder, name)
    raw.close()


@pytest.fixture
def one(namespace):
    return namespace("one")


@pytest.fixture
def two(namespace):
    return namespace("two")


def test_one_key_in_two_namespaces(one, two):
    first, second = one.prepare("key"), two.prepare("key", labels={"of": "two"})
    assert first != second
    assert one.mounts("key") == first
    assert [info.labels for info in two.list()] == [{"of": "two"}]
    one.commit("name", "key")
    one.remove("name")
    assert list(one.list()) == []
    assert two.stat("key").kind == Kind.ACTIVE


def test_parents_are_of_ones_own(one, two):
    one.prepare("key")
    one.commit("base", "key")
    with pytest.raises(errors.NotFound, match="parent snapshot base not found"):
        two.prepare("key", "base")
    one.prepare("child", "base")
    assert one.stat("child") == next(one.list(["name==child"]))
    assert (one.stat("child").name, one.stat("child").parent) == ("child", "base")
    assert [info.name for info in one.list(["parent==base,kind==active"])] == ["child"]


@pytest.mark.parametrize(
    "call",
    [
        lambda snapshots: snapshots.stat("key"),
        lambda snapshots: snapshots.mounts("key"),
        lambda snapshots: snapshots.usage("key"),
        lambda snapshots: snapshots.remove("key"),
        lambda snapshots: snapshots.commit("name", "key"),
        lambda snapshots: snapshots.update(SnapshotInfo(name="key", labels={"a": "b"})),
    ],
    ids=["stat", "mounts", "usage", "remove", "commit", "update"],
)
def test_what_another_has_is_not_there(one, two, recorder, call):
    one.prepare("key")
    recorder.events.clear()
    with pytest.raises(errors.NotFound, match="snapshot key not found") as caught:
        call(two)
    assert "two/" not in caught.value.message
    assert recorder.events == []
    assert one.stat("key").labels == {}


def test_events(one, recorder):
    one.prepare("key")
    one.view("looking")
    one.commit("name", "key")
    one.prepare("child", "name")
    with pytest.raises(errors.FailedPrecondition):
        one.remove("name")
    one.remove("child")
    assert recorder.events == [
        ("one", "/snapshot/prepare", SnapshotPrepare(key="key", snapshotter="native")),
        ("one", "/snapshot/commit", SnapshotCommit(key="key", name="name", snapshotter="native")),
        ("one", "/snapshot/prepare", SnapshotPrepare(key="child", parent="name", snapshotter="native")),
        ("one", "/snapshot/remove", SnapshotRemove(key="child", snapshotter="native")),
    ]


@pytest.mark.parametrize("key", ["one/key", "docker.one/key", "/var/one/key", "key/one/key", "one/one/one/"])
def test_errors_have_the_callers_words(one, key):
    with pytest.raises(errors.NotFound) as caught:
        one.stat(key)
    assert caught.value.message == f"looking at snapshot {key}: snapshot {key} not found"


@pytest.mark.parametrize("labels", [{"": "value"}, {"key": "v" * 5000}])
def test_labels_that_cannot_be(one, labels):
    for call in (one.prepare, one.view):
        with pytest.raises(errors.InvalidArgument):
            call("key", labels=labels)
    one.prepare("key")
    with pytest.raises(errors.InvalidArgument):
        one.commit("name", "key", labels)
    with pytest.raises(errors.InvalidArgument):
        one.update(SnapshotInfo(name="key", labels=labels))
    assert [(info.name, info.labels) for info in one.list()] == [("key", {})]


def test_no_key(one):
    for call in (one.stat, one.mounts, one.usage, one.remove, one.prepare, one.view):
        with pytest.raises(errors.InvalidArgument, match="the key is empty"):
            call("")


def test_closing_ones_view_closes_nothing(one, two):
    one.close()
    two.prepare("key")
    one.cleanup()
    assert [info.name for info in two.list()] == ["key"]
