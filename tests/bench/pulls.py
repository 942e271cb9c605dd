"""Pulls beyond the usual: cut off and taken up by another daemon, of one huge layer, by many at once."""

import contextlib
import hashlib
import json
import re
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from spec import errors
from spec.api import transfer
from tests.bench.figures import Row, cpu_s, show
from tests.bench.registry import many, pull
from tests.daemon import Daemon
from tests.fake import CONFIG, MANIFEST, Fake
from tests.tarball import entry

MB = 1_000_000
BLOB = 1000 * MB
CUT = 0.9
HUGE = 4000 * MB
CLIENTS = 50
PLAIN = "application/vnd.oci.image.layer.v1.tar"


class Zeros:
    """`head` and then as many zeros, which are made as they are asked for."""

    def __init__(self, head, zeros):
        self._head = head
        self._size = len(head) + zeros
        running = hashlib.sha256(head)
        for start in range(0, zeros, MB):
            running.update(bytes(min(MB, zeros - start)))
        self.digest = f"sha256:{running.hexdigest()}"

    def __len__(self):
        return self._size

    def __getitem__(self, part):
        start, stop, _ = part.indices(self._size)
        return self._head[start:stop] + bytes(max(0, stop - max(start, len(self._head))))


class Metered(Fake):
    """Sends no more than `limit` bytes of blobs before its gate opens."""

    limit = 1 << 60

    def send(self, out, data):
        for start in range(0, len(data), MB):
            if self.sent >= self.limit:
                self.reached.set()
                self.gate.wait(600)
            out.write(data[start : start + MB])
            self.sent += len(data[start : start + MB])


def measure():
    """All rows. What is large is on disk, not in memory."""
    with tempfile.TemporaryDirectory(prefix="holdd-bench-") as directory:
        work = Path(directory)
        yield measure_cut(work / "cut")
        yield measure_huge(work / "huge")
        yield measure_many(work / "many")


def huge(fake, size):
    """An image of one plain layer with a file of `size` zeros."""
    layer = Zeros(entry("zeros", size=size), size + 1024)
    fake.blobs[layer.digest] = layer
    config = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [layer.digest]}}
    data = json.dumps(config).encode()
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": fake.blob(data), "size": len(data)},
        "layers": [{"mediaType": PLAIN, "digest": layer.digest, "size": len(layer)}],
    }
    fake.manifest("1", document)
    return f"{fake.host}/a:1"


def measure_cut(work):
    """kill -9 when 90 % have come, and another daemon: what is sent beyond the blob's own bytes."""
    work.mkdir()
    with Metered() as fake, Daemon(work) as daemon:
        name = huge(fake, BLOB)
        fake.limit = BLOB * CUT
        fake.gate.clear()
        pulling = threading.Thread(target=interrupted, args=(daemon, name))
        pulling.start()
        fake.reached.wait(600)
        time.sleep(0.5)  # what has come is written
        daemon.kill()
        pulling.join()
        fake.limit = 1 << 60
        fake.gate.set()
        daemon.start()
        before, began = cpu_s(daemon.process.pid), time.perf_counter()
        fetch(daemon, name)
        took, cpu = time.perf_counter() - began, cpu_s(daemon.process.pid) - before
    again = (fake.sent - BLOB) / BLOB * 100
    what = f"pull of {BLOB / MB:.0f} MB, killed at {CUT:.0%}: fetched again by the next daemon"
    return Row(what, f"{again:.2f} % (the rest: {took:.1f} s, {cpu:.1f} CPU s)", "<= 1 %", "")


def interrupted(daemon, name):
    with contextlib.suppress(errors.Error):
        fetch(daemon, name)


def fetch(daemon, name):
    request = transfer.TransferRequest(
        source=transfer.Registry(reference=name, plain_http=True), destination=transfer.ImageStore(name=name)
    )
    with daemon.client() as client:
        for _ in client.transfer.transfer(request):
            pass


def measure_huge(work):
    work.mkdir()
    with Metered() as fake, Daemon(work, "[diff]\nsync_fs = false\n[content]\nsync = false\n") as daemon:
        fake.image("first", {"a": b"b"})
        pull(daemon, f"{fake.host}/a:first")
        name = huge(fake, HUGE)
        process = Path(f"/proc/{daemon.process.pid}")
        (process / "clear_refs").write_text("5")  # VmHWM begins anew (proc_pid_clear_refs(5))
        before = status_kb(process, "VmRSS")
        pull(daemon, name)
        grown = (status_kb(process, "VmHWM") - before) / 1024
    return Row(f"pull of a layer of {HUGE / MB:.0f} MB: memory grows by", f"{grown:.0f} MB", "<= 64 MB", "")


def status_kb(process, field):
    return int(re.search(rf"{field}:\s+(\d+) kB", (process / "status").read_text())[1])


def measure_many(work):
    """One image, by all of them."""
    work.mkdir()
    with Fake() as fake, Daemon(work) as daemon, ThreadPoolExecutor(CLIENTS) as pool:
        many(fake)
        began, before = time.perf_counter(), cpu_s(daemon.process.pid)
        list(pool.map(lambda _: pull(daemon, f"{fake.host}/a:1"), range(CLIENTS)))
        took, cpu = time.perf_counter() - began, cpu_s(daemon.process.pid) - before
        asked = Counter(path for method, path, _ in fake.requests if "/blobs/" in path)
    what = f"one image of {len(asked) - 1} layers pulled by {CLIENTS} clients at once: most requests of one blob"
    return Row(what, f"{max(asked.values())} ({took:.1f} s, {cpu:.1f} CPU s)", "1", "")


if __name__ == "__main__":
    show(measure())
