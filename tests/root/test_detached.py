"""Mounts made by whichever calls the kernel has: by the old one aside, through id maps, from loop devices, and aufs,
which has no kernel here, by what would be called."""

import errno
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from daemon.kit import mounting, placing, steps
from pyx import mount as calls
from spec import errors
from spec.types import Mount

pytestmark = pytest.mark.root

MAP = ("uidmap=0:100000:65536", "gidmap=0:200000:65536")


@pytest.fixture
def layers(tmp_path, monkeypatch):
    """What passes is made in "passing", so that whatever else the machine mounts meanwhile is told apart."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "passing"))
    for name in ("one/folder", "two", "upper", "work", "target", "passing"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "one/a").write_text("1")
    (tmp_path / "two/b").write_text("2")
    return tmp_path


@pytest.fixture
def before_one_by_one(monkeypatch):
    """A kernel whose overlay takes all layers as one string."""
    monkeypatch.setattr(placing, "_appends_layers", lambda: False)


def overlay(layers, *more):
    options = (f"lowerdir={layers}/two:{layers}/one", f"upperdir={layers}/upper", f"workdir={layers}/work", *more)
    return [Mount(type="overlay", source="overlay", options=options)]


def absent(*_, **__):
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def mounts_below(path):
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(path) in line]


def test_an_overlay_of_the_old_call_is_detached_too(layers, before_one_by_one):
    with mounting.opened(overlay(layers)) as root:
        assert sorted(os.listdir(root)) == ["a", "b", "folder"]
        os.close(os.open("c", os.O_CREAT | os.O_WRONLY, dir_fd=root))
        assert mounts_below(layers) == []
    assert (layers / "upper/c").exists()
    mounting.attach(overlay(layers), str(layers / "target"))
    assert (layers / "target/c").exists()
    mounting.detach(str(layers / "target"))


def test_a_kernel_knows_whether_layers_go_one_by_one():
    placing._appends_layers.cache_clear()
    release = tuple(map(int, os.uname().release.split("-")[0].split(".")[:2]))
    assert placing._appends_layers() == (release >= (6, 7))


@pytest.mark.parametrize("names", [lambda at: f"{at}", lambda at: f"with,comma{at}", lambda at: rf"with\:colon{at}"])
def test_more_layers_than_a_page_names(tmp_path, before_one_by_one, names):
    base = tmp_path / ("n" * 100)
    lowers = [f"{base}/{names(number)}" for number in range(200)]
    for number, lower in enumerate(lowers):
        path = Path(lower.replace("\\", ""))
        path.mkdir(parents=True)
        (path / f"file {number}").touch()
    assert sum(map(len, lowers)) > 2 * steps.PAGE
    with mounting.opened([Mount(type="overlay", options=(f"lowerdir={':'.join(lowers)}",))]) as root:
        assert len(os.listdir(root)) == 200


def test_more_than_a_page_after_all_is_refused_and_not_cut(tmp_path, before_one_by_one):
    lowers = [f"{tmp_path}/{number}/{'n' * 200}" for number in range(60)]
    for lower in lowers:
        os.makedirs(lower)
    with pytest.raises(errors.Error, match=r"[Aa]rgument list too long"):
        mounting.detached([Mount(type="overlay", options=(f"lowerdir={':'.join(lowers)}",))])


def test_names_longer_than_the_new_call_takes(tmp_path):
    base = tmp_path / ("n" * 200) / ("m" * 200)
    for name in ("one", "two"):
        (base / name).mkdir(parents=True)
        (base / name / f"in {name}").touch()
    with mounting.opened([Mount(type="overlay", options=(f"lowerdir={base}/one:{base}/two",))]) as root:
        assert sorted(os.listdir(root)) == ["in one", "in two"]


def test_a_colon_in_the_name_of_a_layer(tmp_path):
    for name in ("with:colon", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"in {name}").touch()
    lowers = rf"lowerdir={tmp_path}/with\:colon:{tmp_path}/other"
    with mounting.opened([Mount(type="overlay", options=(lowers,))]) as fd:
        assert sorted(os.listdir(fd)) == ["in other", "in with:colon"]


def test_a_bind_before_attributes_could_be_set(layers, monkeypatch):
    monkeypatch.setattr(calls, "mount_setattr", absent)
    monkeypatch.setattr(placing, "_changes_attributes", lambda: False)
    bind = Mount(type="bind", source=str(layers / "one"), options=("rbind", "ro", "nosuid"))
    with mounting.opened([bind]) as root:
        with pytest.raises(OSError, match="Read-only"):
            os.open("x", os.O_CREAT | os.O_WRONLY, dir_fd=root)
        assert os.fstatvfs(root).f_flag & os.ST_NOSUID
        assert mounts_below(layers) == []
    with pytest.raises(errors.Unimplemented, match="id map"):
        mounting.detached([Mount(type="bind", source=str(layers / "one"), options=("rbind", *MAP))])


def test_volatile_is_not_for_passing_mounts(layers):
    for _ in range(2):  # a second mount of what was volatile would fail
        with mounting.opened(overlay(layers, "volatile")) as root:
            assert "a" in os.listdir(root)
    assert not (layers / "work/work/incompat").exists()


@pytest.mark.parametrize("link", ["/folder", "folder", "../../folder"])
def test_a_target_is_looked_up_inside(layers, link):
    (layers / "one/link").symlink_to(link)
    mounts = [*overlay(layers), Mount(type="tmpfs", source="tmpfs", target="/link", options=("size=4k",))]
    with mounting.opened(mounts) as root:
        assert os.statvfs(f"/proc/self/fd/{root}/folder").f_blocks == 1


def test_a_target_outside_is_not_there(layers):
    (layers / "one/link").symlink_to(layers / "target")
    mounts = [*overlay(layers), Mount(type="tmpfs", source="tmpfs", target="/link")]
    with pytest.raises(errors.NotFound, match="tmpfs on /link"):
        mounting.detached(mounts)


def test_a_later_mount_at_the_same_place_covers(layers):
    mounts = [Mount(type="tmpfs"), Mount(type="bind", source=str(layers / "one"), options=("bind",))]
    mounting.attach(mounts, str(layers / "target"))
    assert (layers / "target/a").exists()
    mounting.detach(str(layers / "target"))
    assert not mounting.is_mount(str(layers / "target"))


def test_a_failure_between_leaves_nothing(layers):
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(errors.NotFound):
        mounting.attach([*overlay(layers), Mount(type="bind", source="/nowhere")], str(layers / "target"))
    assert set(os.listdir("/proc/self/fd")) == before
    assert mounts_below(layers) == os.listdir(layers / "passing") == []


def test_a_failure_between_by_the_old_call_alone(layers, monkeypatch):
    for name in ("fsopen", "open_tree"):
        monkeypatch.setattr(calls, name, absent)
    with pytest.raises(errors.NotFound):
        mounting.attach([Mount(type="tmpfs"), Mount(type="bind", source="/nowhere")], str(layers / "target"))
    assert mounts_below(layers) == []


def test_a_passing_mount_that_cannot_be_unmounted_loses_nothing(layers, monkeypatch):
    monkeypatch.setattr(calls, "fsopen", absent)
    monkeypatch.setattr(calls, "open_tree", absent)
    stuck = []

    def busy(target, flags):
        stuck.append(target)
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    bind = Mount(type="bind", source=str(layers / "one"), options=("rbind",))
    with monkeypatch.context() as patch:
        patch.setattr(calls, "umount2", busy)
        with pytest.raises((errors.Unavailable, OSError)), mounting.opened([bind]):
            pass
    assert (layers / "one/a").exists()
    mounting.detach(stuck[0])
    os.rmdir(stuck[0])


def test_a_bind_through_a_map(layers):
    os.chown(layers / "one/a", 5, 6)
    with mounting.opened([Mount(type="bind", source=str(layers / "one"), options=("rbind", *MAP))]) as root:
        info = os.stat("a", dir_fd=root)
        assert (info.st_uid, info.st_gid) == (100005, 200006)
    assert (layers / "one/a").stat().st_uid == 5


@pytest.mark.parametrize("fixture", ["", "before_one_by_one"])
def test_an_overlay_over_mapped_layers(layers, request, fixture):
    if fixture:
        request.getfixturevalue(fixture)
    os.chown(layers / "one/a", 5, 6)
    with mounting.opened(overlay(layers, *MAP)) as root:
        info = os.stat("a", dir_fd=root)
        assert (info.st_uid, info.st_gid) == (100005, 200006)
        assert (layers / "one/a").stat().st_uid == 5
        os.utime("a", dir_fd=root)
        assert (layers / "upper/a").stat().st_uid == 100005
        assert mounts_below(layers) == []


@pytest.mark.parametrize("options", [MAP[:1], ("uidmap=0:1", MAP[1]), ("uidmap=a:b:c", MAP[1]), ("uidmap=", MAP[1])])
def test_maps_that_are_none(options):
    with pytest.raises(errors.InvalidArgument, match="mounting bind /a"):
        steps.plan([Mount(type="bind", source="/a", options=options)])


@pytest.mark.skipif(not shutil.which("mkfs.ext4"), reason="needs mkfs.ext4")
def test_an_image_behind_a_loop_device(tmp_path):
    image = tmp_path / "image"
    image.touch()
    os.truncate(image, 4 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    with mounting.opened([Mount(type="ext4", source=str(image), options=("loop",))]) as root:
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=root))
    with mounting.opened([Mount(type="ext4", source=str(image), options=("loop", "ro"))]) as root:
        assert "file" in os.listdir(root)
        with pytest.raises(OSError, match="Read-only"):
            os.open("other", os.O_CREAT | os.O_WRONLY, dir_fd=root)
    with pytest.raises(errors.NotFound, match="nosuch"):
        mounting.detached([Mount(type="ext4", source=str(tmp_path / "nosuch"), options=("loop",))])
    backing = [path.read_text() for path in Path("/sys/block").glob("loop*/loop/backing_file")]
    assert not [name for name in backing if str(image) in name]


def test_what_there_is_nothing_to_change_of():
    with pytest.raises(errors.InvalidArgument, match="remount"):
        mounting.detached([Mount(type="tmpfs", options=("remount", "ro"))])
    with pytest.raises(errors.InvalidArgument, match="target"):
        mounting.detached([Mount(type="tmpfs", target="/a")])
    with pytest.raises(ValueError, match="null byte"):
        mounting.detached([Mount(type="bind", source="/a\0b")])


def branches(number):
    lowers = ":".join(f"/layers/{at:032}=ro+wh" for at in range(number))
    return Mount(type="aufs", source="none", options=(f"br:/upper=rw:{lowers}", "dio", "xino=/dev/shm/x"))


def test_a_few_branches_are_one_call():
    (step,) = steps.plan([branches(3)])
    assert step.data == f"{branches(3).options[0]},dio,xino=/dev/shm/x"


def test_branches_past_a_page_are_appended():
    first, *others = steps.plan([branches(300)])
    assert len(first.data) < steps.PAGE
    assert len(first.data) + len(":/layers/=ro+wh") + 32 >= steps.PAGE  # not one more would have fitted
    assert first.data.endswith(",dio,xino=/dev/shm/x")
    assert not first.flags & steps.MS_REMOUNT
    given = first.data.split(",")[0].removeprefix("br:").split(":")
    for step in others:
        assert step.flags == steps.MS_REMOUNT
        assert len(step.data) < steps.PAGE
        given += [word.removeprefix("append:") for word in step.data.split(",")]
    assert all(len(step.data) + len(",append:/layers/=ro+wh") + 32 >= steps.PAGE for step in others[:-1])
    assert given == branches(300).options[0].removeprefix("br:").split(":")


def test_aufs_is_mounted_by_the_old_call(layers, monkeypatch):
    made = []
    mount = calls.mount

    def recorded(source, target, fstype, flags, data=""):
        if fstype != "aufs":
            return mount(source, target, fstype, flags, data)
        made.append((source, target, flags, data))
        return None if flags & steps.MS_REMOUNT else mount("tmpfs", target, "tmpfs", flags)

    monkeypatch.setattr(calls, "mount", recorded)
    os.close(mounting.detached([branches(300)]))
    planned = steps.plan([branches(300)])
    assert len({target for _, target, _, _ in made}) == 1
    assert [(source, flags, data) for source, _, flags, data in made] == [
        ("none", step.flags, step.data) for step in planned
    ]


def test_a_mount_is_known_by_its_root(layers):
    target = layers / "target"
    assert mounting.is_mount("/")
    assert not mounting.is_mount(str(target))
    mounting.attach([Mount(type="bind", source=str(target), options=("bind",))], str(target))
    (layers / "link").symlink_to(target)
    assert mounting.is_mount(str(target))
    assert not mounting.is_mount(str(layers / "link"))
    mounting.detach(str(target))
    with pytest.raises(FileNotFoundError):
        mounting.is_mount(str(layers / "nosuch"))
