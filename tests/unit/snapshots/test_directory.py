"""Records and directories together, in every snapshotter that keeps directories: failures, crashes, cleaning up."""

import errno
import os
import threading

import pytest

from daemon.kit.dictkv import DictKV
from daemon.snapshots import folders
from daemon.snapshots.native import Native
from daemon.snapshots.overlay import Overlay
from spec import errors
from spec.types import Usage

KINDS = {"overlay": Overlay, "native": Native}


@pytest.fixture(params=KINDS)
def make(request, tmp_path):
    """Makes the snapshotter, again and again, over the same root and records."""
    kv = DictKV()
    return lambda: KINDS[request.param](str(tmp_path / "root"), kv, sync_remove=True)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


def ids(root):
    return sorted(os.listdir(root / "snapshots"))


def nothing_left(root):
    return os.listdir(root / "snapshots") == os.listdir(root / "trash") == []


def layer(snapshots, name, parent=""):
    snapshots.prepare(f"key of {name}", parent)
    snapshots.commit(name, f"key of {name}")


def fail(error):
    def failing(*args, **more):
        raise error

    return failing


def test_what_is_removed_is_gone(make, root):
    snapshots = make()
    layer(snapshots, "name")
    snapshots.prepare("key", "name")
    snapshots.view("view", "name")
    assert len(ids(root)) == 3
    for key in ("view", "key", "name"):
        snapshots.remove(key)
    assert nothing_left(root)


def test_a_refused_prepare_leaves_nothing(make, root):
    snapshots = make()
    snapshots.prepare("key")
    for key, parent, error in (
        ("key", "", errors.AlreadyExists),
        ("new", "missing", errors.NotFound),
        ("new", "key", errors.InvalidArgument),
        ("", "", errors.InvalidArgument),
    ):
        with pytest.raises(error):
            snapshots.prepare(key, parent)
    assert ids(root) == ["1"]
    assert os.listdir(root / "trash") == []


def test_a_full_disk_leaves_nothing(make, root, monkeypatch):
    snapshots = make()
    monkeypatch.setattr(os, "mkdir", fail(OSError(28, "No space left on device")))
    with pytest.raises(errors.ResourceExhausted, match="preparing snapshot key"):
        snapshots.prepare("key")
    monkeypatch.undo()
    with pytest.raises(errors.NotFound):
        snapshots.stat("key")
    assert nothing_left(root)


def test_a_name_that_cannot_be_given_takes_the_record_back(make, root, monkeypatch):
    snapshots = make()
    monkeypatch.setattr(snapshots._folders, "settle", fail(OSError(5, "Input/output error")))
    with pytest.raises(errors.DataLoss):
        snapshots.prepare("key")
    monkeypatch.undo()
    with pytest.raises(errors.NotFound):
        snapshots.stat("key")
    assert nothing_left(root)
    snapshots.prepare("key")


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("method", ["prepare", "view"])
def test_a_crash_between_record_and_name(make, root, monkeypatch, method):
    """The record is there and its directory is not: the next start makes it, as it would have been."""
    snapshots = make()
    layer(snapshots, "parent")
    monkeypatch.setattr(snapshots._folders, "settle", fail(Killed()))
    monkeypatch.setattr(snapshots._folders, "discard", lambda *args, **more: None)
    with pytest.raises(Killed):
        getattr(snapshots, method)("key", "parent")
    assert ids(root)[0] == "1"
    assert ids(root)[1].startswith("new-")

    again = make()
    assert ids(root)[:2] == ["1", "2"]
    assert again.mounts("key")
    assert os.path.isdir(again.mounts("key")[0].source) or again.mounts("key")[0].type == "overlay"
    again.cleanup()
    assert ids(root) == ["1", "2"]
    again.remove("key")
    again.remove("parent")
    assert nothing_left(root)


def test_a_crash_before_the_record(make, root, monkeypatch):
    snapshots = make()
    monkeypatch.setattr(snapshots._tree, "create", fail(Killed()))
    monkeypatch.setattr(snapshots._folders, "discard", lambda *args, **more: None)
    with pytest.raises(Killed):
        snapshots.prepare("key")
    again = make()
    with pytest.raises(errors.NotFound):
        again.stat("key")
    again.cleanup()
    assert nothing_left(root)
    again.prepare("key")


def test_a_crash_in_a_removal(make, root, monkeypatch):
    snapshots = make()
    snapshots.prepare("key")
    monkeypatch.setattr(snapshots._folders, "discard", fail(Killed()))
    with pytest.raises(Killed):
        snapshots.remove("key")
    again = make()
    with pytest.raises(errors.NotFound):
        again.stat("key")
    again.cleanup()
    assert nothing_left(root)


def test_cleaning_up_while_others_work(make, root):
    """Nothing that a client was told exists is ever swept away."""
    snapshots = make()
    layer(snapshots, "parent")
    stop = threading.Event()
    failures = []

    def clean():
        while not stop.is_set():
            snapshots.cleanup()

    def work(worker):
        try:
            for number in range(60):
                key = f"{worker}-{number}"
                snapshots.prepare(key, "parent")
                assert os.path.isdir(root / "snapshots" / str(snapshots._tree.get(key).id))
                if number % 2:
                    snapshots.remove(key)
        except BaseException as exc:
            failures.append(exc)
            raise

    cleaner = threading.Thread(target=clean)
    workers = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
    cleaner.start()
    for thread in workers:
        thread.start()
    for thread in workers:
        thread.join()
    stop.set()
    cleaner.join()
    assert failures == []
    assert {int(name) for name in ids(root)} == snapshots._tree.ids()
    assert len(ids(root)) == 1 + 4 * 30


def test_one_of_many_takes_a_key(make, root):
    snapshots = make()
    start = threading.Barrier(8)
    outcomes = []

    def work():
        start.wait(20)
        try:
            snapshots.prepare("key")
            outcomes.append("made")
        except errors.AlreadyExists:
            outcomes.append("exists")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["exists"] * 7 + ["made"]
    assert len(ids(root)) == 1


def test_usage_is_measured_or_taken(tmp_path):
    snapshots = Overlay(str(tmp_path / "root"), DictKV())
    for key in ("counted", "measured"):
        mount = snapshots.prepare(key)[0]
        with open(os.path.join(mount.source, "file"), "wb") as file:
            file.write(b"x" * 8192)
    assert snapshots.usage("counted").inodes == 2
    snapshots.commit("counted one", "counted", usage=Usage(size=5, inodes=1))
    snapshots.commit("measured one", "measured")
    assert snapshots.usage("counted one") == Usage(size=5, inodes=1)
    assert snapshots.usage("measured one").inodes == 2
    assert snapshots.usage("measured one").size >= 8192


def test_a_commit_walks_nothing_and_usage_walks_once(make, monkeypatch):
    snapshots = make()
    (mount,) = snapshots.prepare("key")
    with open(os.path.join(mount.source, "file"), "wb") as file:
        file.write(b"x" * 8192)
    monkeypatch.setattr(folders, "usage", fail(AssertionError("it walked")))
    snapshots.commit("name", "key")
    monkeypatch.undo()
    found = snapshots.usage("name")
    assert found.inodes == 2
    assert found.size >= 8192
    monkeypatch.setattr(folders, "usage", fail(AssertionError("it walked")))
    assert make().usage("name") == found


def test_what_cannot_be_made_durable_is_not_committed(make, monkeypatch):
    snapshots = make()
    snapshots.prepare("key")
    monkeypatch.setattr(folders.atomic, "sync_directory", fail(OSError(errno.EIO, "Input/output error")))
    with pytest.raises(errors.Error):
        snapshots.commit("name", "key")
    monkeypatch.undo()
    with pytest.raises(errors.NotFound):
        snapshots.stat("name")
    snapshots.commit("name", "key")


def test_native_measures_whatever_it_is_told(tmp_path):
    snapshots = Native(str(tmp_path / "root"), DictKV())
    snapshots.prepare("key")
    snapshots.commit("name", "key", usage=Usage(size=5, inodes=9))
    assert snapshots.usage("name").inodes == 1


def test_removal_can_be_left_to_cleaning_up(tmp_path):
    snapshots = Overlay(str(tmp_path / "root"), DictKV())
    snapshots.close()
    snapshots.prepare("key")
    snapshots.remove("key")
    assert os.listdir(tmp_path / "root/snapshots") == []
    assert len(os.listdir(tmp_path / "root/trash")) == 1
    snapshots.cleanup()
    assert os.listdir(tmp_path / "root/trash") == []


@pytest.mark.parametrize("where", ["snapshots/1", "snapshots/1/fs", "snapshots/stray", "trash/stray"])
@pytest.mark.parametrize("sync_remove", [True, False])
def test_nothing_is_removed_through_a_link(tmp_path, where, sync_remove):
    """hardening: buildkit GHSA-4vrq-3vrq-g6gg and its kin."""
    victim = tmp_path / "victim"
    (victim / "folder").mkdir(parents=True)
    (victim / "folder/file").write_text("content")
    snapshots = Overlay(str(tmp_path / "root"), DictKV(), sync_remove=sync_remove)
    snapshots.prepare("key")
    link = tmp_path / "root" / where
    if link.exists():
        link.rename(tmp_path / "moved")
    link.symlink_to(victim)
    snapshots.cleanup()
    snapshots.remove("key")
    snapshots.cleanup()
    assert nothing_left(tmp_path / "root")
    assert (victim / "folder/file").read_text() == "content"


def test_what_is_measured_is_no_links_target(tmp_path):
    snapshots = Overlay(str(tmp_path / "root"), DictKV())
    (mount,) = snapshots.prepare("key")
    os.rmdir(mount.source)
    os.symlink("/", mount.source)
    with pytest.raises(errors.Error, match="measuring"):
        snapshots.usage("key")
    snapshots.commit("name", "key")
    with pytest.raises(errors.Error, match="measuring"):
        snapshots.usage("name")


def test_an_overlays_path_must_fit_its_options(tmp_path):
    for name in ("with:colon", "with,comma", "with\\backslash"):
        with pytest.raises(errors.InvalidArgument, match="overlay"):
            Overlay(str(tmp_path / name), DictKV())
        assert not (tmp_path / name).exists()
