"""Walks of what containers leave: deep, linked, with holes, mounted on; and the plain twins that must agree."""

import errno
import os
import random
import stat

import pytest

from daemon.kit import mounting
from pyx import walk
from spec.types import Mount

pytestmark = pytest.mark.root

DEPTH = 3000  # beyond PATH_MAX, and beyond what descriptors or stack would hold


def opened(path):
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


@pytest.fixture
def at(tmp_path):
    fd = opened(tmp_path)
    yield fd
    os.close(fd)


def plain_usage(path):
    met = {}
    for base, folders, files in os.walk(path):
        for name in (".", *folders, *files):
            info = os.lstat(os.path.join(base, name))
            met[info.st_dev, info.st_ino] = info.st_blocks * 512
    return sum(met.values()), len(met)


def usage(path):
    fd = opened(path)
    try:
        return walk.usage(fd)
    finally:
        os.close(fd)


def copied(source, target):
    target.mkdir()
    here, there = opened(source), opened(target)
    try:
        walk.copy(here, there)
    finally:
        os.close(here)
        os.close(there)


def entries(path):
    """{path: everything that a copy must keep}, hard links by the first name."""
    found, first = {}, {}
    names = [(".", os.lstat(path))]
    for base, folders, files in os.walk(path):
        for name in sorted((*folders, *files)):
            full = os.path.join(base, name)
            names.append((os.path.relpath(full, path), os.lstat(full)))
    for name, info in sorted(names, key=lambda entry: entry[0]):
        full = os.path.join(path, name)
        keys = os.listxattr(full, follow_symlinks=False)
        content = os.readlink(full) if stat.S_ISLNK(info.st_mode) else None
        if stat.S_ISREG(info.st_mode):
            with open(full, "rb") as file:
                content = file.read()
        found[name] = (
            info.st_mode, info.st_uid, info.st_gid, info.st_rdev, info.st_mtime_ns, content,
            {key: os.getxattr(full, key, follow_symlinks=False) for key in keys},
            None if stat.S_ISDIR(info.st_mode) else first.setdefault(info.st_ino, name),
        )  # fmt: skip
    return found


def grow(path, seed):
    """A tree of anything, the same for the same seed."""
    chance = random.Random(seed)
    folders, files = [path], []
    path.mkdir()
    for number in range(300):
        place = chance.choice(folders) / f"{number}\N{SNOWMAN}"
        kind = chance.choice(["folder", "file", "file", "link", "hard", "fifo", "device", "hole"])
        if kind == "folder":
            place.mkdir()
            folders.append(place)
        elif kind == "file":
            place.write_bytes(chance.randbytes(chance.choice([0, 1, 4096, 70_000])))
            files.append(place)
        elif kind == "link":
            place.symlink_to(f"../{number}/nowhere")
            os.setxattr(place, "trusted.key", b"of a link", follow_symlinks=False)
        elif kind == "hard" and files:
            os.link(chance.choice(files), place)
        elif kind == "fifo":
            os.mkfifo(place)
        elif kind == "device":
            os.mknod(place, stat.S_IFCHR, os.makedev(0, 0))  # as a whiteout is
            os.setxattr(place, "trusted.key", b"of a device")
        elif kind == "hole":
            place.write_bytes(b"start")
            os.truncate(place, 1 << 20)
        if not place.is_symlink() and place.exists():
            os.chown(place, chance.randrange(70_000), chance.randrange(70_000))
            os.chmod(place, chance.randrange(0o10000))
            if chance.random() < 0.3 and not place.is_fifo() and not place.is_char_device():
                os.setxattr(place, "user.key", chance.randbytes(chance.choice([0, 1, 200])))
    for place in sorted(path.rglob("*"), key=str, reverse=True):
        times = chance.randrange(1 << 60), chance.randrange(1 << 60)
        os.utime(place, ns=times, follow_symlinks=False)


@pytest.mark.parametrize("seed", range(5))
def test_the_plain_twins_agree(tmp_path, at, seed):
    source = tmp_path / "source"
    grow(source, seed)
    before = entries(source)
    assert usage(source) == plain_usage(source)
    copied(source, tmp_path / "copy")
    assert entries(tmp_path / "copy") == before
    assert entries(source) == before
    walk.remove(at, "copy")
    walk.remove(at, "source")
    assert os.listdir(at) == []


def test_depth_costs_neither_stack_nor_descriptors(tmp_path, at):
    (tmp_path / "deep").mkdir()
    here = opened(tmp_path / "deep")
    for _ in range(DEPTH):
        os.mkdir("deeper", dir_fd=here)
        below = os.open("deeper", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=here)
        os.close(here)
        here = below
    for name in ("file", "first"):
        os.close(os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.link("first", "second", src_dir_fd=here, dst_dir_fd=here)  # whose path is too long for the copy to link to
    os.close(here)
    size, inodes = usage(tmp_path / "deep")
    assert inodes == DEPTH + 3
    copied(tmp_path / "deep", tmp_path / "copy")
    assert usage(tmp_path / "copy") == (size, inodes + 1)
    for name in ("deep", "copy"):
        walk.remove(at, name)
    assert os.listdir(at) == []


def test_holes_stay_holes(tmp_path):
    (tmp_path / "source").mkdir()
    with open(tmp_path / "source/file", "wb") as file:
        for place in (0, 5 << 20, 90 << 20):
            os.pwrite(file.fileno(), b"data" * 2000, place)
        file.truncate(1 << 30)
    copied(tmp_path / "source", tmp_path / "copy")
    assert (tmp_path / "copy/file").stat().st_size == 1 << 30
    assert (tmp_path / "copy/file").stat().st_blocks <= (tmp_path / "source/file").stat().st_blocks
    with open(tmp_path / "copy/file", "rb") as file:
        for place in (0, 5 << 20, 90 << 20):
            assert os.pread(file.fileno(), 8000, place) == b"data" * 2000


@pytest.mark.parametrize("kind", ["tmpfs", "bind"])
def test_what_is_mounted_inside_is_left_alone(tmp_path, at, kind):
    """A bind mount is on the same device."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other/precious").write_bytes(b"x" * 100_000)
    mounted = tmp_path / "tree/d/mounted"
    mounted.mkdir(parents=True)
    before = usage(tmp_path / "tree")
    mount = Mount(type=kind, source=str(tmp_path / "other"), options=("bind",) if kind == "bind" else ())
    mounting.attach([mount], str(mounted))
    try:
        (mounted / "precious").touch()
        size, inodes = usage(tmp_path / "tree")
        assert inodes == before[1]
        assert size <= before[0]
        copied(tmp_path / "tree", tmp_path / "copy")
        assert os.listdir(tmp_path / "copy/d/mounted") == []
        with pytest.raises(OSError, match="busy") as caught:
            walk.remove(at, "tree")
        assert caught.value.errno == errno.EBUSY
        assert caught.value.filename == "tree/d/mounted"
        assert (mounted / "precious").exists()
    finally:
        mounting.detach(str(mounted))
    assert (tmp_path / "other/precious").exists()


@pytest.mark.parametrize("name", ["", ".", "..", "tree/d", "/", "tree\0d"])
def test_a_removal_is_of_one_name(tmp_path, at, name):
    (tmp_path / "tree/d").mkdir(parents=True)
    with pytest.raises((OSError, ValueError)):
        walk.remove(at, name)
    assert (tmp_path / "tree/d").exists()


def test_a_copy_overwrites_nothing(tmp_path):
    for name in ("source", "target"):
        (tmp_path / name / "d").mkdir(parents=True)
        (tmp_path / name / "d/file").write_text(name)
    here, there = opened(tmp_path / "source"), opened(tmp_path / "target")
    try:
        with pytest.raises(FileExistsError) as caught:
            walk.copy(here, there)
    finally:
        os.close(here)
        os.close(there)
    assert caught.value.filename == "d"
    assert (tmp_path / "target/d/file").read_text() == "target"


def test_no_directory_no_walk(tmp_path):
    (tmp_path / "file").touch()
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        for call in (lambda: walk.usage(fd), lambda: walk.copy(fd, fd), lambda: walk.remove(fd, "x")):
            with pytest.raises(NotADirectoryError):
                call()
        with pytest.raises(OSError, match="Bad file descriptor"):
            walk.usage(-1)
    finally:
        os.close(fd)
