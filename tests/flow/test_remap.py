"""Snapshots whose labels name id maps, on snapshotters that can map and on those that cannot."""

import os
import stat

import pytest

from daemon.flows import remap
from daemon.kit import mounting
from daemon.kit.dictkv import DictKV
from daemon.snapshots.native import Native
from daemon.snapshots.overlay import Overlay
from daemon.snapshots.probes import Probes
from spec import errors, names

pytestmark = pytest.mark.root

MAPS = {names.UID_MAPPING: "0:100000:1000", names.GID_MAPPING: "0:200000:1000"}
KINDS = {
    "native": lambda root: Native(root, DictKV()),
    "overlay": lambda root: Overlay(root, DictKV()),
    "overlay that cannot": lambda root: Overlay(root, DictKV(), slow_chown=True),
}


@pytest.fixture(params=KINDS)
def snapshots(request, tmp_path, monkeypatch):
    if request.param == "overlay that cannot":
        monkeypatch.setattr(Probes, "maps_ids", False)
    return KINDS[request.param](str(tmp_path / "root"))


@pytest.fixture
def base(snapshots):
    """A layer with a program of setuid root, and a file of user 7."""
    with mounting.opened(snapshots.prepare("key")) as root:
        os.mkdir("bin", 0o755, dir_fd=root)
        for name, owner, mode in (("bin/su", 0, 0o4755), ("bin/mine", 7, 0o600)):
            os.close(os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=root))
            path = f"/proc/self/fd/{root}/{name}"
            os.chown(path, owner, owner)
            os.chmod(path, mode)
    snapshots.commit("base", "key")
    return "base"


def seen(mounts):
    with mounting.opened(mounts) as root:
        infos = {name: os.stat(name, dir_fd=root) for name in (".", "bin", "bin/su", "bin/mine")}
    return {name: (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)) for name, info in infos.items()}


@pytest.mark.parametrize("again", [False, True])
def test_files_are_seen_as_others(snapshots, base, again):
    mounts = remap.prepare(snapshots, "key", base, MAPS)
    if again:
        mounts = snapshots.mounts("key")
    assert seen(mounts) == {
        ".": (100_000, 200_000, 0o755),
        "bin": (100_000, 200_000, 0o755),
        "bin/su": (100_000, 200_000, 0o4755),
        "bin/mine": (100_007, 200_007, 0o600),
    }
    assert seen(snapshots.view("view", base))["bin/mine"] == (7, 7, 0o600)


def test_without_labels_nothing_changes(snapshots, base):
    assert seen(remap.prepare(snapshots, "key", base, {}))["bin/su"] == (0, 0, 0o4755)
    assert seen(remap.view(snapshots, "view", base, {}))["bin/su"] == (0, 0, 0o4755)


def test_views(snapshots, base):
    if "remap-ids" in snapshots.capabilities:
        assert seen(remap.view(snapshots, "view", base, MAPS))["bin/mine"] == (100_007, 200_007, 0o600)
        return
    with pytest.raises(errors.Unimplemented, match="view"):
        remap.view(snapshots, "view", base, MAPS)
    assert [info.name for info in snapshots.list()] == ["base"]


def test_what_cannot_be_given_away_is_not_prepared(snapshots, base):
    if "remap-ids" in snapshots.capabilities:
        pytest.skip("there the kernel shows such an owner as nobody")
    maps = {names.UID_MAPPING: "0:100000:1", names.GID_MAPPING: "0:200000:1"}
    with pytest.raises(errors.InvalidArgument, match="bin/mine"):
        remap.prepare(snapshots, "key", base, maps)
    assert [info.name for info in snapshots.list()] == ["base"]


def test_a_host_that_cannot_map_changes_no_owners_unasked(tmp_path, monkeypatch):
    monkeypatch.setattr(Probes, "maps_ids", False)
    snapshots = Overlay(str(tmp_path / "root"), DictKV())
    for call in (remap.prepare, remap.view):
        with pytest.raises(errors.Unimplemented, match="key"):
            call(snapshots, "key", "", MAPS)
    assert list(snapshots.list()) == []
