"""The frozen binaries of dist/: how soon they are there, and what they weigh. `python -m tests.bench.frozen`."""

import os
import statistics
import subprocess
import time
from pathlib import Path

from tests.bench import containerd
from tests.bench.figures import Row, cpu_s, journaled, memory_kb, show
from tests.daemon import Daemon
from tests.frozen.image import archive_of

DIST = Path(__file__).parents[2] / "dist"
PYTHON = ["/usr/bin/python3", "-I", "-S", "-c", "pass"]
PEER = ("/usr/bin/ctr", "/usr/bin/containerd", "/usr/bin/containerd-shim-runc-v2")
NAME = "example.org/one:1"
ROUNDS, LIVES, STARTS = 60, 30, 7


def measure(where):
    """Rows; `where` is on a disk as hosts have it."""
    for name in ("ours", "theirs"):
        Path(where, name).mkdir()
    yield size()
    with Daemon(where / "ours", binaries=DIST) as daemon, containerd.running(where / "theirs") as peer:
        time.sleep(1)  # tidying up after the start is over
        yield idle(daemon, peer)
        yield from versions(daemon, peer)
        yield lives(daemon, peer, archive_of(where, NAME))
    yield start(where / "ours")


def size():
    ours, theirs = (sum(map(os.path.getsize, paths)) / 1e6 for paths in ((DIST / "holdd", DIST / "ctr"), PEER))
    return Row("both binaries", f"{ours:.1f} MB", "<= 40 MB", f"{theirs:.1f} MB containerd, with its shim")


def idle(daemon, peer):
    pid = daemon.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    ours = sum(memory_kb(process, "Rss") for process in (pid, *children)) / 1024
    return Row("frozen daemon, idle, RSS of its processes", f"{ours:.1f} MB", "<= 45 MB",
               f"{memory_kb(peer.pid, 'Rss') / 1024:.1f} MB containerd")  # fmt: skip


def versions(daemon, peer):
    ours = [DIST / "ctr", "--address", daemon.address, "version"]
    theirs = ["ctr", "--address", peer.address, "version"]
    taken = in_turn(ROUNDS, ours, PYTHON, theirs)
    for what, (our, bare, their) in zip(("median", "CPU of the client"), taken, strict=True):
        text = f"{their * 1000:.1f} ms containerd, {bare * 1000:.1f} ms python3 -I -S -c pass"
        yield Row(f"ctr version, frozen, {what}", f"{our * 1000:.1f} ms = {our / bare:.1f} x", "<= 6 x python3", text)


def in_turn(rounds, *commands):
    """Each command `rounds` times, by turns; medians of seconds of each: by the clock, and of the processor."""
    times = [[] for _ in commands]
    for _ in range(rounds + 1):
        for command, sums in zip(commands, times, strict=True):
            before, began = os.times(), time.perf_counter()
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            took, after = time.perf_counter() - began, os.times()
            spent = after.children_user + after.children_system - before.children_user - before.children_system
            sums.append((took, spent))
    clocks = [statistics.median(took for took, _ in sums[1:]) for sums in times]
    return clocks, [statistics.mean(spent for _, spent in sums[1:]) for sums in times]  # the kernel counts in 10 ms


def lives(daemon, peer, image):
    ours, theirs = [DIST / "ctr", "--address", daemon.address], ["ctr", "--address", peer.address]
    for tool in (ours, theirs):
        subprocess.run([*tool, "images", "import", image], check=True, stdout=subprocess.DEVNULL)
    commands = [[*tool, "run", "--rm", NAME, "c", "true"] for tool in (ours, theirs)]
    (our, their), _ = in_turn(LIVES, *commands)
    return Row("ctr run --rm IMAGE true, frozen, median", f"{our * 1000:.0f} ms", "< containerd's",
               f"{their * 1000:.0f} ms containerd")  # fmt: skip


def start(directory):
    """Until `version` is answered, on a root that is there already."""
    times, spent = [], []
    for _ in range(STARTS):
        daemon = Daemon(directory, binaries=DIST)
        began = time.perf_counter()
        daemon.start()
        times.append(time.perf_counter() - began)
        spent.append(cpu_s(daemon.process.pid))
        daemon.stop()
    text = f"{statistics.median(times) * 1000:.0f} ms ({statistics.median(spent) * 1000:.0f} ms CPU)"
    return Row("frozen daemon, start to first answer", text, "<= 500 ms", "")


def main():
    with journaled("1G") as where:
        show(list(measure(where)))


if __name__ == "__main__":
    main()
