"""Subvolumes on a real btrfs."""

import os
import subprocess
from contextlib import contextmanager

import pytest

from pyx import btrfs, fs
from tests.disks import MIB, disk

pytestmark = pytest.mark.root


@pytest.fixture(scope="module", autouse=True)
def filesystem(tmp_path_factory):
    with disk(tmp_path_factory.mktemp("btrfs"), "btrfs", 512 * MIB) as path:
        yield path


@contextmanager
def opened(path):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


@pytest.fixture
def place(filesystem, request):
    """A directory of the filesystem's, and its descriptor."""
    path = filesystem / request.node.name.replace("/", "-")
    path.mkdir()
    with opened(path) as fd:
        yield path, fd


def snapshot(path, fd, source, name, readonly=False):
    with opened(path / source) as source_fd:
        btrfs.snapshot(source_fd, fd, name, readonly)
    return path / name


def listed(filesystem):
    done = subprocess.run(["btrfs", "subvolume", "list", filesystem], check=True, capture_output=True)
    return {os.fsdecode(line.split()[-1]): int(line.split()[1]) for line in done.stdout.splitlines()}


def subvolume(path):
    with opened(path) as fd:
        return btrfs.subvolume(fd)


def changed(path):
    """Since the subvolume was made."""
    with opened(path) as fd:
        fs.syncfs(fd)
        return btrfs.changed(fd, btrfs.subvolume(fd)[1])


def test_which_filesystem(place, tmp_path):
    assert btrfs.is_btrfs(place[1])
    with opened("/proc") as fd:
        assert not btrfs.is_btrfs(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        btrfs.is_btrfs(-1)


def test_a_snapshot_goes_its_own_way(place):
    path, fd = place
    btrfs.create(fd, "one")
    (path / "one/file").write_text("one")
    two = snapshot(path, fd, "one", "two")
    (two / "file").write_text("two")
    (path / "one/other").touch()
    assert (path / "one/file").read_text() == "one"
    assert os.listdir(two) == ["file"]
    assert subvolume(two)[0] != subvolume(path / "one")[0]
    assert subvolume(path / "one")[1] == 0 < subvolume(two)[1]


def test_read_only(place):
    path, fd = place
    btrfs.create(fd, "one")
    (path / "one/file").write_text("one")
    frozen = snapshot(path, fd, "one", "frozen", readonly=True)
    with opened(frozen) as frozen_fd:
        assert btrfs.readonly(frozen_fd)
        with pytest.raises(OSError, match="Read-only"):
            (frozen / "file").write_text("no")
        btrfs.set_readonly(frozen_fd, False)
        assert not btrfs.readonly(frozen_fd)
    (frozen / "file").write_text("yes")
    with pytest.raises(OSError, match="Invalid argument"):
        btrfs.readonly(fd)


def test_names(place):
    _, fd = place
    for name in ("", ".", "..", "a/b"):
        with pytest.raises(OSError, match="Invalid argument"):
            btrfs.create(fd, name)
    with pytest.raises(OSError, match="name too long"):
        btrfs.create(fd, "n" * 256)
    with pytest.raises(ValueError, match="null"):
        btrfs.create(fd, "a\0b")
    btrfs.create(fd, b"\xff" * 255)
    with pytest.raises(FileExistsError):
        btrfs.create(fd, b"\xff" * 255)
    with pytest.raises(FileNotFoundError):
        btrfs.destroy(fd, "absent")


def test_what_is_no_subvolume(place):
    path, fd = place
    (path / "plain").mkdir()
    (path / "file").touch()
    with pytest.raises(OSError, match="Invalid argument"):
        snapshot(path, fd, "plain", "new")
    with pytest.raises(OSError, match="Invalid argument"):
        btrfs.destroy(fd, "plain")
    with pytest.raises(NotADirectoryError):
        btrfs.destroy(fd, "file")
    with opened("/proc") as elsewhere, pytest.raises(OSError, match="Inappropriate ioctl"):
        btrfs.create(elsewhere, "new")


def test_subvolumes_in_subvolumes(place, filesystem):
    path, fd = place
    btrfs.create(fd, "outer")
    with opened(path / "outer") as outer:
        for number in range(300):
            btrfs.create(outer, f"inner-{number}")
        id = btrfs.subvolume(outer)[0]
        found = btrfs.inside(fd, id)
        assert sorted(found) == sorted(id for id in range(id + 1, id + 301))
        with opened(path / "outer/inner-7") as inner:
            btrfs.create(inner, "innermost")
            (innermost,) = btrfs.inside(fd, btrfs.subvolume(inner)[0])
        assert innermost == listed(filesystem)[f"{path.name}/outer/inner-7/innermost"]
    with pytest.raises(OSError, match="not empty"):
        btrfs.destroy(fd, "outer")
    with pytest.raises(OSError, match="not empty"):
        btrfs.destroy_id(fd, id)
    copy = snapshot(path, fd, "outer", "copy")
    assert os.listdir(copy / "inner-7") == []
    btrfs.destroy_id(fd, innermost)
    for inner_id in found:
        btrfs.destroy_id(fd, inner_id)
    assert btrfs.inside(fd, id) == []
    btrfs.destroy(fd, "outer")
    with pytest.raises(OSError, match=f"subvolume {id}"):
        btrfs.destroy_id(fd, id)
    assert os.listdir(path) == ["copy"]


def test_what_changed_in_a_subvolume(place):
    path, fd = place
    btrfs.create(fd, "one")
    one = path / "one"
    assert changed(one) == (0, 0)
    (one / "big").write_bytes(os.urandom(1 << 20))
    (one / "small").write_bytes(b"x" * 100)
    (one / "folder").mkdir()
    (one / "link").hardlink_to(one / "big")
    with (one / "hole").open("wb") as file:
        file.truncate(1 << 30)
    assert changed(one) == ((1 << 20) + 100, 4)


def test_what_changed_in_a_snapshot(place):
    path, fd = place
    btrfs.create(fd, "one")
    one = path / "one"
    (one / "big").write_bytes(os.urandom(1 << 20))
    for number in range(5000):
        (one / f"f{number}").touch()
    two = snapshot(path, fd, "one", "two")
    assert changed(two) == (0, 0)
    with (two / "big").open("r+b") as file:
        file.seek(4096 * 10)
        file.write(os.urandom(8192))
    assert changed(two) == (8192, 0)
    with (two / "big").open("rb") as file, (two / "shared").open("wb") as target:
        assert fs.reflink(file.fileno(), target.fileno())
    assert changed(two) == (16384, 1)  # what came after, as often as it is shown
    (two / "shared").unlink()
    (two / "f7").unlink()
    (two / "f8").write_bytes(b"y" * 10)
    for number in range(3000):
        (two / f"g{number}").touch()
    assert changed(two) == (8192 + 10, 3000)
    assert changed(snapshot(path, fd, "two", "three")) == (0, 0)


def test_compressed_bytes_count_as_they_lie_on_disk(tmp_path):
    with disk(tmp_path, "btrfs", 512 * MIB, "compress-force=zstd") as path, opened(path) as fd:
        btrfs.create(fd, "one")
        (path / "one/zeros").write_bytes(b"abcd" * (1 << 18))
        size, inodes = changed(path / "one")
        assert inodes == 1
        assert 0 < size < 1 << 18

