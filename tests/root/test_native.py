"""Native copies on real filesystems: what they share, what they keep. What all snapshotters do is in the contract."""

import os
import tempfile
from pathlib import Path

import pytest

from daemon.kit.dictkv import DictKV
from daemon.snapshots.native import Native
from pyx import fs

pytestmark = pytest.mark.root

SIZE = 16 << 20


@pytest.fixture(params=["ext4", "xfs"])
def disk(request, disks):
    if request.param not in disks:
        pytest.skip(f"there is no {request.param} here")
    return request.param, disks[request.param]


@pytest.fixture
def snapshots(disk):
    with tempfile.TemporaryDirectory(dir=disk[1]) as directory:
        yield Native(directory, DictKV(), sync_remove=True)


def used(disk):
    """Bytes, all allocated."""
    fd = os.open(disk[1], os.O_RDONLY)
    try:
        fs.syncfs(fd)
        found = os.fstatvfs(fd)
        return (found.f_blocks - found.f_bfree) * found.f_frsize
    finally:
        os.close(fd)


def committed(snapshots, write):
    (mount,) = snapshots.prepare("key")
    write(Path(mount.source))
    snapshots.commit("base", "key")
    (mount,) = snapshots.prepare("child", "base")
    return Path(mount.source)


def test_blocks_are_shared_where_the_filesystem_can(snapshots, disk):
    data = os.urandom(SIZE)

    def write(path):
        (path / "file").write_bytes(data)
        used(disk)

    before = used(disk)
    child = committed(snapshots, write)
    assert (child / "file").read_bytes() == data
    grown = used(disk) - before
    assert grown < SIZE * 1.25 if disk[0] == "xfs" else grown >= SIZE * 2
    with open(child / "file", "r+b") as file:
        file.write(b"changed")
    snapshots.remove("child")
    (mount,) = snapshots.view("view", "base")
    assert Path(mount.source, "file").read_bytes() == data


def test_holes_links_and_attributes_stay(snapshots, disk):
    def write(path):
        with open(path / "sparse", "wb") as file:
            file.seek(SIZE)
            file.write(b"end")
        (path / "link").hardlink_to(path / "sparse")
        os.setxattr(path / "sparse", "user.test", b"value")
        os.setxattr(path / "sparse", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))

    child = committed(snapshots, write)
    info = (child / "sparse").stat()
    assert (info.st_size, info.st_nlink) == (SIZE + 3, 2)
    assert info.st_blocks * 512 < SIZE / 4
    assert (child / "link").stat().st_ino == info.st_ino
    assert os.getxattr(child / "sparse", "user.test") == b"value"
    assert os.getxattr(child / "sparse", "security.capability")[:1] == b"\x01"
