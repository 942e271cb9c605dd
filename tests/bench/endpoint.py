"""The metrics endpoint with many containers: what a scrape takes, and what callers feel of it; and one task's by the
API."""

import os
import statistics
import threading
import time
from pathlib import Path

from spec.api import tasks
from spec.api.version import VersionRequest
from spec.types import Mount
from tests.bench.figures import Row, cpu_s
from tests.bench.tasks import create, rootfs
from tests.daemon import Daemon
from tests.scraper import Scraper

MANY = 200
SCRAPES = 20
CALLS = 2000


def measure(where):
    directory = Path(where, "endpoint")
    directory.mkdir()
    address = f"unix://{directory}/metrics.sock"
    mount = Mount(type="bind", source=str(rootfs(directory)), options=("rbind", "rw"))
    with Daemon(directory, f'[metrics]\naddress = "{address}"\nmax_age_s = 0\n') as daemon, daemon.client() as client:
        for number in range(MANY):
            create(client, f"c{number}", "/bin/sleep", "1000")
            client.tasks.create(tasks.CreateRequest(container_id=f"c{number}", rootfs=(mount,)))
            client.tasks.start(tasks.StartRequest(container_id=f"c{number}"))
        with Scraper(address) as scraper:
            yield from _api(client)
            yield from _scrapes(daemon, scraper)
            yield from _beside(client, address)


def _api(client):
    request = tasks.MetricsRequest(filters=["id==c0"])
    times = _times(lambda: client.tasks.metrics(request))
    yield Row(f"Tasks.Metrics of one of {MANY}, p50", f"{statistics.median(times):.2f} ms", "<= 0.3 ms", "")


def _scrapes(daemon, scraper):
    body = scraper.scrape()
    before = cpu_s(daemon.process.pid)
    times = []
    for _ in range(SCRAPES):
        began = time.perf_counter()
        scraper.scrape()
        times.append((time.perf_counter() - began) * 1000)
    cpu = (cpu_s(daemon.process.pid) - before) / SCRAPES * 1000
    size = f"{len(body.splitlines())} lines, {len(body) / 1e6:.1f} MB"
    yield Row(f"scrape of {MANY} containers, p50", f"{statistics.median(times):.1f} ms", "<= 40 ms", size)
    yield Row(f"scrape of {MANY} containers, processor time", f"{cpu:.1f} ms", "<= 30 ms", "")


def _beside(client, address):
    """Calls while one scrape follows another."""
    call = lambda: client.version.version(VersionRequest())  # noqa: E731
    alone, stop = _times(call), os.pipe()
    ended = threading.Event()

    def scrape():
        with Scraper(address) as scraper:
            while not ended.is_set():
                scraper.scrape()

    pid = os.fork()
    if pid == 0:
        os.close(stop[1])
        threading.Thread(target=scrape, daemon=True).start()
        os.read(stop[0], 1)
        os._exit(0)
    beside = _times(call)
    os.close(stop[1])
    os.close(stop[0])
    os.waitpid(pid, 0)
    yield Row(
        "Version beside scrapes without a pause, p50 / p99",
        f"{_p(beside, 50):.2f} / {_p(beside, 99):.1f} ms",
        "",
        f"{_p(alone, 50):.2f} / {_p(alone, 99):.1f} ms without scrapes",
    )


def _times(work):
    """Of CALLS calls, in milliseconds."""
    work()
    times = []
    for _ in range(CALLS):
        began = time.perf_counter()
        work()
        times.append((time.perf_counter() - began) * 1000)
    return times


def _p(times, percent):
    return sorted(times)[len(times) * percent // 100]
