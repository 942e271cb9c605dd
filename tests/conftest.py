"""The leak guard: whatever a test made is gone when it ends."""

import contextlib
import gc
import os
import threading
import time
from pathlib import Path

import pytest

from tests import cgroups
from tests import disks as making

BESIDE = "HOLDD_TEST_BESIDE"  # set where other suites run on this host: then cgroups are not ours to compare
SETTLE_S = 10.0  # how long what ends by itself (a dying thread, a reaped shim) may take


def _descriptors():
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # the one that listed the directory
    return found


def _children():
    pids = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            pids.update((task / "children").read_text().split())
        except FileNotFoundError:
            continue
    return pids


def _tops():
    """Cgroups right below each hierarchy's root: a runtime leaves that of a namespace behind, as under containerd."""
    if BESIDE in os.environ:
        return set()
    return {path for root in cgroups.roots() for path in root.iterdir() if path.is_dir()}


def _cgroups():
    """Cgroups of containers: those below the tops."""
    found = set()
    for top in _tops():
        with contextlib.suppress(OSError):
            found.update(str(path) for path in top.iterdir() if path.is_dir())
    return found


@pytest.fixture(scope="session", autouse=True)
def namespaces_cgroups():
    """What namespaces' cgroups the session made are removed with it, and are empty by then."""
    before = _tops()
    yield
    for path in _tops() - before:
        path.rmdir()


@pytest.fixture(scope="session")
def disks(tmp_path_factory):
    """Filesystems by type (tests.disks), the same for the whole session."""
    with making.every(tmp_path_factory.mktemp("disks")) as made:
        yield made


def _state():
    return {
        "descriptors": set(_descriptors().items()),
        "mounts": set(Path("/proc/self/mountinfo").read_text().splitlines()),
        "children": _children(),
        "threads": {thread.name for thread in threading.enumerate()},
        "cgroups": _cgroups(),
    }


@pytest.fixture(autouse=True)
def leak_guard(request):
    """Descriptors, mounts, children, threads and cgroups are the same before and after."""
    if request.node.get_closest_marker("hypothesis"):
        yield
        return
    before = _state()
    yield
    deadline = time.monotonic() + SETTLE_S
    while True:
        after = _state()
        left = {kind: after[kind] - before[kind] for kind in after}
        if not any(left.values()):
            return
        if time.monotonic() > deadline:
            pytest.fail(f"left behind: { {kind: sorted(map(str, what)) for kind, what in left.items() if what} }")
        gc.collect()
        time.sleep(0.02)
