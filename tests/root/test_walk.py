"""Walks of trees, against what other tools and plain Python say."""

import errno
import os
import stat
import subprocess

import pytest

from daemon.kit import mounting
from pyx import walk
from spec.types import Mount

pytestmark = pytest.mark.root


@pytest.fixture
def tree(tmp_path):
    """One of everything."""
    root = tmp_path / "tree"
    (root / "d/e").mkdir(parents=True)
    (root / "d/f").write_bytes(os.urandom(100_000))
    (root / "d/sparse").write_bytes(b"x")
    os.truncate(root / "d/sparse", 10 << 20)
    os.link(root / "d/f", root / "hard")
    (root / "link").symlink_to("d/f")
    os.mkfifo(root / "pipe")
    os.mknod(root / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.chown(root / "d/f", 5, 6)
    os.chmod(root / "d/f", 0o4755)
    os.setxattr(root / "d/f", "user.key", b"v\0w")
    os.chmod(root / "d/e", 0o1777)
    for name in ("d/f", "d/e", "d", "link"):
        os.utime(root / name, ns=(1_000_000_001, 2_000_000_002), follow_symlinks=False)
    return root


def opened(path):
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def listing(root):
    """The plain twin of a walk: everything about every entry."""
    found = []
    for base, folders, files in os.walk(root):
        for name in folders + files:
            path = os.path.join(base, name)
            info = os.lstat(path)
            target = os.readlink(path) if stat.S_ISLNK(info.st_mode) else ""
            keys = os.listxattr(path, follow_symlinks=False)
            xattrs = {key: os.getxattr(path, key, follow_symlinks=False) for key in keys}
            found.append(
                (os.path.relpath(path, root), info.st_mode, info.st_uid, info.st_gid, info.st_nlink, info.st_rdev,
                 info.st_mtime_ns, 0 if stat.S_ISDIR(info.st_mode) else info.st_size, target, xattrs)
            )  # fmt: skip
    return sorted(found, key=lambda entry: entry[0])


def test_usage_is_what_du_says(tree):
    fd = opened(tree)
    size, inodes = walk.usage(fd)
    os.close(fd)
    said = subprocess.run(["du", "-s", "-B1", tree], check=True, capture_output=True, text=True).stdout.split()[0]
    paths = [os.path.join(base, name) for base, folders, files in os.walk(tree) for name in folders + files]
    assert (size, inodes) == (int(said), len({os.lstat(path).st_ino for path in paths}) + 1)


def test_a_copy_is_equal_and_links_stay_links(tree, tmp_path):
    target = tmp_path / "copy"
    target.mkdir()
    here, there = opened(tree), opened(target)
    walk.copy(here, there)
    os.close(here)
    os.close(there)
    assert listing(target) == listing(tree)
    assert (target / "hard").samefile(target / "d/f")
    assert (target / "d/f").read_bytes() == (tree / "d/f").read_bytes()


def test_removing(tree, tmp_path):
    fd = opened(tmp_path)
    walk.remove(fd, "tree")
    walk.remove(fd, "tree")  # not there is fine
    walk.remove(fd, "nosuch")
    (tmp_path / "file").touch()
    walk.remove(fd, "file")
    os.close(fd)
    assert os.listdir(tmp_path) == []


def test_a_removal_follows_no_link_and_enters_no_mount(tree, tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").touch()
    (tree / "d/out").symlink_to(victim)
    (tree / "d/mounted").mkdir()
    mounting.attach([Mount(type="tmpfs", source="tmpfs")], str(tree / "d/mounted"))
    (tree / "d/mounted/precious").touch()
    fd = opened(tmp_path)
    try:
        with pytest.raises(OSError, match="busy"):
            walk.remove(fd, "tree")
        assert (tree / "d/mounted/precious").exists()
    finally:
        mounting.detach(str(tree / "d/mounted"))
    walk.remove(fd, "tree")
    os.close(fd)
    assert (victim / "precious").exists()


MAPS = [(0, 100_000, 1000), (5000, 300_000, 10)], [(0, 200_000, 65_536)]


def shifted(root):
    here = opened(root)
    try:
        walk.shift(here, *MAPS)
    finally:
        os.close(here)


def test_shift_gives_everything_to_others_and_changes_nothing_else(tree):
    os.chown(tree / "d", 5003, 7)
    os.chown(tree / "link", 1, 1, follow_symlinks=False)
    before = [stat_of(tree / name) for name in NAMES]
    shifted(tree)
    for name, (user, group, *rest) in zip(NAMES, before, strict=True):
        outside = user + (295_000 if user >= 5000 else 100_000)
        assert stat_of(tree / name) == (outside, group + 200_000, *rest), name


NAMES = (".", "d", "d/e", "d/f", "d/sparse", "hard", "link", "pipe", "null")


def stat_of(path):
    info = os.lstat(path)
    return info.st_uid, info.st_gid, info.st_mode, info.st_mtime_ns, info.st_ino, info.st_nlink, info.st_size


def test_shift_makes_capabilities_those_of_the_maps_root(tree):
    """linux/capability.h: revision 2 has no root of its own, revision 3 ends with it."""
    words = (0x400).to_bytes(4, "little") + bytes(12)
    os.setxattr(tree / "d/sparse", "security.capability", b"\x01\x00\x00\x02" + words)
    shifted(tree)
    found = os.getxattr(tree / "d/sparse", "security.capability")
    assert found == b"\x01\x00\x00\x03" + words + (100_000).to_bytes(4, "little")


def test_shift_of_an_owner_that_no_map_has(tree):
    os.chown(tree / "d/e", 1000, 0)
    with pytest.raises(OSError, match="d/e") as caught:
        shifted(tree)
    assert caught.value.errno == errno.EOVERFLOW


def test_shift_through_an_overlay(tree, tmp_path):
    """There a file of two names becomes two files as soon as one of them has another owner."""
    for name in ("upper", "work"):
        (tmp_path / name).mkdir()
    options = (f"lowerdir={tree}", f"upperdir={tmp_path}/upper", f"workdir={tmp_path}/work", "index=off")
    before = listing(tree)
    with mounting.opened([Mount(type="overlay", source="overlay", options=options)]) as root:
        walk.shift(root, *MAPS)
        for name in NAMES:
            there, here = os.lstat(tree / name), os.stat(name, dir_fd=root, follow_symlinks=False)
            assert (here.st_uid, here.st_gid) == (there.st_uid + 100_000, there.st_gid + 200_000), name
            assert here.st_mode == there.st_mode
    assert listing(tree) == before
