"""Layers: pull and import of whole images beside containerd, the unpacker beside tar. `python -m tests.bench.layers`
takes the names of those rows that are wanted: pull, import, slow, unpack."""

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from daemon.content.local import LocalContent
from daemon.diff.applier import ArchiveApplier
from spec import digest as digests
from spec.api import transfer
from spec.oci.image import OCI_LAYER, Descriptor
from spec.types import Mount
from tests.bench import containerd, image
from tests.bench.figures import Row, cpu_s, journaled, memory_kb, show
from tests.daemon import Daemon
from tests.fake import Fake
from tests.registry import Registry, push

MB = 1_000_000
PULLED = {"layers": 8, "entries": 48_000, "raw_bytes": 920 * MB}  # with headers and padding 960 MB
IMPORTED = {"layers": 2, "entries": 51_000, "raw_bytes": 1_160 * MB}  # 1.2 GB
FILES = 34_000
ROUNDS = 3
RATE = 8 * MB  # a second, of each layer of a slow link
SLICE = 64 << 10


def measure(wanted=()):
    """All rows, or those wanted. All is on tmpfs, with a fresh journaled filesystem for each that is measured."""
    with tempfile.TemporaryDirectory(prefix="holdd-bench-", dir="/dev/shm") as directory:
        work = Path(directory)
        parts = {
            "pull": measure_pull,
            "import": measure_import,
            "slow": measure_slow_link,
            "unpack": measure_unpack,
        }
        for name in wanted or parts:
            yield from parts[name](work)


class Usages:
    """Seconds of wall and CPU, and growth of memory, of what a process does meanwhile. A context manager."""

    def __init__(self, pid):
        self.pid = pid

    def __enter__(self):
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")  # the high-water mark (proc(5))
        self._idle_kb = memory_kb(self.pid, "Rss")
        self._cpu_s, self._began = cpu_s(self.pid), time.perf_counter()
        return self

    def __exit__(self, *exc):
        self.wall_s = time.perf_counter() - self._began
        self.cpu_s = cpu_s(self.pid) - self._cpu_s
        status = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        peak_kb = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
        self.growth_mb = (peak_kb - self._idle_kb) / 1024


def pull_ours(ref):
    """A pull into a fresh daemon on a fresh filesystem."""
    with journaled(below="/dev/shm") as where, Daemon(where) as daemon, Usages(daemon.process.pid) as used:
        daemon.ctr("images", "pull", "--quiet", "--plain-http", ref)
    return used


def pull_theirs(ref):
    with journaled(below="/dev/shm") as where, containerd.running(where) as peer, Usages(peer.pid) as used:
        run(shutil.which("ctr", path="/usr/bin"), "-a", peer.address, "images", "pull", "--plain-http", ref)
    return used


def measure_pull(work):
    raw = image.build(work / "pulled", **PULLED)
    with Registry(work / "registry") as registry:
        push(work / "pulled", registry, "bench:1")
        shutil.rmtree(work / "pulled")
        ref = f"{registry.host}/bench:1"
        pairs = [(pull_ours(ref), pull_theirs(ref)) for _ in range(ROUNDS)]
    shutil.rmtree(work / "registry")
    ratio = statistics.median(theirs.wall_s / ours.wall_s for ours, theirs in pairs)
    ours, theirs = sorted(pairs, key=lambda pair: pair[1].wall_s / pair[0].wall_s)[len(pairs) // 2]
    what = f"pull and unpack, {PULLED['layers']} layers, {raw / MB:.0f} MB, {PULLED['entries']} entries"
    yield Row(what, f"{ours.wall_s:.2f} s = {ratio:.1f} x", ">= 4 x as fast", f"{theirs.wall_s:.2f} s containerd")
    yield Row("- CPU of the daemon", f"{ours.cpu_s:.2f} s", "", f"{theirs.cpu_s:.2f} s containerd")
    growth = max(ours.growth_mb for ours, _ in pairs)
    yield Row("- memory over idle", f"{growth:.0f} MB", "<= 64 MB", f"{theirs.growth_mb:.0f} MB containerd")


def measure_import(work):
    raw = image.build(work / "imported", **IMPORTED)
    archive = work / "imported.tar"
    run("tar", "-cf", archive, "-C", work / "imported", "oci-layout", "index.json", "blobs")
    shutil.rmtree(work / "imported")
    found = []
    for _ in range(ROUNDS):
        with journaled(below="/dev/shm") as where, Daemon(where) as daemon, Usages(daemon.process.pid) as used:
            daemon.ctr("images", "import", "--quiet", archive)
        found.append(used)
    with journaled(below="/dev/shm") as where, containerd.running(where) as peer, Usages(peer.pid) as theirs:
        ctr = shutil.which("ctr", path="/usr/bin")
        run(ctr, "-a", peer.address, "images", "import", archive)
    archive.unlink()
    cpu = statistics.median(used.cpu_s for used in found)
    what = f"import and unpack, {IMPORTED['layers']} layers, {raw / MB:.0f} MB, {IMPORTED['entries']} entries: CPU"
    yield Row(what, f"{cpu:.2f} s", "<= 6.5 s", f"{theirs.cpu_s:.2f} s containerd")
    growth = max(used.growth_mb for used in found)
    yield Row("- memory over idle", f"{growth:.0f} MB", "<= 64 MB", f"{theirs.growth_mb:.0f} MB containerd")


class SlowRegistry(Fake):
    """Sends `RATE` bytes a second over each connection; `sent_at` is when the last of them went."""

    def send(self, out, data):
        for at in range(0, len(data), SLICE):
            out.write(data[at : at + SLICE])
            self.sent_at = time.perf_counter()
            time.sleep(SLICE / RATE)


def measure_slow_link(work):
    """From the last byte of the longest layer to the end of the pull: what did not happen while it came."""
    image.build(work / "slow", layers=3, entries=9_000, raw_bytes=180 * MB)
    took = []
    for _ in range(ROUNDS):
        with SlowRegistry() as registry, journaled(below="/dev/shm") as where, Daemon(where) as daemon:
            serve(registry, work / "slow")
            with daemon.client() as client:
                ref = f"{registry.host}/a:1"
                source = transfer.Registry(reference=ref, plain_http=True)
                destination = transfer.ImageStore(name=ref, unpacks=[transfer.Unpack()])
                list(client.transfer.transfer(transfer.TransferRequest(source=source, destination=destination)))
                took.append((time.perf_counter() - registry.sent_at) * 1000)
    shutil.rmtree(work / "slow")
    yield Row("end of a pull after the last byte, slow link", f"{statistics.median(took):.0f} ms", "<= 200 ms", "")


def serve(registry, layout):
    """All of an OCI layout, by a fake registry."""
    for path in (layout / "blobs/sha256").iterdir():
        registry.blob(path.read_bytes())
    (target,) = json.loads((layout / "index.json").read_text())["manifests"]
    registry.manifest("1", registry.blobs[target["digest"]])


def measure_unpack(work):
    """A plain tar, by our unpacker and by GNU tar in turn."""
    archive = work / "plain.tar"
    image.plain(archive, FILES, 560 * MB)
    layer = Descriptor(media_type=OCI_LAYER, digest=digests.of(b"bench"), size=archive.stat().st_size)
    ratios, ours, theirs = [], [], []
    for _ in range(ROUNDS):
        with journaled(below="/dev/shm") as where:
            applier = ArchiveApplier(LocalContent(str(where / "content")))
            mine, other = where / "ours", where / "theirs"
            mine.mkdir(), other.mkdir()
            began = time.perf_counter()
            with archive.open("rb", buffering=0) as source:
                applier.apply_stream(source, layer, [Mount(type="bind", source=str(mine), options=("rbind", "rw"))])
            ours.append(time.perf_counter() - began)
            began = time.perf_counter()
            run("tar", "-xf", archive, "-C", other)
            theirs.append(time.perf_counter() - began)
            ratios.append(theirs[-1] / ours[-1])
    archive.unlink()
    mine, other = statistics.median(ours), statistics.median(theirs)
    text = f"{mine:.2f} s = {statistics.median(ratios):.2f} x"
    yield Row(f"unpack of {FILES} entries from a plain tar", text, ">= 1.3 x as fast", f"{other:.2f} s GNU tar -x")


def run(*argv):
    done = subprocess.run([str(word) for word in argv], check=False, capture_output=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, argv[:4]))}: {done.stderr.decode()}")


if __name__ == "__main__":
    show(measure(sys.argv[1:]))
