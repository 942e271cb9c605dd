"""Checkpoints that are restored, by runc and a CRIU that works on this kernel."""

import contextlib
import shutil
import time
from pathlib import Path

import pytest

from spec import errors
from spec.api import containers, images, leases, tasks
from spec.oci import build
from spec.oci.checkpoint import CRIU
from spec.records import CheckpointOptions, Container, RuntimeRef, Status
from spec.types import Stdio

pytestmark = [pytest.mark.root, pytest.mark.skipif(shutil.which("criu") is None, reason="no criu")]

COUNT = "i=0; while :; do i=$((i+1)); echo $i; /bin/sleep 0.05; done"


@pytest.fixture
def counting(client, rootfs, tmp_path):
    """The log of a container `c` that counts."""
    log = tmp_path / "log"
    spec = build.with_args(build.default_spec("default", "c"), ("/bin/sh", "-c", COUNT))
    spec = build.with_host_namespace(spec, "network")  # CRIU locks one of its own with iptables
    record = Container(id="c", runtime=RuntimeRef(name="runc"), spec=build.encode(build.with_root(spec, rootfs.source)))
    client.containers.create(containers.CreateRequest(container=record))
    # a pipe, as a terminal or a log file of the host's could not be found again by CRIU
    client.tasks.create(tasks.CreateRequest(container_id="c", stdio=logged(log)))
    client.tasks.start(tasks.StartRequest(container_id="c"))
    yield log
    for row in client.containers.list(containers.ListRequest()).containers:
        end(client, row.id)
        client.containers.delete(containers.DeleteRequest(id=row.id))


def logged(log):
    """Through a logger, which reads a pipe."""
    program = log.with_name("logger")
    program.write_text("#!/bin/sh\nexec 5>&-\nexec cat <&3 >> $2\n")
    program.chmod(0o755)
    return Stdio(stdout=f"binary://{program}?to={log}")


def end(client, id):
    with contextlib.suppress(errors.NotFound):
        client.tasks.kill(tasks.KillRequest(container_id=id, signal=9))
        client.tasks.wait(tasks.WaitRequest(container_id=id))
    with contextlib.suppress(errors.NotFound):
        client.tasks.delete(tasks.DeleteRequest(container_id=id))


def counted(log, at_least):
    """What the log says, once it has come so far."""
    deadline = time.monotonic() + 60
    while True:
        lines = [int(line) for line in (log.read_text().split() if log.exists() else ())]
        if lines and lines[-1] >= at_least:
            return lines
        assert time.monotonic() < deadline, lines
        time.sleep(0.05)


def status(client, id="c"):
    return client.tasks.get(tasks.GetRequest(container_id=id)).status


def test_what_was_checkpointed_goes_on_where_it_was(client, counting, tmp_path):
    counted(counting, 5)
    lease = client.leases.create(leases.CreateRequest()).id
    with client.using(lease=lease) as held:
        request = tasks.CheckpointRequest(container_id="c", options=CheckpointOptions(exit=True))
        tar = next(part for part in held.tasks.checkpoint(request).descriptors if part.media_type == CRIU)
    client.tasks.wait(tasks.WaitRequest(container_id="c"))
    client.tasks.delete(tasks.DeleteRequest(container_id="c"))
    before = counted(counting, 5)
    again = tmp_path / "again"
    client.tasks.create(tasks.CreateRequest(container_id="c", stdio=logged(again), checkpoint=tar))
    assert client.tasks.get(tasks.GetRequest(container_id="c")).pid == 0
    assert status(client) is Status.CREATED
    pid = client.tasks.start(tasks.StartRequest(container_id="c")).pid
    after = counted(again, before[-1] + 3)
    assert before[-1] <= after[0] <= before[-1] + 1
    assert status(client) is Status.RUNNING
    assert pid in [found.pid for found in client.tasks.list_pids(tasks.ListPidsRequest(container_id="c")).processes]
    client.tasks.kill(tasks.KillRequest(container_id="c", signal=9))
    assert client.tasks.wait(tasks.WaitRequest(container_id="c")).exit_status == 137


def test_ctr_makes_an_image_of_it_and_a_container_of_that(client, daemon, counting):
    before = counted(counting, 5)
    daemon.ctr("containers", "checkpoint", "--task", "c", "example.org/c:1")
    assert status(client) is Status.RUNNING
    counted(counting, before[-1] + 3)
    daemon.ctr("containers", "restore", "--live", "-d", "c2", "example.org/c:1")
    assert status(client, "c2") is Status.RUNNING
    pid = client.tasks.get(tasks.GetRequest(container_id="c2")).pid
    assert Path(f"/proc/{pid}/cgroup").read_text() == "0::/default/c2\n"
    client.images.delete(images.DeleteRequest(name="example.org/c:1"))


def test_one_that_is_not_started_goes_without_a_trace(client, daemon, counting):
    counted(counting, 2)
    name = daemon.ctr("tasks", "checkpoint", "--exit", "c").stdout.strip()
    assert name.startswith("containerd.io/checkpoint/c:")
    daemon.ctr("tasks", "rm", "c", check=False)
    daemon.ctr("containers", "rm", "c")
    daemon.ctr("containers", "restore", "--live", "-d", "c", name)
    assert status(client) is Status.RUNNING
    client.images.delete(images.DeleteRequest(name=name))
