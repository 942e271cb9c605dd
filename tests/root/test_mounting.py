"""Mounts as plans and as the kernel sees them: detached, attached, and by the old call."""

import errno
import os
from pathlib import Path

import pytest

from daemon.kit import mounting, steps
from pyx import mount as calls
from spec import errors
from spec.types import Mount

pytestmark = pytest.mark.root


@pytest.fixture
def layers(tmp_path):
    for name in ("one", "two", "upper", "work", "target"):
        (tmp_path / name).mkdir()
    (tmp_path / "one/a").write_text("1")
    (tmp_path / "two/b").write_text("2")
    return tmp_path


def overlay(layers, *more):
    options = (f"lowerdir={layers}/two:{layers}/one", f"upperdir={layers}/upper", f"workdir={layers}/work", *more)
    return [Mount(type="overlay", source="overlay", options=options)]


def mounted_at(path):
    return [line for line in Path("/proc/self/mounts").read_text().splitlines() if f" {path} " in line]


def test_a_plan_is_a_value():
    (step,) = steps.plan([Mount(type="overlay", options=("ro", "nosuid", "lowerdir=/a:/b", "volatile"))])
    assert step.flags == steps.MS_RDONLY | steps.MS_NOSUID
    assert step.parameters == (("lowerdir", "/a:/b"), ("volatile", ""))
    (step,) = steps.plan([Mount(type="bind", source="/a", options=("rbind", "ro", "rw"))])
    assert step.binds
    assert step.attributes == 0
    with pytest.raises(errors.InvalidArgument, match=r"X-containerd\.mkdir"):
        steps.plan([Mount(type="bind", source="/a", options=("X-containerd.mkdir=1",))])


def test_a_detached_overlay_is_seen_by_nobody(layers):
    before = Path("/proc/self/mountinfo").read_text()
    with mounting.opened(overlay(layers)) as root:
        assert sorted(os.listdir(root)) == ["a", "b"]
        os.close(os.open("c", os.O_CREAT | os.O_WRONLY, dir_fd=root))
        assert Path("/proc/self/mountinfo").read_text() == before
    assert (layers / "upper/c").exists()


def test_a_bind_that_cannot_be_written(layers):
    with mounting.opened([Mount(type="bind", source=str(layers / "one"), options=("rbind", "ro"))]) as root:
        with pytest.raises(OSError, match="Read-only"):
            os.open("x", os.O_CREAT | os.O_WRONLY, dir_fd=root)
        assert os.listdir(root) == ["a"]


def test_mounts_below_the_first(layers):
    mounts = [*overlay(layers), Mount(type="tmpfs", source="tmpfs", target="/a-folder", options=("size=4k",))]
    (layers / "one/a-folder").mkdir()
    with mounting.opened(mounts) as root:
        assert os.statvfs(f"/proc/self/fd/{root}/a-folder").f_blocks == 1


def test_five_hundred_layers(tmp_path):
    for number in range(500):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / f"f{number}").touch()
    lowers = ":".join(str(tmp_path / str(number)) for number in range(500))
    with mounting.opened([Mount(type="overlay", options=(f"lowerdir={lowers}",))]) as root:
        assert len(os.listdir(root)) == 500


def test_attach_and_detach(layers):
    target = str(layers / "target")
    mounting.attach(overlay(layers), target)
    assert sorted(os.listdir(target)) == ["a", "b"]
    assert mounting.is_mount(target)
    mounting.detach(target)
    mounting.detach(target)  # nothing there is fine
    assert not mounting.is_mount(target)


def test_kernels_without_the_new_calls(layers, monkeypatch):
    def none(*_, **__):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    for name in ("fsopen", "open_tree"):
        monkeypatch.setattr(calls, name, none)
    with pytest.raises(errors.Unimplemented):
        mounting.detached(overlay(layers))
    target = str(layers / "target")
    mounting.attach(overlay(layers), target)
    assert sorted(os.listdir(target)) == ["a", "b"]
    mounting.detach(target)
    mounting.attach([Mount(type="bind", source=str(layers / "one"), options=("rbind", "ro"))], target)
    with pytest.raises(OSError, match="Read-only"):
        (layers / "target/x").touch()
    mounting.detach(target)
    with mounting.opened(overlay(layers)) as root:
        assert sorted(os.listdir(root)) == ["a", "b"]
    assert not mounted_at(target)


def test_a_long_option_string_by_the_old_call(tmp_path, monkeypatch):
    base = tmp_path / ("n" * 100)
    target = tmp_path / "target"
    target.mkdir()
    for number in range(60):
        (base / str(number)).mkdir(parents=True)
    lowers = ":".join(str(base / str(number)) for number in range(60))
    monkeypatch.setattr(calls, "fsopen", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSYS, "")))
    assert len(lowers) > steps.PAGE
    mounting.attach([Mount(type="overlay", options=(f"lowerdir={lowers}",))], str(target))
    assert mounting.is_mount(str(target))
    mounting.detach(str(target))


def test_private_once(layers):
    target = str(layers / "target")
    assert mounting.private(target)
    assert not mounting.private(target)
    assert len(mounted_at(target)) == 1
    (line,) = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f" {target} " in line]
    assert "shared:" not in line
    mounting.detach(target)


def test_errors_name_the_mount(layers):
    with pytest.raises(errors.NotFound, match="/nowhere"):
        mounting.detached([Mount(type="bind", source="/nowhere", options=("rbind",))])
    with pytest.raises(errors.NotFound, match="/nowhere"):
        mounting.detached([Mount(type="overlay", options=("lowerdir=/nowhere:/nowhere2",))])
    with pytest.raises(errors.Error, match="nosuchfs"):
        mounting.detached([Mount(type="nosuchfs", source="x")])
    with pytest.raises(errors.InvalidArgument):
        mounting.detached([])
