"""Archives: export, import and conversion beside skopeo's copies between the same kinds of places."""

import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from tests.bench import image
from tests.bench.figures import Row, show
from tests.bench.layers import Usages
from tests.daemon import Daemon

MB = 1_000_000
IMAGE = {"layers": 8, "entries": 48_000, "raw_bytes": 920 * MB}  # compressed 350 MB
ROUNDS = 3
NAME = "bench.example/app:1"


def measure():
    """All rows, on tmpfs: files, not a disk, are what is measured."""
    with tempfile.TemporaryDirectory(prefix="holdd-bench-", dir="/dev/shm") as directory:
        work = Path(directory)
        image.build(work / "layout", **IMAGE)
        size = sum(path.stat().st_size for path in work.glob("layout/blobs/sha256/*"))
        layout, tar, docker = f"oci:{work}/layout:latest", work / "image.tar", work / "docker.tar"
        skopeo(layout, f"oci-archive:{tar}:{NAME}")
        skopeo(layout, f"docker-archive:{docker}:{NAME}")
        what = f"{IMAGE['layers']} layers, {size / MB:.0f} MB"
        yield from rows(
            f"import of an OCI archive, {what}, not unpacked",
            lambda daemon: daemon.ctr("images", "import", "--quiet", "--no-unpack", tar),
            lambda: skopeo(f"oci-archive:{tar}:{NAME}", f"oci:{work}/theirs:latest"),
            work,
        )
        yield from rows(
            f"import of a docker archive, {docker.stat().st_size / MB:.0f} MB, not unpacked",
            lambda daemon: daemon.ctr("images", "import", "--quiet", "--no-unpack", docker),
            lambda: skopeo(f"docker-archive:{docker}:{NAME}", f"dir:{work}/theirs"),
            work,
        )
        given = ("images", "import", "--quiet", "--no-unpack", tar)
        yield from rows(
            f"export, {what}",
            lambda daemon: daemon.ctr("images", "export", "--quiet", work / "ours.tar", NAME),
            lambda: skopeo(layout, f"oci-archive:{work}/theirs:{NAME}"),
            work,
            given,
        )
        yield from rows(
            f"- {what}, to a pipe",
            lambda daemon: piped(daemon),
            lambda: skopeo(layout, f"oci-archive:{work}/theirs:{NAME}"),
            work,
            given,
        )
        yield from rows(
            f"conversion of {IMAGE['raw_bytes'] / MB:.0f} MB of plain layers to gzip",
            lambda daemon: daemon.ctr("images", "convert", "--quiet", "--gzip", NAME, "bench.example/app:gzip"),
            lambda: skopeo(f"docker-archive:{docker}:{NAME}", f"oci:{work}/theirs:1"),
            work,
            ("images", "import", "--quiet", "--no-unpack", docker),
        )


def rows(what, ours, theirs, work, before=None):
    """Wall and CPU of both, and what the daemon's memory grows by."""
    pairs = []
    for _ in range(ROUNDS):
        (work / "daemon").mkdir()
        with Daemon(work / "daemon") as daemon:
            if before:
                daemon.ctr(*before)
            with Usages(daemon.process.pid) as used:
                ours(daemon)
        began, cpu = time.perf_counter(), children_s()
        theirs()
        pairs.append((used, time.perf_counter() - began, children_s() - cpu))
        for name in ("daemon", "theirs"):
            shutil.rmtree(work / name, ignore_errors=True)
        for name in ("theirs", "ours.tar"):
            (work / name).unlink(missing_ok=True)
    ratio = statistics.median(wall / used.wall_s for used, wall, _ in pairs)
    used, wall, cpu = sorted(pairs, key=lambda pair: pair[1] / pair[0].wall_s)[len(pairs) // 2]
    yield Row(what, f"{used.wall_s:.2f} s = {ratio:.2f} x", ">= 1 x as fast", f"{wall:.2f} s skopeo")
    yield Row("- CPU of the daemon", f"{used.cpu_s:.2f} s", "", f"{cpu:.2f} s skopeo")
    yield Row("- memory over idle", f"{max(used.growth_mb for used, _, _ in pairs):.0f} MB", "<= 64 MB", "")


def children_s():
    """CPU seconds of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def piped(daemon):
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as cat:
        daemon.ctr(
            "images", "export", "--quiet", "-", NAME, capture_output=False, stdout=cat.stdin, stderr=subprocess.PIPE
        )
        cat.stdin.close()


def skopeo(*arguments):
    argv = ["skopeo", "--insecure-policy", "copy", "--quiet", *map(str, arguments)]
    subprocess.run(argv, check=True, capture_output=True)


if __name__ == "__main__":
    show(measure())
