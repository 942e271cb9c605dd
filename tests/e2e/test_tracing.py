"""A pull and a run as a collector sees them, and the timelines that containers and images keep."""

import os
import re

import pytest

from spec.api import images
from tests.collector import Collector, attributes
from tests.daemon import Daemon
from tests.registry import Registry, make_image

NAMESPACE = f"traced-{os.getpid()}"
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


@pytest.fixture
def registry(tmp_path):
    with Registry(tmp_path / "registry") as running:
        make_image(tmp_path, running, "team/app:1")
        yield running


@pytest.fixture
def collector(monkeypatch):
    with Collector() as running:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", running.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        yield running


@pytest.fixture
def daemon(tmp_path, collector):
    with Daemon(tmp_path / "daemon-files") as running:
        yield running


@pytest.fixture(autouse=True)
def directories(tmp_path):
    (tmp_path / "daemon-files").mkdir()


def ancestors(span, by_id):
    while span := by_id.get(span.get("parentSpanId")):
        yield span["name"]


def test_a_pull_and_a_run(daemon, registry, collector, monkeypatch):
    monkeypatch.setenv("TRACEPARENT", f"00-{TRACE}-{PARENT}-01")
    reference = f"{registry.host}/team/app:1"
    daemon.ctr("images", "pull", reference, namespace=NAMESPACE)
    daemon.ctr("run", "-d", reference, "c", "sleep", "1000", namespace=NAMESPACE)
    spans = collector.wait(lambda spans: any(span["name"].endswith("Tasks/Start") for span in spans))
    by_id = {span["spanId"]: span for span in spans}
    assert {span["traceId"] for span in spans if "Version" not in span["name"]} == {TRACE}
    expected = {
        "holdd.services.transfer.v1.Transfer/Transfer": [],
        "pull": ["holdd.services.transfer.v1.Transfer/Transfer"],
        "resolve": ["pull", "holdd.services.transfer.v1.Transfer/Transfer"],
        "HTTP GET": ["pull"],
        "fetch": ["pull"],
        "unpack": ["pull"],
        "commit": ["pull"],
        "runtime": ["holdd.services.tasks.v1.Tasks/Create"],
        "root filesystem": ["holdd.services.tasks.v1.Tasks/Create"],
        "start": ["holdd.services.tasks.v1.Tasks/Start"],
    }
    for name, above in expected.items():
        found = [span for span in spans if span["name"] == name]
        assert found, name
        assert set(above) <= set(ancestors(found[0], by_id)), name
        assert all(int(span["startTimeUnixNano"]) < int(span["endTimeUnixNano"]) for span in found)
    (create,) = (span for span in spans if span["name"] == "holdd.services.tasks.v1.Tasks/Create")
    assert create["parentSpanId"] == PARENT
    assert attributes(create).items() >= {"rpc.method": "Create", "holdd.namespace": NAMESPACE}.items()
    assert collector.resources[0]["service.name"] == "holdd"


def test_a_timeline_without_a_collector(tmp_path, registry):
    with Daemon(tmp_path / "daemon-files") as daemon:
        reference = f"{registry.host}/team/app:1"
        daemon.ctr("images", "pull", reference, namespace=NAMESPACE)
        daemon.ctr("run", "-d", reference, "c", "sleep", "1000", namespace=NAMESPACE)
        shown = daemon.ctr("containers", "info", "--timing", "c", namespace=NAMESPACE).stdout
        rows = phases(shown)
        assert rows[-1][0] == "start"
        assert {"bundle", "root filesystem", "shim", "start"} <= {name for name, *_ in rows}
        assert ("runtime", "runc") in {(name, of) for name, _, _, of in rows}
        daemon.kill()
        daemon.start()
        assert daemon.ctr("containers", "info", "--timing", "c", namespace=NAMESPACE).stdout == shown
        refused = daemon.ctr("containers", "info", "--timing", "none", namespace=NAMESPACE, check=False)
        assert (refused.returncode, refused.stderr) == (1, "ctr: task none not found\n")


def test_the_timeline_of_an_image(tmp_path, registry):
    with Daemon(tmp_path / "daemon-files") as daemon:
        reference = f"{registry.host}/team/app:1"
        daemon.ctr("images", "pull", reference, namespace=NAMESPACE)
        daemon.ctr("images", "tag", reference, "example.org/other:1", namespace=NAMESPACE)
        rows = phases(daemon.ctr("images", "inspect", "--timing", reference, namespace=NAMESPACE).stdout)
        assert (rows[0][0], rows[0][3]) == ("resolve", reference)
        with daemon.client(NAMESPACE) as client:
            target = client.images.get(images.GetRequest(name=reference)).target
            (listed, _) = client.images.list(images.ListRequest()).images
            assert not listed.timing
        assert target.digest in {of for name, _, _, of in rows if name == "fetch"}
        layers = {of for name, _, _, of in rows if name == "unpack"}
        assert layers <= {of for name, _, _, of in rows if name == "fetch"}
        assert len(layers) == len([name for name, *_ in rows if name == "commit"]) > 0
        tagged = daemon.ctr("images", "inspect", "--timing", "example.org/other:1", namespace=NAMESPACE)
        assert phases(tagged.stdout) == []


def phases(shown):
    """The rows of a timeline, their times as numbers that make sense."""
    header, *rows = (re.split(r"\s{2,}", line) for line in shown.splitlines())
    assert header == ["PHASE", "AT MS", "TOOK MS", "OF"]
    assert [float(row[1]) for row in rows] == sorted(float(row[1]) for row in rows)
    assert all(float(row[1]) >= 0 and float(row[2]) >= 0 for row in rows)
    return [tuple((*row, "")[:4]) for row in rows]


def test_an_environment_that_makes_no_sense(tmp_path, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://x")
    with pytest.raises(RuntimeError, match="holdd: tracing: endpoint 'ftp://x/v1/traces' is no http address"):
        Daemon(tmp_path).start()
