"""The examples of docs/ do what they say, as they stand there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from spec import errors
from spec.api import content, images, leases, snapshots
from tests.fake import Fake

DOCS = Path(__file__).parents[2] / "docs"
BUSYBOX = {"bin/busybox": Path("/bin/busybox").read_bytes()}


@pytest.fixture
def reference():
    with Fake() as fake:
        fake.image("1", BUSYBOX)
        yield f"{fake.host}/app:1"


def example(name, *args):
    argv = [sys.executable, DOCS / "examples" / f"{name}.py", *args]
    return subprocess.run(argv, capture_output=True, text=True, timeout=120, check=True).stdout.splitlines()


def test_pull_and_run(daemon, reference):
    lines = example("pull", daemon.address, reference)
    assert lines[-1].startswith("done sha256:")
    assert any(re.match(r"download\w* \S+ \d+/\d+", line) for line in lines)
    assert example("run", daemon.address, reference, "c", "/bin/busybox", "echo", "hello") == ["c: hello"]
    with daemon.client() as client:
        blocks = client.snapshots.list(snapshots.ListRequest(snapshotter="overlayfs"))
        assert [len(block.info) for block in blocks] == [1]


def test_events(daemon, reference):
    example("pull", daemon.address, reference)
    argv = [sys.executable, DOCS / "examples/events.py", daemon.address]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as listening:
        assert listening.stdout.readline() == "listening\n"
        with daemon.client() as client:
            client.images.delete(images.DeleteRequest(name=reference))
        assert listening.stdout.read().splitlines()[-1] == f"gone {reference}"


def test_lease(daemon):
    first, text, digest = example("lease", daemon.address)
    assert (first, text) == ("leases > content", "a blob that no image refers to")
    with daemon.client() as client:
        for _ in range(1000):
            if not client.leases.list(leases.ListRequest()).leases:
                break
        lease = client.leases.create(leases.CreateRequest())
        client.leases.delete(leases.DeleteRequest(id=lease.id, sync=True))
        with pytest.raises(errors.NotFound):
            client.content.info(content.InfoRequest(digest=digest))


def test_what_the_page_shows(daemon, reference):
    example("pull", daemon.address, reference)
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "client.md").read_text(), re.S)
    code = code.replace("/run/holdd/holdd.sock", daemon.address).replace("busybox", "app")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith(f"{reference} sha256:")


def test_every_example_is_named_on_the_page():
    page = (DOCS / "client.md").read_text()
    assert {path.name for path in (DOCS / "examples").iterdir()} == set(re.findall(r"examples/(\w+\.py)\)", page))


def test_leased_goes_with_the_block_and_ignores_deadlines(daemon):
    with daemon.client() as client, client.using(timeout_s=30).leased({"a": "b"}) as kept:
        (lease,) = client.leases.list(leases.ListRequest()).leases
        assert (lease.id, lease.labels["a"]) == (kept.lease, "b")
        with pytest.raises(errors.FailedPrecondition):
            client.leases.delete(leases.DeleteRequest(id=lease.id))
