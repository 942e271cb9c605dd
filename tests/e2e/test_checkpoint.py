"""Checkpoints: what the runtime and CRIU say reaches whoever asked, and what they write is kept."""

import io
import tarfile

import pytest

from daemon.client.proxies import RemoteContent
from daemon.flows.checkpoint import CRIU, SPEC
from spec import errors
from spec.api import containers, leases, tasks
from spec.records import CheckpointOptions, Status
from tests.containers import busybox, container
from tests.daemon import Daemon

# runc, but for what needs a CRIU that works on this kernel: what it writes stands for images.
RUNTIME = r"""#!/bin/sh
case "$*" in *" checkpoint "*) ;; *) exec runc "$@";; esac
echo "$@" >> $0.asked
while [ $# -gt 0 ]; do case $1 in --image-path) image=$2;; --work-path) work=$2;; esac; shift; done
if [ -e $0.fail ]; then
    echo '(00.1) fine\n(00.2) Error (criu/x.c:7): no such luck\n(00.3) Error (criu/y.c:8): so' > $work/dump.log
    echo "criu failed: type NOTIFY errno 0" >&2
    exit 1
fi
mkdir -p $image
echo state > $image/core-1.img
"""


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "runtime"
    path.write_text(RUNTIME)
    path.chmod(0o755)
    return path


@pytest.fixture
def client(tmp_path, program):
    """Of a daemon with a task of either runtime, both running."""
    with Daemon(tmp_path) as daemon, daemon.client() as client:
        rootfs = busybox(tmp_path)
        for id, runtime in (("one", str(program)), ("real", "runc")):
            container(client, id, "/bin/sleep", "1000", runtime=runtime)
            client.tasks.create(tasks.CreateRequest(container_id=id, rootfs=(rootfs,)))
            client.tasks.start(tasks.StartRequest(container_id=id))
        yield client


def asked(client, id="one", **options):
    return client.tasks.checkpoint(
        tasks.CheckpointRequest(container_id=id, options=CheckpointOptions(**options))
    ).descriptors


def status(client, id="one"):
    return client.tasks.get(tasks.GetRequest(container_id=id)).status


def test_a_checkpoint_goes_into_the_content_store(client):
    lease = client.leases.create(leases.CreateRequest()).id
    with client.using(lease=lease) as under:
        images, spec = asked(under)
        store = RemoteContent(under)
        with store.reader(images.digest) as blob, tarfile.open(fileobj=io.BytesIO(blob.read())) as archive:
            assert archive.extractfile("./core-1.img").read() == b"state\n"
        with store.reader(spec.digest) as blob:
            assert blob.read() == client.containers.get(containers.GetRequest(id="one")).spec
    assert (images.media_type, spec.media_type) == (CRIU, SPEC)
    assert status(client) is Status.RUNNING


def test_a_checkpoint_stays_where_it_is_wanted(client, tmp_path, program):
    image, work = tmp_path / "image", tmp_path / "work"
    work.mkdir()
    options = {"exit": True, "open_tcp": True, "empty_namespaces": ("network",), "parent_path": "/p"}
    assert asked(client, image_path=str(image), work_path=str(work), **options) == ()
    assert (image / "core-1.img").exists()
    flags = program.with_name("runtime.asked").read_text().partition(" checkpoint ")[2].split()
    expected = f"--image-path {image} --work-path {work} --tcp-established --empty-ns network --parent-path /p one"
    assert flags == expected.split()


def test_what_criu_says_is_the_error(client, program):
    program.with_name("runtime.fail").touch()
    said = r"checkpoint container one by runtime .*: criu failed: .*; criu: Error \(criu/x.c:7\): no such luck$"
    with pytest.raises(errors.Unknown, match=said):
        asked(client)
    assert status(client) is Status.RUNNING


def test_a_criu_that_is_missing_or_does_not_work_here(client, tmp_path):
    """Where it works there is a checkpoint."""
    failed = ""
    try:
        asked(client, "real", image_path=str(tmp_path / "image"))
    except errors.Unknown as exc:
        failed = exc.message
    assert "criu" in failed or any((tmp_path / "image").iterdir())
    assert status(client, "real") is Status.RUNNING


def test_only_what_runs_has_a_state(client):
    client.tasks.kill(tasks.KillRequest(container_id="one", signal=9))
    client.tasks.wait(tasks.WaitRequest(container_id="one"))
    with pytest.raises(errors.FailedPrecondition, match="not running"):
        asked(client)
