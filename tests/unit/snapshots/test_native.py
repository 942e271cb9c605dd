import os
import stat

import pytest

from daemon.kit.dictkv import DictKV
from daemon.snapshots.native import Native
from spec.types import Mount


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


@pytest.fixture
def snapshots(root):
    return Native(str(root), DictKV())


def test_mounts_are_binds(snapshots, root):
    def bind(id, *options):
        return (Mount(type="bind", source=str(root / f"snapshots/{id}"), options=options),)

    assert snapshots.prepare("key") == bind(1, "rw", "rbind")
    assert snapshots.view("lone") == bind(2, "ro", "rbind")
    snapshots.commit("name", "key")
    assert snapshots.view("view", "name") == bind(1, "ro", "rbind")
    assert snapshots.prepare("above", "name") == bind(4, "rw", "rbind")
    assert snapshots.mounts("view") == bind(1, "ro", "rbind")


def test_a_child_is_a_copy_that_goes_its_own_way(snapshots):
    (base,) = snapshots.prepare("key")
    with open(f"{base.source}/file", "w") as file:
        file.write("base")
    os.mkdir(f"{base.source}/folder", 0o700)
    os.symlink("nowhere", f"{base.source}/link")
    os.utime(f"{base.source}/file", ns=(10**18, 10**18 + 1))
    os.chmod(base.source, 0o711)
    snapshots.commit("name", "key")

    (child,) = snapshots.prepare("child", "name")
    assert sorted(os.listdir(child.source)) == ["file", "folder", "link"]
    assert stat.S_IMODE(os.stat(child.source).st_mode) == 0o711
    assert stat.S_IMODE(os.stat(f"{child.source}/folder").st_mode) == 0o700
    assert os.readlink(f"{child.source}/link") == "nowhere"
    assert os.stat(f"{child.source}/file").st_mtime_ns == 10**18 + 1
    with open(f"{child.source}/file", "w") as file:
        file.write("changed")
    with open(f"{base.source}/file") as file:
        assert file.read() == "base"


@pytest.mark.parametrize("umask", [0, 0o077], ids=oct)
def test_the_root_is_0755_whatever_the_umask(snapshots, umask):
    before = os.umask(umask)
    try:
        (mount,) = snapshots.prepare("key")
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(mount.source).st_mode) == 0o755
