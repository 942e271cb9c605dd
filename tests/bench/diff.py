"""Differences: a container that changed a few files of a large image."""

from pathlib import Path

from daemon.kit import mounting
from spec.api import diff as diff_api
from spec.api import snapshots as api
from tests.bench.figures import Row, median_ms
from tests.bench.snapshots import FILES, fill

CHANGED = 10
TIMES = 5


def measure(daemon, peer, where):
    """Both daemons compare the same two mounts."""
    place = Path(where, "diff")
    place.mkdir()
    with daemon.client() as client:
        (mount,) = client.snapshots.prepare(api.PrepareRequest(snapshotter="overlayfs", key="diff")).mounts
        fill(mount.source, FILES)
        client.snapshots.commit(api.CommitRequest(snapshotter="overlayfs", name="diff base", key="diff"))
        prepare = api.PrepareRequest(snapshotter="overlayfs", key="diff", parent="diff base")
        right = client.snapshots.prepare(prepare).mounts
        view = api.ViewRequest(snapshotter="overlayfs", key="diff view", parent="diff base")
        left = client.snapshots.view(view).mounts
        mounting.attach(right, str(place))
        for number in range(0, FILES, FILES // CHANGED):
            Path(place, str(number // 100), str(number)).write_bytes(b"changed" * 1000)
        mounting.detach(str(place))
        ours = median_ms(TIMES, lambda: client.diff.diff(diff_api.DiffRequest(left=left, right=right)))
        theirs = peer.diff(left, right, TIMES)
        for key in ("diff", "diff view", "diff base"):
            client.snapshots.remove(api.RemoveRequest(snapshotter="overlayfs", key=key))
        client.snapshots.cleanup(api.CleanupRequest(snapshotter="overlayfs"))
    yield Row(f"diff of {CHANGED} files in {FILES}", f"{ours:.1f} ms", "<= 30 ms", f"{theirs:.1f} ms containerd")
