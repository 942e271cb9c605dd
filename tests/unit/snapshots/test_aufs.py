"""The mounts that aufs snapshots come to, as values: how they fare is for a kernel that has aufs (tests/vm)."""

import os
import stat

import pytest

from daemon.kit import steps
from daemon.kit.dictkv import DictKV
from daemon.snapshots import aufs
from daemon.snapshots.aufs import Aufs
from spec import errors
from spec.types import Mount


@pytest.fixture
def offered(tmp_path, monkeypatch):
    """A kernel that says it has aufs."""
    path = tmp_path / "filesystems"
    path.write_text("nodev\tproc\n\text4\nnodev\taufs\n")
    monkeypatch.setattr(aufs, "FILESYSTEMS", str(path))


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


@pytest.fixture
def make(offered, root):
    return lambda *options: Aufs(str(root), DictKV(), mount_options=options)


@pytest.fixture
def snapshots(make):
    return make()


def stack(snapshots, layers):
    """The name of the topmost of so many layers."""
    parent = ""
    for number in range(layers):
        snapshots.prepare(f"key {number}", parent)
        parent = f"layer {number}"
        snapshots.commit(parent, f"key {number}")
    return parent


@pytest.mark.parametrize("listed", ["", "\text4\n", "nodev\taufsx\n", "nodev\tnaufs\n"])
def test_a_kernel_without_it(tmp_path, monkeypatch, listed):
    path = tmp_path / "filesystems"
    path.write_text(listed)
    monkeypatch.setattr(aufs, "FILESYSTEMS", str(path))
    with pytest.raises(errors.Unimplemented, match="the kernel has none"):
        Aufs(str(tmp_path / "root"), DictKV())
    assert not (tmp_path / "root").exists()


def test_this_kernel(tmp_path):
    """It says of itself what the kernel says."""
    with open("/proc/filesystems") as file:
        has = "\taufs\n" in file.read()
    try:
        Aufs(str(tmp_path / "root"), DictKV()).close()
    except errors.Unimplemented:
        assert not has
    else:
        assert has


def test_lone_layers_are_bound(snapshots, root):
    def bind(id, *options):
        return (Mount(type="bind", source=str(root / f"snapshots/{id}/fs"), options=options),)

    assert snapshots.prepare("key") == bind(1, "rw", "rbind")
    assert snapshots.view("nothing") == bind(2, "ro", "rbind")
    snapshots.commit("name", "key")
    assert snapshots.view("view", "name") == bind(1, "ro", "rbind")


@pytest.mark.parametrize("layers", [1, 2, 50, 500])
def test_an_active_one_is_a_branch_above_its_parents(snapshots, root, layers):
    (mount,) = snapshots.prepare("key", stack(snapshots, layers))
    lowers = "".join(f":{root}/snapshots/{id}/fs=ro+wh" for id in range(layers, 0, -1))
    assert (mount.type, mount.source, mount.target) == ("aufs", "none", "")
    branches, dio, dirperm1, xino = mount.options
    assert branches == f"br:{root}/snapshots/{layers + 1}/fs=rw{lowers}"
    assert (dio, dirperm1) == ("dio", "dirperm1")
    assert xino.startswith("xino=/dev/shm/holdd-")
    assert xino.endswith(f"-{layers + 1}.xino")


@pytest.mark.parametrize("layers", [2, 50, 500])
def test_a_view_has_no_branch_to_write_to(snapshots, root, layers):
    (mount,) = snapshots.view("view", stack(snapshots, layers))
    assert mount.options[0] == "ro"
    branches = mount.options[1].removeprefix("br:").split(":")
    assert branches == [f"{root}/snapshots/{id}/fs=ro+wh" for id in range(layers, 0, -1)]


@pytest.mark.parametrize("method", ["prepare", "view"])
@pytest.mark.parametrize("layers", [2, 50, 500])
def test_the_calls_they_come_to(snapshots, method, layers):
    """Whatever does not fit in a page is appended, in order, and nothing is lost or said twice."""
    (mount,) = getattr(snapshots, method)("key", stack(snapshots, layers))
    first, *others = steps.plan([mount])
    flags = steps.MS_RDONLY if method == "view" else 0
    assert (first.type, first.source, first.flags) == ("aufs", "none", flags)
    assert [step.flags for step in others] == [flags | steps.MS_REMOUNT] * len(others)
    assert max(len(step.data) for step in (first, *others)) < steps.PAGE
    head, *options = first.data.split(",")
    said = head.removeprefix("br:").split(":")
    for step in others:
        said += [word.removeprefix("append:") for word in step.data.split(",")]
    (whole,) = (option for option in mount.options if option.startswith("br:"))
    assert said == whole.removeprefix("br:").split(":")
    assert options == [option for option in mount.options if option != whole and option != "ro"]
    assert bool(others) == (len(",".join([whole, *options])) >= steps.PAGE)


def test_what_the_configuration_adds(make):
    snapshots = make("noxino", "xino=/tmp/x", "udba=none", "dirperm1")
    (mount,) = snapshots.prepare("key", stack(snapshots, 1))
    assert mount.options[1:] == ("dio", "noxino", "xino=/tmp/x", "udba=none", "dirperm1")


def test_no_two_unions_share_a_file_of_inode_numbers(offered, tmp_path):
    made = [Aufs(str(tmp_path / name), DictKV()) for name in ("one", "two")]
    found = {
        each.prepare(key, parent)[0].options[-1]
        for each in made
        for parent in [stack(each, 1)]
        for key in ("a", "b")
    }
    assert len(found) == 4


def test_a_layers_root_belongs_to_whom_its_parents_does(snapshots, root):
    snapshots.prepare("key")
    os.chmod(root / "snapshots/1/fs", 0o2750)
    snapshots.commit("name", "key")
    snapshots.prepare("child", "name")
    assert stat.S_IMODE((root / "snapshots/2/fs").stat().st_mode) == 0o2750


@pytest.mark.parametrize("name", ["a:b", "a,b", "a=b"])
def test_a_root_that_options_cannot_name(offered, tmp_path, name):
    with pytest.raises(errors.InvalidArgument, match="cannot name"):
        Aufs(str(tmp_path / name), DictKV())
