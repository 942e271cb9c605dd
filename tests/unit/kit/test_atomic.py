import os
import stat

import pytest

from daemon.kit import atomic


@pytest.fixture
def synced(monkeypatch):
    """What was synced, in order: F a file, D a directory."""
    kinds = []
    real = os.fsync

    def fsync(fd):
        kinds.append("D" if stat.S_ISDIR(os.fstat(fd).st_mode) else "F")
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    return kinds


def test_a_file_is_whole_durable_and_of_its_mode(tmp_path, synced):
    path = tmp_path / "file"
    atomic.write(str(path), b"content", mode=0o640)
    assert path.read_bytes() == b"content"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["file"]
    assert synced == ["F", "D"]


def test_without_durability_nothing_is_synced(tmp_path, synced):
    atomic.write(str(tmp_path / "file"), b"content", durable=False)
    assert synced == []


def test_an_old_file_is_replaced_and_its_readers_keep_it(tmp_path):
    path = tmp_path / "file"
    atomic.write(str(path), b"old")
    with path.open("rb") as reader:
        atomic.write(str(path), b"new")
        assert reader.read() == b"old"
    assert path.read_bytes() == b"new"


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file"
    atomic.write(str(path), b"old")

    def fail(*paths):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(OSError, match="No space"):
        atomic.write(str(path), b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_relative_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    atomic.write("file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"


def test_a_directory_is_published(tmp_path, synced):
    (tmp_path / "new").mkdir()
    (tmp_path / "new/inside").write_bytes(b"content")
    atomic.publish(str(tmp_path / "new"), str(tmp_path / "name"))
    assert (tmp_path / "name/inside").read_bytes() == b"content"
    assert not (tmp_path / "new").exists()
    assert synced == ["D"]
