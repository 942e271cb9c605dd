"""Garbage collection of very many records: how long it marks, and what those who write meanwhile feel of it."""

import threading
import time
from pathlib import Path

from daemon.metadata.tables import CONTENT, IMAGES
from spec import names
from spec.api import containers, leases
from spec.oci.image import Descriptor
from spec.records import Container, ContentInfo, Image, RuntimeRef
from tests.bench.figures import Row
from tests.bench.lists import fill
from tests.daemon import Daemon

COUNT = 100_000
FAN = 100  # blobs an image keeps
QUIET_S = 3.0


def measure(where):
    for name in ("kept", "dead"):
        Path(where, name).mkdir()
    config = "log_level = 'debug'\n[gc]\npause_threshold = 0\nstartup_delay_s = 3600\n"
    kept = Daemon(where / "kept", config)
    fill(kept.root, list(_images(COUNT)))
    with kept, kept.client() as client:
        told = _beside(client)
        marks = [_marked(kept) for _ in range(3)]
        yield Row(f"GC mark of {COUNT} nodes", f"{min(marks):.0f} ms", "<= 500 ms", "")
        yield Row("  creates meanwhile, p50 p99 p99.9 max", told, "", "")
    dead = Daemon(where / "dead", config)
    digests = [_digest(number) for number in range(COUNT)]
    fill(dead.root, [(CONTENT, ContentInfo(digest=digest, size=1), digest) for digest in digests])
    with dead, dead.client() as client:
        yield Row(f"creates while GC sweeps {COUNT}, p50 p99 p99.9 max", _beside(client), "<= 10 ms", "")


def _images(count):
    for number in range(0, count, FAN):
        refs = {f"{names.GC_REF_CONTENT}.{index}": _digest(number + index) for index in range(1, FAN - 1)}
        yield CONTENT, ContentInfo(digest=_digest(number), size=1, labels=refs), _digest(number)
        target = Descriptor(media_type="a/b", digest=_digest(number), size=1)
        yield IMAGES, Image(name=f"i{number}", target=target), f"i{number}"
        for index in range(1, FAN - 1):
            yield CONTENT, ContentInfo(digest=_digest(number + index), size=1), _digest(number + index)


def _marked(daemon):
    """Milliseconds that a collection marks, as the daemon logs it."""
    with daemon.client() as client:
        client.leases.create(leases.CreateRequest(id="l"))
        client.leases.delete(leases.DeleteRequest(id="l", sync=True))
    line = [line for line in daemon.log.read_text().splitlines() if "marked" in line][-1]
    return float(line.rpartition(" in ")[2].split()[0])


def _beside(client):
    """What creates take while one collection runs, and before it, on the same disk."""
    quiet = _creating(client, threading.Event(), QUIET_S)
    times, took = _while_collecting(client)
    return f"{_spread(times)} ms (else {_spread(quiet)} ms), {took:.1f} s, {len(times)} creates"


def _spread(times):
    """Of times in seconds: percentiles in ms."""
    times = sorted(times)
    last = len(times) - 1
    return " ".join(f"{times[min(int(len(times) * share), last)] * 1e3:.1f}" for share in (0.5, 0.99, 0.999, 1.0))


def _while_collecting(client):
    """What each create took while one collection ran, and how long that was, in seconds."""
    done = threading.Event()
    found = []
    thread = threading.Thread(target=lambda: found.extend(_creating(client, done, 600.0)))
    with client.using(timeout_s=600.0) as other:
        other.leases.create(leases.CreateRequest(id="l"))
        thread.start()
        began = time.perf_counter()
        other.leases.delete(leases.DeleteRequest(id="l", sync=True))
        took = time.perf_counter() - began
    done.set()
    thread.join()
    return found, took


def _creating(client, done, seconds):
    """Create and delete containers; what each create took, in seconds."""
    times = []
    end = time.perf_counter() + seconds
    while not done.is_set() and time.perf_counter() < end:
        id = f"c{len(times)}"
        container = Container(id=id, runtime=RuntimeRef(name="runc"), spec=b"{}")
        began = time.perf_counter()
        client.containers.create(containers.CreateRequest(container=container))
        times.append(time.perf_counter() - began)
        client.containers.delete(containers.DeleteRequest(id=id))
    return times


def _digest(number):
    return f"sha256:{number:064x}"
