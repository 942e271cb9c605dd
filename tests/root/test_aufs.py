"""What is called to mount aufs snapshots, by recorder: a tmpfs stands for the union that this kernel may not have."""

import errno
import os
from pathlib import Path

import pytest

from daemon.kit import mounting, steps
from daemon.kit.dictkv import DictKV
from daemon.snapshots import aufs
from daemon.snapshots.aufs import Aufs
from pyx import mount as calls
from spec import errors

pytestmark = pytest.mark.root


class Recorder:
    """Stands in for mount(2): what is asked of aufs is noted, and `fails` names the call that does."""

    def __init__(self):
        self.calls = []
        self.fails = -1
        self._mount = calls.mount

    def __call__(self, source, target, fstype, flags, data=""):
        if fstype != "aufs":
            return self._mount(source, target, fstype, flags, data)
        if len(self.calls) == self.fails:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), target)
        self.calls.append((source, flags, data))
        return None if flags & steps.MS_REMOUNT else self._mount("tmpfs", target, "tmpfs", flags)


@pytest.fixture
def recorder(monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(calls, "mount", recorder)
    return recorder


@pytest.fixture
def snapshots(tmp_path, monkeypatch):
    (tmp_path / "filesystems").write_text("nodev\taufs\n")
    monkeypatch.setattr(aufs, "FILESYSTEMS", str(tmp_path / "filesystems"))
    return Aufs(str(tmp_path / "root"), DictKV())


@pytest.fixture(params=[True, False], ids=["detached", "before 5.2"])
def target(request, tmp_path, monkeypatch):
    """Where to mount, with the new mount calls and without."""
    if not request.param:
        monkeypatch.setattr(calls, "open_tree", absent)
    (tmp_path / "target").mkdir()
    yield str(tmp_path / "target")
    assert not os.path.ismount(tmp_path / "target")


def absent(*_, **__):
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def stack(snapshots, layers):
    parent = ""
    for number in range(layers):
        snapshots.prepare(f"key {number}", parent)
        parent = f"layer {number}"
        snapshots.commit(parent, f"key {number}")
    return parent


@pytest.mark.parametrize("method", ["prepare", "view"])
@pytest.mark.parametrize("layers", [2, 50, 500])
def test_every_call(snapshots, recorder, target, layers, method):
    mounts = getattr(snapshots, method)("key", stack(snapshots, layers))
    mounting.attach(mounts, target)
    try:
        planned = [(step.source, step.flags, step.data) for step in steps.plan(mounts)]
        assert recorder.calls[-len(planned) :] == planned  # an old kernel fails the way to a detached mount first
        assert sum(data.count("=ro+wh") for _, _, data in planned) == layers
        if method == "view":
            assert {flags & steps.MS_RDONLY for _, flags, _ in recorder.calls} == {steps.MS_RDONLY}
            with pytest.raises(OSError, match="Read-only"):
                Path(target, "file").touch()
    finally:
        mounting.detach(target)


def test_a_lone_layer_asks_nothing_of_aufs(snapshots, recorder, target):
    mounting.attach(snapshots.view("view", stack(snapshots, 1)), target)
    mounting.detach(target)
    assert recorder.calls == []


@pytest.mark.parametrize("call", [0, 1, 3])
def test_a_branch_that_is_refused_leaves_no_mount(snapshots, recorder, target, call):
    mounts = snapshots.prepare("key", stack(snapshots, 500))
    recorder.fails = call
    with pytest.raises(errors.InvalidArgument, match=r"mounting aufs .*snapshots/.*/fs"):
        mounting.attach(mounts, target)
    assert len(recorder.calls) == call
