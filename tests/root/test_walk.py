"""Walks of trees, against what other tools and plain Python say."""

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
