"""The mounts that overlay plans, and what its directories look like; nothing is mounted here."""

import os
import stat

import pytest

from daemon.kit.dictkv import DictKV
from daemon.snapshots import overlay as module
from daemon.snapshots.overlay import Overlay, OverlayConfig
from spec.types import Mount


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


@pytest.fixture(params=[True, False], ids=["index", "no index"])
def auto(request, tmp_path, monkeypatch):
    """The options that are added by themselves on a kernel with and without the index parameter."""
    parameter = tmp_path / "index"
    if request.param:
        parameter.write_text("N")
    monkeypatch.setattr(module, "INDEX", str(parameter))
    return ("index=off",) if request.param else ()


def stack(snapshots, depth):
    parent = ""
    for number in range(depth):
        snapshots.prepare(f"key {number}", parent)
        parent = f"layer {number}"
        snapshots.commit(parent, f"key {number}")
    return parent


def test_without_a_parent_its_own_directory_is_bound(root, auto):
    snapshots = Overlay(str(root), DictKV())
    own = str(root / "snapshots/1/fs")
    assert snapshots.prepare("key") == (Mount(type="bind", source=own, options=("rw", "rbind")),)
    assert snapshots.mounts("key") == snapshots.mounts("key")
    own = str(root / "snapshots/2/fs")
    assert snapshots.view("view") == (Mount(type="bind", source=own, options=("ro", "rbind")),)


def test_a_view_of_one_layer_binds_it(root, auto):
    snapshots = Overlay(str(root), DictKV())
    view = snapshots.view("view", stack(snapshots, 1))
    assert view == (Mount(type="bind", source=str(root / "snapshots/1/fs"), options=("ro", "rbind")),)


def test_a_view_of_a_stack_is_an_overlay_without_an_upper(root, auto):
    snapshots = Overlay(str(root), DictKV())
    (mount,) = snapshots.view("view", stack(snapshots, 3))
    lowers = ":".join(str(root / f"snapshots/{id}/fs") for id in (3, 2, 1))
    assert mount == Mount(type="overlay", source="overlay", options=(f"lowerdir={lowers}", *auto))


def test_an_active_one_has_upper_and_work_and_the_newest_lower_first(root, auto):
    snapshots = Overlay(str(root), DictKV())
    (mount,) = snapshots.prepare("key", stack(snapshots, 2))
    own = root / "snapshots/3"
    lowers = f"{root}/snapshots/2/fs:{root}/snapshots/1/fs"
    assert mount == Mount(
        type="overlay",
        source="overlay",
        options=(f"workdir={own}/work", f"upperdir={own}/fs", f"lowerdir={lowers}", *auto),
    )
    assert snapshots.mounts("key") == (mount,)


@pytest.mark.parametrize(
    ("given", "last"),
    [(("metacopy=on",), ("index=off", "metacopy=on")), (("index=on", "volatile"), ("index=on", "volatile"))],
    ids=str,
)
def test_configured_options_come_last(root, tmp_path, monkeypatch, given, last):
    monkeypatch.setattr(module, "INDEX", str(tmp_path))
    snapshots = Overlay(str(root), DictKV(), OverlayConfig(mount_options=given))
    (mount,) = snapshots.prepare("key", stack(snapshots, 1))
    assert mount.options[3:] == last
    assert snapshots.prepare("lone")[0].options == ("rw", "rbind")


def test_only_an_active_one_has_a_work_directory(root):
    snapshots = Overlay(str(root), DictKV())
    snapshots.prepare("key")
    snapshots.view("view")
    assert sorted(os.listdir(root / "snapshots/1")) == ["fs", "work"]
    assert os.listdir(root / "snapshots/2") == ["fs"]


@pytest.mark.parametrize("umask", [0, 0o022, 0o077], ids=oct)
def test_modes_whatever_the_umask(root, umask):
    before = os.umask(umask)
    try:
        snapshots = Overlay(str(root), DictKV())
        snapshots.prepare("key")
    finally:
        os.umask(before)
    assert stat.S_IMODE((root / "snapshots/1").stat().st_mode) == 0o700
    assert stat.S_IMODE((root / "snapshots/1/fs").stat().st_mode) == 0o755


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
def test_a_layers_root_belongs_to_whom_its_parents_does(root):
    snapshots = Overlay(str(root), DictKV())
    (mount,) = snapshots.prepare("key")
    os.chown(mount.source, 1000, 2000)
    os.chmod(mount.source, 0o2750)
    snapshots.commit("name", "key")
    snapshots.prepare("above", "name")
    snapshots.view("view", "name")
    for id in (2, 3):
        found = (root / f"snapshots/{id}/fs").stat()
        assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1000, 2000, 0o2750)


def test_a_directory_never_moves(root):
    """What is committed stays where it was prepared: mounts of it stay good."""
    snapshots = Overlay(str(root), DictKV())
    (mount,) = snapshots.prepare("key")
    inode = os.stat(mount.source).st_ino
    snapshots.commit("name", "key")
    assert snapshots.view("view", "name")[0].source == mount.source
    assert os.stat(mount.source).st_ino == inode
