"""The btrfs snapshotter against the filesystem and the end of its process; what every snapshotter does is in the
contract suite."""

import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from daemon.kit.dictkv import DictKV
from daemon.metadata.kv import BucketKV
from daemon.metadata.store import Store
from daemon.snapshots.btrfs import Btrfs
from daemon.snapshots.tree import Tree
from pyx import btrfs, fs
from spec import errors
from spec.records import Kind
from spec.types import Usage
from tests.disks import MIB, disk

pytestmark = pytest.mark.root

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def filesystem(tmp_path_factory):
    with disk(tmp_path_factory.mktemp("btrfs"), "btrfs", 512 * MIB) as path:
        yield path


@pytest.fixture
def root(filesystem, request):
    return filesystem / request.node.name.partition("[")[0]


@pytest.fixture
def make(root):
    """Makes the snapshotter, again and again, over the same root and records."""
    kv = DictKV()
    return lambda: Btrfs(str(root), kv, sync_remove=True)


@pytest.fixture
def snapshots(make):
    return make()


def opened(path):
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY)


def create(path, name):
    fd = opened(path)
    try:
        btrfs.create(fd, name)
    finally:
        os.close(fd)
    return path / name


def freeze(path):
    fd = opened(path)
    btrfs.set_readonly(fd, True)
    os.close(fd)


def shown(mounts):
    return Path(mounts[0].source)


def written(path):
    """Whether a new file can be made there."""
    try:
        (path / "written").touch()
    except OSError:
        return False
    return True


def synced(path):
    fd = opened(path)
    fs.syncfs(fd)
    os.close(fd)


def subvolumes(root):
    done = subprocess.run(["btrfs", "subvolume", "list", root.parent], check=True, capture_output=True, text=True)
    paths = [line.partition(" path ")[2] for line in done.stdout.splitlines()]
    return [path.removeprefix(f"{root.name}/") for path in paths if path.startswith(f"{root.name}/")]


def test_elsewhere_it_is_not_offered(tmp_path):
    with pytest.raises(errors.Unimplemented, match="on no btrfs"):
        Btrfs(str(tmp_path / "a/b"), DictKV())
    assert os.listdir(tmp_path) == []


def test_what_it_makes(snapshots, root):
    active = shown(snapshots.prepare("key"))
    assert active == root / "snapshots/1/active"
    (active / "file").write_text("base")
    snapshots.commit("name", "key")
    assert shown(snapshots.view("view", "name")) == root / "snapshots/1/committed"
    assert not written(root / "snapshots/1/committed")
    child = shown(snapshots.prepare("child", "name"))
    assert (child / "file").stat().st_ino == (root / "snapshots/1/committed/file").stat().st_ino  # not copied
    assert subvolumes(root) == ["snapshots/1/committed", "snapshots/3/active"]
    assert {path.name for path in (root / "snapshots/2").iterdir()} == set()


def test_who_still_has_it_open_does_not_change_what_is_committed(snapshots):
    with (shown(snapshots.prepare("key")) / "file").open("w") as file:
        file.write("before")
        file.flush()
        snapshots.commit("name", "key")
        file.write("after")
    assert (shown(snapshots.view("view", "name")) / "file").read_text() == "before"


def test_usage_is_what_is_not_shared(snapshots):
    base = shown(snapshots.prepare("key"))
    (base / "big").write_bytes(os.urandom(1 << 20))
    (base / "other").touch()
    snapshots.commit("base", "key")
    assert snapshots.usage("base") == Usage(size=1 << 20, inodes=2)  # committed: nothing had to be synced before
    child = shown(snapshots.prepare("child", "base"))
    assert snapshots.usage("child") == Usage()
    (child / "big").chmod(0o600)
    (child / "new").write_bytes(os.urandom(8192))
    synced(child)
    assert snapshots.usage("child") == Usage(size=8192, inodes=1)
    snapshots.commit("top", "child")
    assert snapshots.usage("top") == Usage(size=8192, inodes=1)
    snapshots.prepare("last", "top")
    snapshots.commit("given", "last", usage=Usage(size=7, inodes=7))
    assert snapshots.usage("given") == Usage(size=7, inodes=7)


def test_subvolumes_that_a_container_made_are_committed_as_directories(snapshots, root):
    active = shown(snapshots.prepare("key"))
    (active / "file").write_text("1")
    inner = create(active, "inner")
    (inner / "file").write_bytes(b"2" * 100_000)
    os.chown(inner, 7, 8)
    innermost = create(inner, "innermost")
    (innermost / "file").write_text("3")
    (innermost / "hard").hardlink_to(innermost / "file")
    freeze(innermost)
    snapshots.commit("name", "key")
    assert subvolumes(root) == ["snapshots/1/committed"]
    child = shown(snapshots.prepare("child", "name"))
    assert (child / "inner").stat().st_uid == 7
    assert (child / "inner/file").read_bytes() == b"2" * 100_000
    assert (child / "inner/innermost/hard").read_text() == "3"
    assert written(child / "inner/innermost")
    assert not written(root / "snapshots/1/committed")


def test_subvolumes_that_a_container_made_go_with_it(snapshots, root):
    active = shown(snapshots.prepare("key"))
    inner = create(active, "inner")
    for number in range(20):
        inner = create(inner, f"in {number}")
    freeze(inner)
    snapshots.remove("key")
    assert subvolumes(root) == os.listdir(root / "trash") == os.listdir(root / "snapshots") == []


def test_a_commit_that_is_refused_leaves_the_active_one(snapshots, root, monkeypatch):
    active = shown(snapshots.prepare("key"))
    (active / "file").touch()

    def lost(*_):
        raise errors.AlreadyExists("another was faster")

    monkeypatch.setattr(Tree, "commit", lost)
    with pytest.raises(errors.AlreadyExists):
        snapshots.commit("name", "key")
    monkeypatch.undo()
    assert subvolumes(root) == ["snapshots/1/active"]
    assert written(active)
    snapshots.commit("name", "key")


def test_a_crash_before_the_record_of_a_commit(make, root):
    snapshots = make()
    active = shown(snapshots.prepare("key"))
    create(root / "snapshots/1", "committed")  # what was being made
    (active / "file").touch()
    make().cleanup()
    assert subvolumes(root) == ["snapshots/1/active"]
    create(root / "snapshots/1", "committed")
    make().commit("name", "key")
    assert os.listdir(root / "snapshots/1/committed") == ["file"]


def test_a_crash_after_the_record_of_a_commit(make, root):
    snapshots = make()
    snapshots.prepare("key")
    snapshots.commit("name", "key")
    create(root / "snapshots/1", "active")  # what was to be destroyed
    make().cleanup()
    assert subvolumes(root) == ["snapshots/1/committed"]


WORK = """
import sys
from daemon.metadata.kv import BucketKV
from daemon.metadata.store import Store
from daemon.snapshots.btrfs import Btrfs
snapshots = Btrfs(sys.argv[1], BucketKV(Store(sys.argv[2], sync=False), "snapshots"))
parent = ""
for number in range(1000):
    key = f"{sys.argv[3]}-{number}"
    snapshots.prepare(key, parent)
    print("made", key, flush=True)
    if number % 3 == 1:
        parent = f"name {key}"
        snapshots.commit(parent, key)
        print("committed", key, flush=True)
    elif number % 3 == 2:
        snapshots.remove(key)
        print("removed", key, flush=True)
"""


def test_a_process_that_is_killed_breaks_nothing(root, tmp_path):
    for run in range(5):
        argv = [sys.executable, "-c", WORK, root, tmp_path / "metadata", str(run)]
        with subprocess.Popen(argv, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
            said = [process.stdout.readline().split() for _ in range(30 + 5 * run)]
            process.send_signal(signal.SIGKILL)
        with closing(Store(str(tmp_path / "metadata"), sync=False)) as store:
            snapshots = Btrfs(str(root), BucketKV(store, "snapshots"))
            found = {info.name: info.kind for info in snapshots.list()}
            for what, key in said[:-1]:
                assert what != "committed" or found[f"name {key}"] == Kind.COMMITTED
                assert what != "removed" or key not in found
            snapshots.cleanup()
            kinds = sorted(path.partition("/")[2].partition("/")[2] for path in subvolumes(root))
            assert kinds == sorted(kind.name.lower() for kind in found.values())
            for name, kind in found.items():
                if kind == Kind.ACTIVE:
                    assert written(shown(snapshots.mounts(name)))
            snapshots.close()
