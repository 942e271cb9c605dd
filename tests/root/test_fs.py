"""The file calls that Python's os lacks."""

import os

import pytest

from pyx import fs

pytestmark = pytest.mark.root


@pytest.fixture
def root(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/etc").mkdir()
    (tmp_path / "in/etc/passwd").write_text("inside")
    (tmp_path / "passwd").write_text("outside")
    fd = os.open(tmp_path / "in", os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.mark.parametrize("path", ["etc/passwd", "/etc/passwd", "../../etc/passwd", "absolute", "up"])
def test_a_resolution_stays_in_its_root(root, path):
    os.symlink("/etc/passwd", "absolute", dir_fd=root)
    os.symlink("../../etc/passwd", "up", dir_fd=root)
    fd = fs.openat2(root, path, os.O_RDONLY, 0, fs.RESOLVE_IN_ROOT)
    assert os.read(fd, 100) == b"inside"
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_errors_name_the_path(root):
    with pytest.raises(FileNotFoundError) as caught:
        fs.openat2(root, "nosuch", os.O_RDONLY, 0, fs.RESOLVE_IN_ROOT)
    assert caught.value.filename == "nosuch"
    os.symlink("loop", "loop", dir_fd=root)
    with pytest.raises(OSError, match="symbolic links"):
        fs.openat2(root, "loop", os.O_RDONLY, 0, fs.RESOLVE_IN_ROOT)


def test_renaming_with_flags(root):
    for name in ("a", "b"):
        os.close(os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=root))
    with pytest.raises(FileExistsError):
        fs.renameat2(root, "a", root, "b", fs.RENAME_NOREPLACE)
    before = os.stat("a", dir_fd=root).st_ino
    fs.renameat2(root, "a", root, "b", fs.RENAME_EXCHANGE)
    assert os.stat("b", dir_fd=root).st_ino == before


def test_sharing_blocks_or_saying_no(root):
    source = os.open("etc/passwd", os.O_RDONLY, dir_fd=root)
    target = os.open("copy", os.O_CREAT | os.O_RDWR, dir_fd=root)
    if fs.reflink(source, target):
        assert os.pread(target, 100, 0) == b"inside"
    fs.syncfs(target)
    os.close(source)
    os.close(target)
