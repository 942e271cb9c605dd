"""The metrics endpoint of a real daemon: containers under known loads, its own doings, and scrapes beside deletes."""

import contextlib
import json
import os
import signal
import socket
import threading
from pathlib import Path

import pytest

from daemon.metrics.catalog import GROUPS, Containers
from daemon.metrics.cgroups import Cgroups
from spec import errors
from spec.api import containers, tasks, version
from tests import exposed
from tests.containers import busybox, container, ended, started
from tests.daemon import Daemon
from tests.promql import Query
from tests.readings import FILES, task
from tests.scraper import Scraper

NAMESPACE = f"scraped-{os.getpid()}"
CONFIG = '[metrics]\naddress = "unix://{}"\nmax_age_s = 0\ngroups = ["pids", "cpu", "memory", "per_cpu"]\n'
SCRAPES = 10_000
SCRAPERS = 16
LIVES = 12


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    return str(tmp_path_factory.mktemp("endpoint") / "metrics.sock")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory, address):
    with Daemon(tmp_path_factory.mktemp("daemon"), CONFIG.format(address)) as running:
        yield running


@pytest.fixture
def client(daemon):
    with daemon.client(NAMESPACE) as connected:
        yield connected


@pytest.fixture
def scraper(daemon, address):
    with Scraper(address) as connected:
        yield connected


def end(client, id):
    client.tasks.kill(tasks.KillRequest(container_id=id, signal=signal.SIGKILL, all=True))
    ended(client, id)


def test_a_container_is_what_the_api_says(client, scraper, tmp_path):
    started(client, "c", busybox(tmp_path), "/bin/sh", "-c", "sleep 1000 & exec sleep 1000", namespace=NAMESPACE)
    client.tasks.pause(tasks.PauseRequest(container_id="c"))
    found = exposed.parse(scraper.scrape())
    labels = (("container_id", "c"), ("namespace", NAMESPACE), ("runtime", "runc"))
    mine = {name: family.samples.get((name, labels)) for name, family in found.items()}
    (metric,) = client.tasks.metrics(tasks.MetricsRequest()).metrics
    assert mine["container_pids_current"] == metric.data.pids.current > 0
    memory = metric.data.memory
    if hasattr(metric.data, "blkio"):
        assert mine["container_memory_total_rss_bytes"] == memory.total_rss
        assert mine["container_memory_usage_limit_bytes"] == memory.usage.limit
        assert sum(exposed.values(scraper.scrape(), "container_per_cpu_nanoseconds", container_id="c")) > 0
    else:
        assert mine["container_memory_anon_bytes"] == memory.anon
    assert exposed.value(scraper.scrape(), "holdd_tasks", namespace=NAMESPACE, status="paused") == 1
    client.tasks.resume(tasks.ResumeRequest(container_id="c"))
    end(client, "c")
    gone = scraper.scrape()
    assert not exposed.values(gone, "container_pids_current")
    assert not exposed.values(gone, "holdd_tasks", namespace=NAMESPACE)


def test_calls(client, scraper):
    def counted(name, **labels):
        service = {"grpc_service": "holdd.services.version.v1.Version", "grpc_method": "Version"}
        return sum(exposed.values(scraper.scrape(), name, **(service | labels)))

    names = ["grpc_server_started_total", "grpc_server_msg_received_total", "grpc_server_msg_sent_total",
             "grpc_server_handling_seconds_count"]  # fmt: skip
    before = [counted(name) for name in names], counted("grpc_server_handled_total", grpc_code="OK")
    for _ in range(5):
        client.version.version(version.VersionRequest())
    assert [counted(name) for name in names] == [count + 5 for count in before[0]]
    assert counted("grpc_server_handled_total", grpc_code="OK") == before[1] + 5
    assert counted("grpc_server_handling_seconds_bucket", le="10.0") >= before[1] + 5
    with pytest.raises(errors.NotFound):
        client.containers.get(containers.GetRequest(id="nobody"))
    labels = {"grpc_method": "Get", "grpc_service": "holdd.services.containers.v1.Containers", "grpc_code": "NotFound"}
    assert exposed.value(scraper.scrape(), "grpc_server_handled_total", **labels) == 1


def test_the_daemon_itself(daemon, client, scraper):
    daemon.ctr("leases", "create", "--id", "l")
    daemon.ctr("leases", "rm", "--sync", "l")
    text = scraper.scrape()
    assert exposed.value(text, "containerd_build_info_total", version="0.1.0") == 1
    assert exposed.value(text, "containerd_gc_collections_total", status="success") >= 1
    assert exposed.value(text, "containerd_gc_gc_seconds_count") >= 1
    descriptors = len(os.listdir(f"/proc/{daemon.process.pid}/fd"))
    assert exposed.value(text, "process_open_fds") == pytest.approx(descriptors, abs=3)
    assert exposed.value(text, "process_resident_memory_bytes") > 1 << 20
    assert exposed.value(text, "holdd_event_subscribers") == 1  # the restart monitor
    assert exposed.value(text, "holdd_pool_threads", pool="scrape") == 1


def test_scrapes_beside_deletes(client, scraper, address, tmp_path):
    """Nobody is told nonsense, and the API goes on."""
    rootfs = busybox(tmp_path)
    failures = []

    def scrape():
        try:
            with Scraper(address) as mine:
                for _ in range(SCRAPES // SCRAPERS):
                    mine.scrape()
        except Exception as exc:
            failures.append(exc)

    threads = [threading.Thread(target=scrape) for _ in range(SCRAPERS)]
    for thread in threads:
        thread.start()
    for number in range(LIVES):
        started(client, f"c{number}", rootfs, "/bin/sleep", "1000", namespace=NAMESPACE)
        exposed.parse(scraper.scrape())
        end(client, f"c{number}")
    for thread in threads:
        thread.join()
    assert not failures
    assert not exposed.values(scraper.scrape(), "container_pids_current")


QUERIES = [
    (panel["title"], target["expr"])
    for panel in json.loads(Path(__file__).parents[2].joinpath("packaging/grafana.json").read_text())["panels"]
    for target in panel["targets"]
]


@pytest.fixture(scope="module")
def scrapes(daemon, address, tmp_path_factory):
    """What the dashboard is for, told twice: by the daemon, and by containers of either version."""
    told = []
    with daemon.client(NAMESPACE) as client, Scraper(address) as scraper:
        container(client, "c", "/bin/true", namespace=NAMESPACE)
        rootfs = busybox(tmp_path_factory.mktemp("rootfs"))
        client.tasks.create(tasks.CreateRequest(container_id="c", rootfs=(rootfs,)))
        for _ in range(2):
            with pytest.raises(errors.NotFound):
                client.containers.get(containers.GetRequest(id="nobody"))
            text = scraper.scrape()
            told.append("".join(line for line in text.splitlines(True) if "container_" not in line))
        end(client, "c")
    found = {}
    for version_, files in FILES.items():
        cgroups = Cgroups()
        tasks_ = [task(tmp_path_factory.mktemp(version_), "c", files)]
        text = Containers(cgroups, lambda tasks_=tasks_: tasks_, GROUPS).text()
        cgroups.close()
        found[version_] = [internal + text for internal in told]
    return found


@pytest.mark.parametrize("version_", FILES)
@pytest.mark.parametrize(("title", "query"), QUERIES)
def test_the_dashboard_finds_something(scrapes, version_, title, query):
    asked = Query(query.replace("$__rate_interval", "5m").replace("$namespace", ".*"))
    found = asked.evaluate(*scrapes[version_], seconds=60)
    assert found, title
    assert all(value >= 0 for _, value in found)


@pytest.mark.parametrize(
    "query",
    ["nosuch", 'holdd_tasks{nosuch="x"}', "sum by (nosuch) (holdd_tasks)", "rate(holdd_tasks)", "holdd_tasks)",
     "rate(nosuch[5m])"],
)  # fmt: skip
def test_a_query_that_finds_nothing(scrapes, query):
    try:
        found = Query(query).evaluate(*scrapes["v1"], seconds=60)
    except (AssertionError, KeyError):
        return  # it says so
    assert not found


def test_off_by_default(tmp_path):
    with Daemon(tmp_path) as daemon:
        sockets = set()
        for fd in Path(f"/proc/{daemon.process.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                sockets.add(os.readlink(fd))
        tcp = [line.split()[9] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        assert not sockets & {f"socket:[{inode}]" for inode in tcp}


def test_an_address_that_is_taken(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        daemon = Daemon(tmp_path, f'[metrics]\naddress = "127.0.0.1:{port}"\n')
        with pytest.raises(RuntimeError, match=f"holdd: metrics: listen at 127.0.0.1:{port}: address already in use"):
            daemon.start()
        assert daemon.process.wait() == 1
        assert not os.path.ismount(daemon.state)
