"""All benchmarks, each figure beside its bar and its peer's, in one run: `make bench`."""

import itertools
import time
from pathlib import Path

from spec.api.version import VersionRequest
from tests.bench import (
    archives,
    cgroups,
    containerd,
    diff,
    endpoint,
    events,
    frozen,
    garbage,
    layers,
    lists,
    pulls,
    records,
    registry,
    snapshots,
    starts,
    tasks,
)  # fmt: skip
from tests.bench.figures import Row, at_once, journaled, memory_kb, show
from tests.daemon import Daemon

CALLS = 20_000
CLIENTS = 16


def measure_version(daemon, peer):
    def calls(count):
        def work(_):
            with daemon.client() as client:
                for _ in range(count):
                    client.version.version(VersionRequest())
            return count

        return work

    with daemon.client() as client:
        times = []
        for _ in range(5000):
            began = time.perf_counter()
            client.version.version(VersionRequest())
            times.append(time.perf_counter() - began)
    times.sort()
    yield Row("Version, one client, p50", f"{times[len(times) // 2] * 1e6:.0f} us", "<= 200 us", "")
    ours = at_once(CLIENTS, calls(CALLS // CLIENTS * 4))
    theirs = at_once(CLIENTS, lambda _: peer.churn_versions(CALLS // CLIENTS))
    yield Row("Version, 16 clients", f"{ours:.0f}/s", ">= 10,000/s", f"{theirs:.0f}/s containerd")


def measure_idle(daemon, peer):
    ours = memory_kb(daemon.process.pid, "Rss") / 1024
    theirs = memory_kb(peer.pid, "Rss") / 1024
    yield Row("daemon, idle, RSS", f"{ours:.1f} MB", "<= 40 MB", f"{theirs:.1f} MB containerd")


def main():
    show(layers.measure())
    show(registry.measure())
    show(pulls.measure())
    show(archives.measure())
    with journaled(below="/dev/shm") as where:  # what the daemon adds, not what the disk does
        for name, measure in (("lists", lists.measure), ("garbage", garbage.measure), ("events", events.measure)):
            Path(where, name).mkdir()
            show(measure(where / name))
    with journaled() as where:
        for name in ("ours", "theirs", "life"):
            Path(where, name).mkdir()
        with Daemon(where / "ours") as daemon, containerd.running(where / "theirs") as peer:
            show(
                itertools.chain(
                    measure_idle(daemon, peer),
                    measure_version(daemon, peer),
                    records.measure(daemon, peer),
                    cgroups.measure(),
                    snapshots.measure(daemon, peer, where),
                    diff.measure(daemon, peer, where),
                    tasks.measure_life(daemon, where / "life"),
                    tasks.measure_exec(daemon, where / "life"),
                    tasks.measure_shim(daemon, where / "life"),
                    starts.measure(daemon, where / "life"),
                    tasks.measure_many(daemon, where / "life"),
                    endpoint.measure(where),
                )
            )
    with journaled("1G") as where:
        show(frozen.measure(where))


if __name__ == "__main__":
    main()
