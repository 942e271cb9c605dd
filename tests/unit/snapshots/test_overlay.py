"""The mounts that overlay plans, and what its directories look like; nothing is mounted here."""

import os
import stat

import pytest

from daemon.kit.dictkv import DictKV
from daemon.snapshots import probes
from daemon.snapshots.overlay import Overlay
from spec import errors, names
from spec.records import SnapshotInfo
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
    monkeypatch.setattr(probes, "INDEX", str(parameter))
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
    monkeypatch.setattr(probes, "INDEX", str(tmp_path))
    snapshots = Overlay(str(root), DictKV(), mount_options=given)
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


MAPS = {names.UID_MAPPING: "0:1000:65536", names.GID_MAPPING: "0:2000:10,10:5000:5"}
MAPPED = ("uidmap=0:1000:65536", "gidmap=0:2000:10,10:5000:5")


@pytest.fixture
def can(monkeypatch):
    """`can(maps_ids=True)`: what the host is said to be able to."""

    def say(**answers):
        for name, answer in answers.items():
            monkeypatch.setattr(probes.Probes, name, answer)

    return say


@pytest.mark.parametrize(
    ("answers", "slow_chown", "capabilities"),
    [
        ({"maps_ids": True, "in_user_namespace": False}, False, {"rebase", "remap-ids", "only-remap-ids"}),
        ({"maps_ids": False, "in_user_namespace": False}, False, {"rebase", "only-remap-ids"}),
        ({"maps_ids": False, "in_user_namespace": False}, True, {"rebase"}),
        ({"maps_ids": True, "in_user_namespace": True}, True, {"remap-ids"}),
    ],
)
def test_capabilities(root, can, answers, slow_chown, capabilities):
    can(**answers)
    assert Overlay(str(root), DictKV(), slow_chown=slow_chown).capabilities == capabilities


def test_marks_are_kept_in_user_attributes_where_they_must_be(root, can):
    can(wants_user_xattr=True, has_index=True)
    snapshots = Overlay(str(root), DictKV())
    assert snapshots.prepare("key", stack(snapshots, 1))[0].options[3:] == ("index=off", "userxattr")
    snapshots = Overlay(str(root), snapshots._tree._kv, mount_options=("userxattr", "index=off"))
    assert snapshots.mounts("key")[0].options[3:] == ("userxattr", "index=off")


def test_maps_are_of_the_layers_below(root, can):
    can(maps_ids=True)
    snapshots = Overlay(str(root), DictKV())
    parent = stack(snapshots, 2)
    assert snapshots.prepare("key", parent, MAPS)[0].options[-2:] == MAPPED
    assert snapshots.view("view", parent, MAPS)[0].options[-2:] == MAPPED
    assert snapshots.view("low", "layer 0", MAPS)[0].options == ("ro", "rbind", *MAPPED)
    assert snapshots.prepare("lone", "", MAPS)[0].options == ("rw", "rbind")
    assert snapshots.mounts("key")[0].options[-2:] == MAPPED


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
def test_a_mapped_layers_root_is_its_roots(root, can):
    can(maps_ids=True)
    snapshots = Overlay(str(root), DictKV())
    snapshots.prepare("key", stack(snapshots, 1), MAPS)
    found = (root / "snapshots/2/fs").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1000, 2000, 0o755)


@pytest.mark.parametrize(
    "labels",
    [
        {names.UID_MAPPING: "0:1:2"},
        {**MAPS, names.UID_MAPPING: "0:1"},
        {**MAPS, names.UID_MAPPING: "0:1:x"},
        {**MAPS, names.UID_MAPPING: "0:1:0"},
        {**MAPS, names.UID_MAPPING: "0:1:4294967296"},
        {**MAPS, names.GID_MAPPING: "1:1000:10"},
    ],
    ids=str,
)
def test_maps_that_are_none(root, can, labels):
    can(maps_ids=True)
    snapshots = Overlay(str(root), DictKV())
    with pytest.raises(errors.InvalidArgument, match="id map"):
        snapshots.prepare("key", "", labels)
    assert list(snapshots.list()) == os.listdir(root / "snapshots") == []


def test_a_host_that_cannot_map(root, can):
    can(maps_ids=False)
    with pytest.raises(errors.Unimplemented, match="key"):
        Overlay(str(root), DictKV()).prepare("key", "", MAPS)
    snapshots = Overlay(str(root), DictKV(), slow_chown=True)
    assert not {*MAPPED} & {*snapshots.prepare("key", stack(snapshots, 1), MAPS)[0].options}


def test_a_label_tells_the_upper_directory(root):
    snapshots = Overlay(str(root), DictKV(), upperdir_label=True)
    snapshots.prepare("key", "", {"a": "1"})
    labels = {"a": "1", names.UPPER_DIRECTORY: str(root / "snapshots/1/fs")}
    assert snapshots.stat("key").labels == labels
    assert [info.labels for info in snapshots.list()] == [labels]
    labels["a"] = "2"
    assert snapshots.update(SnapshotInfo(name="key", labels={"a": "2"}), ["labels.a"]).labels == labels
    assert Overlay(str(root), snapshots._tree._kv).stat("key").labels == {"a": "2"}


def test_volatile_is_for_active_stacks_that_ask_for_it(root, can):
    can(takes_volatile=True)
    snapshots = Overlay(str(root), DictKV())
    parent = stack(snapshots, 2)
    asked = {names.VOLATILE: "true"}
    assert snapshots.prepare("key", parent, asked)[0].options[-1] == "volatile"
    for mounts in (
        snapshots.prepare("other", parent),
        snapshots.view("view", parent, asked),
        snapshots.prepare("lone", "", asked),
    ):
        assert "volatile" not in mounts[0].options
    can(takes_volatile=False)
    assert "volatile" not in Overlay(str(root), snapshots._tree._kv).mounts("key")[0].options


def test_a_filesystem_that_names_no_types(root, can):
    can(names_types=False)
    with pytest.raises(errors.FailedPrecondition, match="ftype=1"):
        Overlay(str(root), DictKV())
