"""The leak guard: whatever a test made is gone when it ends."""

import gc
import os
import threading
import time
from pathlib import Path

import pytest

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


def _cgroups():
    found = set()
    for base in Path("/sys/fs/cgroup").glob("*"):
        for path in (base, base / "holdd-test"):
            try:
                found.update(str(path / name) for name in os.listdir(path) if (path / name).is_dir())
            except OSError:
                continue
    return found


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
