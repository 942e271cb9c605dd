"""The overlay snapshotter against the kernel and the end of its process; what every snapshotter does is in the contract
suite."""

import os
import signal
import stat
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from daemon.kit import mounting
from daemon.kit.dictkv import DictKV
from daemon.metadata.kv import BucketKV
from daemon.metadata.store import Store
from daemon.snapshots.overlay import Overlay, OverlayConfig
from spec.records import Kind

pytestmark = pytest.mark.root

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def snapshots(tmp_path):
    return Overlay(str(tmp_path / "root"), DictKV())


@pytest.fixture
def mounted(tmp_path):
    target = tmp_path / "mounted"
    target.mkdir()

    @contextmanager
    def mount(mounts):
        mounting.attach(mounts, str(target))
        try:
            yield target
        finally:
            mounting.detach(str(target))

    return mount


def options_of(path):
    """As the kernel shows them in the mount table."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        if fields.split()[4] == str(path):
            return fields.split()[5].split(",") + rest.split()[2].split(",")
    raise AssertionError(f"{path} is no mount")


def upper(mounts):
    return Path(next(option for option in mounts[0].options if option.startswith("upperdir=")).partition("=")[2])


def test_deletions_are_whiteouts_in_the_upper(snapshots, mounted):
    with mounted(snapshots.prepare("base")) as path:
        (path / "file").write_text("content")
        (path / "folder").mkdir()
        (path / "folder/inside").write_text("content")
    snapshots.commit("name", "base")
    mounts = snapshots.prepare("key", "name")
    with mounted(mounts) as path:
        (path / "file").unlink()
        (path / "folder/inside").unlink()
        (path / "folder").rmdir()
        (path / "folder").mkdir()
    whiteout = (upper(mounts) / "file").lstat()
    assert stat.S_ISCHR(whiteout.st_mode)
    assert whiteout.st_rdev == 0
    assert os.getxattr(upper(mounts) / "folder", "trusted.overlay.opaque") == b"y"


def test_the_kernel_takes_the_options(tmp_path, mounted):
    config = OverlayConfig(mount_options=("metacopy=on", "redirect_dir=on"))
    snapshots = Overlay(str(tmp_path / "root"), DictKV(), config)
    snapshots.prepare("base")
    snapshots.commit("name", "base")
    with mounted(snapshots.prepare("key", "name")) as path:
        found = options_of(path)
    assert {"metacopy=on", "redirect_dir=on"} <= set(found)
    assert "index=on" not in found


def test_directories_move_with_redirects(tmp_path, mounted):
    snapshots = Overlay(str(tmp_path / "root"), DictKV(), OverlayConfig(mount_options=("redirect_dir=on",)))
    with mounted(snapshots.prepare("base")) as path:
        (path / "old").mkdir()
        (path / "old/file").write_text("content")
    snapshots.commit("name", "base")
    with mounted(snapshots.prepare("key", "name")) as path:
        (path / "old").rename(path / "new")
    snapshots.commit("moved", "key")
    with mounted(snapshots.view("view", "moved")) as path:
        assert os.listdir(path) == ["new"]
        assert (path / "new/file").read_text() == "content"


def test_more_layers_than_a_page_of_options_holds(snapshots, mounted):
    parent = ""
    for number in range(200):
        mounts = snapshots.prepare(f"key {number}", parent)
        source = upper(mounts) if mounts[0].type == "overlay" else Path(mounts[0].source)
        (source / f"file {number}").write_text("")
        parent = f"layer {number}"
        snapshots.commit(parent, f"key {number}")
    mounts = snapshots.prepare("key", parent)
    assert sum(map(len, mounts[0].options)) > 4096
    with mounted(mounts) as path:
        assert len(os.listdir(path)) == 200
        (path / "mine").write_text("")
    assert os.listdir(upper(mounts)) == ["mine"]


def test_the_space_of_what_is_removed_is_free(snapshots, mounted, tmp_path):
    with mounted(snapshots.prepare("key")) as path:
        (path / "folder").mkdir()
        (path / "folder/fifo").touch()
        os.mknod(path / "folder/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    snapshots.remove("key")
    left = sorted(name for _, folders, files in os.walk(tmp_path / "root") for name in (*folders, *files))
    assert left == ["snapshots", "trash"]


WORK = """
import sys
from daemon.metadata.kv import BucketKV
from daemon.metadata.store import Store
from daemon.snapshots.overlay import Overlay
store = Store(sys.argv[1] + "/metadata", sync=False)
snapshots = Overlay(sys.argv[1] + "/root", BucketKV(store, "snapshots"))
parent = "base"
if not list(snapshots.list(["name==base"])):
    snapshots.prepare("first")
    snapshots.commit("base", "first")
number = 0
while True:
    key = f"{sys.argv[2]}-{number}"
    snapshots.prepare(key, parent)
    print("made", key, flush=True)
    if number % 3 == 1:
        snapshots.commit(f"name {key}", key)
        print("committed", key, flush=True)
    elif number % 3 == 2:
        snapshots.remove(key)
        print("removed", key, flush=True)
    number += 1
"""


def killed(directory, run, lines):
    """What a process said that worked until it was killed, without warning, once it had said `lines` lines."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORK, str(directory), str(run)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    with process:
        said = [process.stdout.readline() for _ in range(lines)]
        process.send_signal(signal.SIGKILL)
        said += process.stdout.readlines()
        assert process.wait() == -signal.SIGKILL
    return [line.split() for line in said if line.endswith("\n")]


def check(said, found):
    """What was said is so."""
    for key, what in said.items():
        if what == "made":
            assert found[key] == Kind.ACTIVE
        elif what == "committed":
            assert found[f"name {key}"] == Kind.COMMITTED
        else:
            assert key not in found


def test_a_process_that_is_killed_breaks_nothing(tmp_path, mounted):
    said = {}
    for run in range(5):
        lines = killed(tmp_path, run, 40 + 7 * run)
        said.update((key, what) for what, key in lines)
        if lines[-1][0] == "made":
            del said[lines[-1][1]]  # it may have gone a step further than it had time to say
        store = Store(str(tmp_path / "metadata"), sync=False)
        try:
            snapshots = Overlay(str(tmp_path / "root"), BucketKV(store, "snapshots"))
            found = {info.name: info.kind for info in snapshots.list()}
            check(said, found)
            active = [name for name, kind in found.items() if kind == Kind.ACTIVE]
            for name in active:
                assert upper(snapshots.mounts(name)).is_dir()
            snapshots.cleanup()
            assert len(os.listdir(tmp_path / "root/snapshots")) == len(found)
            assert os.listdir(tmp_path / "root/trash") == []
            with mounted(snapshots.mounts(active[-1])) as path:
                assert os.listdir(path) == []
        finally:
            store.close()
