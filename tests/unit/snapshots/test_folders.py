import os
import stat
import threading

import pytest

from daemon.snapshots import folders
from daemon.snapshots.folders import Folders, Remover
from spec import errors


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


@pytest.fixture
def kept(root):
    """Closed: nothing happens by itself to what is in the trash."""
    folders = Folders(str(root))
    folders.close()
    return folders


def settled(kept, id):
    with kept.making() as new:
        with open(os.path.join(new, "file"), "w") as file:
            file.write("content")
        kept.settle(new, id)


def snapshots(root):
    return sorted(os.listdir(root / "snapshots"))


def trash(root):
    return os.listdir(root / "trash")


def test_nobody_else_may_enter(kept, root):
    for path in (root, root / "snapshots", root / "trash"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_paths_are_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Folders("below").path(7, "fs") == str(tmp_path / "below/snapshots/7/fs")


def test_a_directory_gets_its_id(kept, root):
    settled(kept, 3)
    assert snapshots(root) == ["3"]
    assert (root / "snapshots/3/file").read_text() == "content"


def test_a_failure_while_making_leaves_nothing(kept, root):
    def fail():
        with kept.making() as new:
            os.mkdir(os.path.join(new, "fs"))
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    assert snapshots(root) == []
    assert trash(root) == []


def test_what_a_crash_left_under_an_id_makes_way(kept, root):
    (root / "snapshots/3").mkdir()
    (root / "snapshots/3/old").mkdir()
    settled(kept, 3)
    assert os.listdir(root / "snapshots/3") == ["file"]
    assert len(trash(root)) == 1


def test_discarding(kept, root):
    settled(kept, 1)
    settled(kept, 2)
    kept.discard("1", at_once=True)
    assert (snapshots(root), trash(root)) == (["2"], [])
    kept.discard("2", at_once=False)
    assert (snapshots(root), len(trash(root))) == ([], 1)
    kept.discard("3", at_once=True)
    kept.empty()
    assert trash(root) == []


def test_sweeping_discards_what_nobody_knows(kept, root):
    for id in (1, 2):
        settled(kept, id)
    (root / "snapshots/new-of-a-crash").mkdir()
    (root / "snapshots/stray").write_bytes(b"")
    kept.sweep(lambda: {2})
    assert snapshots(root) == ["2"]
    assert len(trash(root)) == 3


def test_sweeping_leaves_what_is_being_made(kept, root):
    with kept.making() as new:
        kept.sweep(set)
        kept.settle(new, 1)
    assert snapshots(root) == ["1"]


def test_sweeping_leaves_what_was_made_meanwhile(kept, root):
    """The record comes before the name: a directory that was listed has its record when the tree is asked."""
    known = set()
    with kept.making() as new:

        def ask():
            known.add(1)
            kept.settle(new, 1)
            return set(known)

        kept.sweep(ask)
    assert snapshots(root) == ["1"]


def test_usage_counts_blocks_and_inodes(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "below/file").write_bytes(b"x" * 10000)
    os.link(tmp_path / "below/file", tmp_path / "link")
    taken = folders.usage(str(tmp_path))
    assert taken.inodes == 3
    assert taken.size == sum(
        path.stat().st_blocks * 512 for path in (tmp_path, tmp_path / "below", tmp_path / "below/file")
    )


def test_usage_of_what_is_not_there(tmp_path):
    with pytest.raises(errors.NotFound, match="measuring"):
        folders.usage(str(tmp_path / "missing"))


class TestRemover:
    def test_it_works_once_for_what_came_before_and_once_for_what_came_meanwhile(self):
        calls = []
        entered, go = threading.Event(), threading.Event()

        def work():
            calls.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
            entered.set()
            assert go.wait(60)

        remover = Remover(work)
        remover.wake()
        assert entered.wait(60)
        thread = self.thread()
        for _ in range(5):
            remover.wake()
        go.set()
        thread.join()
        assert calls == [19, 19]
        assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == 0

    def test_it_comes_back_whatever_happened(self):
        done = threading.Event()

        def work():
            done.set()
            raise OSError(5, "Input/output error")

        remover = Remover(work)
        for _ in range(2):
            done.clear()
            remover.wake()
            assert done.wait(60)
            if thread := self.thread():
                thread.join()

    def test_a_closed_one_does_nothing(self):
        remover = Remover(lambda: None)
        remover.close()
        remover.wake()
        assert self.thread() is None

    def thread(self):
        return next((thread for thread in threading.enumerate() if thread.name == "snapshots-trash"), None)


def test_trash_goes_by_itself(root):
    folders = Folders(str(root))
    settled(folders, 1)
    folders.discard("1", at_once=False)
    if thread := TestRemover().thread():
        thread.join()
    assert trash(root) == []
