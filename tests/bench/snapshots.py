"""Snapshots: an overlay of many layers is mounted; a large one is committed."""

import os
import statistics
import time
from pathlib import Path

from daemon.kit import mounting
from daemon.kit.dictkv import DictKV
from daemon.snapshots.overlay import Overlay
from spec import names
from spec.api import snapshots as api
from tests.bench.figures import Row

LAYERS = 500
FILES = 50_000
TIMES = 20
KEPT = {names.GC_ROOT: "bench"}  # or garbage collection takes it at once


def measure(daemon, peer, where):
    few, many = (_mounted(where / f"layers-{count}", count) for count in (1, LAYERS))
    yield Row(f"overlay of {LAYERS} layers, mounted", f"{many:.1f} ms (1 layer: {few:.1f} ms)", "<= 10 ms", "")
    small, large = (_committed(daemon, count) for count in (1, FILES))
    theirs = _committed_by_peer(peer, FILES)
    yield Row(
        f"commit of {FILES} files",
        f"{large:.1f} ms (1 file: {small:.1f} ms)",
        "<= 5 ms",
        f"{theirs:.1f} ms containerd",
    )


def _mounted(directory, layers):
    """Milliseconds to mount a container's root filesystem, detached; the median."""
    snapshots = Overlay(str(directory), DictKV())
    parent = ""
    for number in range(layers):
        (source,) = (_own(mount) for mount in snapshots.prepare("key", parent))
        Path(source, f"file-{number}").touch()
        parent = f"layer {number}"
        snapshots.commit(parent, "key")
    mounts = snapshots.prepare("key", parent)
    taken = []
    for _ in range(TIMES):
        began = time.perf_counter()
        root = mounting.detached(mounts)
        taken.append(time.perf_counter() - began)
        os.close(root)
    return statistics.median(taken) * 1e3


def _committed(daemon, files):
    """Milliseconds for Commit to answer; the median of a few, each of its own tree."""
    with daemon.client() as client:
        taken = []
        for turn in range(3):
            key = f"large-{files}-{turn}"
            request = api.PrepareRequest(snapshotter="overlayfs", key=key, labels=KEPT)
            (mount,) = client.snapshots.prepare(request).mounts
            fill(mount.source, files)
            request = api.CommitRequest(snapshotter="overlayfs", name=f"name of {key}", key=key, labels=KEPT)
            began = time.perf_counter()
            client.snapshots.commit(request)
            taken.append(time.perf_counter() - began)
        for turn in range(3):  # the disk has inodes for one side at a time
            client.snapshots.remove(api.RemoveRequest(snapshotter="overlayfs", key=f"name of large-{files}-{turn}"))
        client.snapshots.cleanup(api.CleanupRequest(snapshotter="overlayfs"))
        return statistics.median(taken) * 1e3


def _committed_by_peer(peer, files):
    return statistics.median(peer.commit(lambda directory: fill(directory, files), turn) for turn in range(3)) * 1e3


def _own(mount):
    upper = [option for option in mount.options if option.startswith("upperdir=")]
    return upper[0].partition("=")[2] if upper else mount.source


def fill(directory, files):
    for number in range(files):
        folder = Path(directory, str(number // 100))
        if number % 100 == 0:
            folder.mkdir()
        (folder / str(number)).touch()
