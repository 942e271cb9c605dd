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
from daemon.snapshots.overlay import Overlay
from pyx import proc
from spec import errors, names
from spec.records import Kind
from tests.disks import MIB, disk, fill

pytestmark = pytest.mark.root

REPOSITORY = Path(__file__).parents[2]


def test_a_full_disk_is_no_answer(tmp_path):
    """What could not be tried for want of room is tried again once there is some."""
    with disk(tmp_path, "ext4", 32 * MIB) as place:
        (place / "root").mkdir()
        wanted = Overlay(str(place / "root"), DictKV()).capabilities
        assert "remap-ids" in wanted, "this kernel cannot show it"
        filler = fill(place)
        snapshots = Overlay(str(place / "root"), DictKV())
        assert snapshots.capabilities == wanted - {"remap-ids"}
        assert not snapshots._probes.takes_volatile
        filler.unlink()
        assert snapshots.capabilities == wanted
        assert snapshots._probes.takes_volatile


def test_what_the_kernel_cannot_do_is_asked_once(tmp_path, monkeypatch):
    snapshots = Overlay(str(tmp_path / "root"), DictKV())
    assert not snapshots._probes._mounts("nosuch")
    monkeypatch.setattr("daemon.snapshots.probes.mounting.detached", None)
    assert not snapshots._probes._mounts("nosuch")


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
    snapshots = Overlay(str(tmp_path / "root"), DictKV(), mount_options=("metacopy=on", "redirect_dir=on"))
    snapshots.prepare("base")
    snapshots.commit("name", "base")
    with mounted(snapshots.prepare("key", "name")) as path:
        found = options_of(path)
    assert {"metacopy=on", "redirect_dir=on"} <= set(found)
    assert "index=on" not in found


def test_directories_move_with_redirects(tmp_path, mounted):
    snapshots = Overlay(str(tmp_path / "root"), DictKV(), mount_options=("redirect_dir=on",))
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


MAPS = {names.UID_MAPPING: "0:100000:65536", names.GID_MAPPING: "0:200000:65536"}


def seen_inside(path):
    """Owner and group of each file below `path`, in a user namespace of these maps."""
    users = proc.user_namespace("0 100000 65536\n", "0 200000 65536\n")
    try:
        command = ("nsenter", f"--user=/proc/self/fd/{users}", "find", ".", "-printf", "%P %U %G\n")
        said = subprocess.run(command, cwd=path, pass_fds=(users,), capture_output=True, text=True, check=True).stdout
    finally:
        os.close(users)
    return {name: (int(user), int(group)) for name, user, group in (line.split(" ") for line in said.splitlines())}


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("method", ["prepare", "view"])
def test_owners_are_seen_through_the_maps_of_a_snapshots_labels(snapshots, mounted, depth, method):
    """As containerd's remapped snapshots: the layers stay whose they are, and not one file is changed for it."""
    assert "remap-ids" in snapshots.capabilities
    parent = ""
    for number in range(depth):
        with mounted(snapshots.prepare("key", parent)) as path:
            (path / f"root-{number}").touch()
            (path / f"other-{number}").touch()
            os.chown(path / f"other-{number}", 7, 8)
        parent = f"layer {number}"
        snapshots.commit(parent, "key")
    with mounted(getattr(snapshots, method)("mapped", parent, MAPS)) as path:
        found = seen_inside(path)
        assert found.pop("") == (0, 0)
        expected = {f"root-{number}": (0, 0) for number in range(depth)}
        assert found == {**expected, **{f"other-{number}": (7, 8) for number in range(depth)}}
        if method == "prepare":
            (path / "new").touch()
            os.chown(path / "new", 100003, 200004)
            os.utime(path / "other-0")  # copied up
            assert seen_inside(path) == {"": (0, 0), **found, "new": (3, 4)}
    with mounted(snapshots.view("plain", parent)) as path:
        assert ((path / "other-0").stat().st_uid, path.stat().st_uid) == (7, 0)


def test_never_syncing_is_asked_for_by_label(snapshots, mounted):
    snapshots.prepare("base")
    snapshots.commit("name", "base")
    mounts = snapshots.prepare("key", "name", {names.VOLATILE: "true"})
    with mounted(mounts) as path:
        assert "volatile" in " ".join(options_of(path))
        (path / "file").touch()
    with mounted(snapshots.prepare("other", "name")) as path:
        assert "volatile" not in " ".join(options_of(path))
    snapshots.remove("key")
    with mounted(snapshots.prepare("key", "name", {names.VOLATILE: "true"})) as path:
        assert os.listdir(path) == []


def test_more_layers_than_a_page_of_options_holds(snapshots, mounted):
    parent = ""
    for number in range(500):
        mounts = snapshots.prepare(f"key {number}", parent)
        source = upper(mounts) if mounts[0].type == "overlay" else Path(mounts[0].source)
        (source / f"file {number}").write_text("")
        parent = f"layer {number}"
        snapshots.commit(parent, f"key {number}")
    mounts = snapshots.prepare("key", parent)
    assert sum(map(len, mounts[0].options)) > 4096
    with mounted(mounts) as path:
        assert len(os.listdir(path)) == 500
        (path / "mine").write_text("")
    assert os.listdir(upper(mounts)) == ["mine"]


def test_the_space_of_what_is_removed_is_free(mounted, tmp_path):
    snapshots = Overlay(str(tmp_path / "root"), DictKV(), sync_remove=True)
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


IN_A_USER_NAMESPACE = """
import os, sys
from daemon.kit import mounting
from daemon.kit.dictkv import DictKV
from daemon.snapshots.overlay import Overlay
os.mkdir(sys.argv[1] + "/mounted")
snapshots = Overlay(sys.argv[1] + "/root", DictKV())
(base,) = snapshots.prepare("base")
os.makedirs(base.source + "/folder/inside")
open(base.source + "/file", "w").close()
snapshots.commit("name", "base")
mounts = snapshots.prepare("key", "name")
mounting.attach(mounts, sys.argv[1] + "/mounted")
os.unlink(sys.argv[1] + "/mounted/file")
os.rmdir(sys.argv[1] + "/mounted/folder/inside")
os.rmdir(sys.argv[1] + "/mounted/folder")
os.mkdir(sys.argv[1] + "/mounted/folder")
print(*sorted(snapshots.capabilities), *mounts[0].options[3:], *os.listdir(sys.argv[1] + "/mounted"))
"""


def test_inside_a_user_namespace(tmp_path):
    """Overlay's marks are there in attributes that root of a user namespace may write."""
    command = ("unshare", "--user", "--map-root-user", "--mount", sys.executable, "-c", IN_A_USER_NAMESPACE, tmp_path)
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stderr == ""
    words = done.stdout.split()
    assert "rebase" not in words
    assert words[-3:] == ["index=off", "userxattr", "folder"]
    upper = tmp_path / "root/snapshots/2/fs"
    assert os.getxattr(upper / "folder", "user.overlay.opaque") == b"y"
    assert (upper / "file").lstat().st_rdev == 0


def test_a_filesystem_that_names_no_types_is_refused(tmp_path):
    with disk(tmp_path, "ext4 without d_type") as place, pytest.raises(errors.FailedPrecondition, match="ftype=1"):
        Overlay(str(place / "root"), DictKV())
