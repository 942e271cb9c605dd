"""Devices of this host, by path and by name."""

import json
import os
import stat

import pytest

from ctr import devices
from spec import errors
from spec.oci import build, runtime

SPEC = build.default_spec("ns", "c1")


def described(directory, kind, *names, name="x.json"):
    directory.mkdir(exist_ok=True)
    found = [{"name": device, "containerEdits": {"deviceNodes": [{"path": "/dev/null"}]}} for device in names]
    (directory / name).write_text(json.dumps({"cdiVersion": "0.5.0", "kind": kind, "devices": found}))
    return str(directory)


def test_a_node_is_as_the_host_has_it():
    (device,) = devices.below("/dev/null")
    status = os.stat("/dev/null")
    assert device == runtime.Device(
        path="/dev/null", type="c", major=1, minor=3, file_mode=stat.S_IMODE(status.st_mode), uid=status.st_uid,
        gid=status.st_gid,
    )  # fmt: skip


def test_a_link_is_what_it_leads_to(tmp_path):
    (tmp_path / "link").symlink_to("/dev/zero")
    (device,) = devices.below(str(tmp_path / "link"))
    assert (device.path, device.major, device.minor) == (str(tmp_path / "link"), 1, 5)


@pytest.mark.root
def test_all_in_a_directory(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "pts").mkdir()
    os.mknod(tmp_path / "deep/block", stat.S_IFBLK | 0o600, os.makedev(7, 200))
    os.mknod(tmp_path / "char", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    os.mknod(tmp_path / "pts/0", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    os.mknod(tmp_path / "console", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("char")
    (tmp_path / "loop").symlink_to(".")
    found = {device.path: (device.type, device.major, device.minor) for device in devices.below(str(tmp_path))}
    assert found == {f"{tmp_path}/char": ("c", 1, 3), f"{tmp_path}/deep/block": ("b", 7, 200)}


@pytest.mark.parametrize(
    ("path", "error"), [("/dev/none-such", errors.NotFound), ("/etc/hostname", errors.InvalidArgument)]
)
def test_paths_that_are_no_device(path, error):
    with pytest.raises(error, match=path):
        devices.with_devices(SPEC, [path], [])


def test_all_of_the_host():
    found = {device.path for device in devices.with_all_devices(SPEC).linux.devices}
    assert {"/dev/null", "/dev/zero"} <= found
    assert "/dev/console" not in found
    assert not any(path.startswith("/dev/pts/") for path in found)


def test_names(tmp_path):
    low = described(tmp_path / "low", "a.b/c", "one")
    high = described(tmp_path / "high", "a.b/c", "two")
    spec = devices.with_devices(SPEC, ["a.b/c=one", "/dev/zero", "a.b/c=two"], [low, high, str(tmp_path / "none")])
    assert [(device.path, device.minor) for device in spec.linux.devices] == [("/dev/zero", 5), ("/dev/null", 3)]
    with pytest.raises(errors.NotFound, match=r"a\.b/c=three"):
        devices.with_devices(SPEC, ["a.b/c=three"], [low, high])
    (tmp_path / "low/other.yaml").touch()
    with pytest.raises(errors.Unimplemented, match=r"other\.yaml"):
        devices.with_devices(SPEC, ["a.b/c=three"], [low, high])
    (tmp_path / "low/bad.json").write_text("{")
    with pytest.raises(errors.InvalidArgument, match=r"bad\.json"):
        devices.with_devices(SPEC, ["a.b/c=one"], [low])


def test_gpus_are_of_the_vendor_that_is_here(tmp_path):
    assert devices.gpu_names([], []) == []
    with pytest.raises(errors.NotFound, match="GPUs"):
        devices.gpu_names(["all"], [str(tmp_path)])
    directory = described(tmp_path, "amd.com/gpu", "0")
    assert devices.gpu_names(["0", "all"], [directory]) == ["amd.com/gpu=0", "amd.com/gpu=all"]
    described(tmp_path, "nvidia.com/gpu", "0", name="y.json")
    assert devices.gpu_names(["0"], [directory]) == ["nvidia.com/gpu=0"]
