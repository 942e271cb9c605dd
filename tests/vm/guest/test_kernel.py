"""A kernel that has no overlay: its module is taken away, and nothing is there that would load it for the kernel."""

import subprocess
from pathlib import Path

import pytest

from tests.daemon import BIN, Daemon


@pytest.fixture
def without_overlay():
    subprocess.run(["rmmod", "overlay"], check=True)
    yield
    (module,) = Path("/modules").glob("*-overlay.ko")
    subprocess.run(["insmod", module], check=True)


def test_the_default_snapshotter_cannot_be_had(without_overlay, tmp_path):
    argv = [BIN / "holdd", "--root", tmp_path / "root", "--state", tmp_path / "state"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    says = "the kernel has no overlay; load its module, or choose another, as native"
    assert done.stderr == f"holdd: default_snapshotter overlayfs: {says}\n"
    assert not list(tmp_path.iterdir())


def test_another_default_will_do(without_overlay, tmp_path):
    with Daemon(tmp_path, 'default_snapshotter = "native"\n') as daemon:
        daemon.ctr("snapshots", "prepare", "k")
        done = daemon.ctr("snapshots", "--snapshotter", "overlayfs", "prepare", "k", check=False)
        assert done.stderr == "ctr: snapshotter overlayfs is unknown; there are native\n"
        assert "overlay below" in daemon.ctr("plugins", "ls", "-d", "id==overlayfs").stdout
