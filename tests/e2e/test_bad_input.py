"""Bad input: a typed error that names the object, nothing half made, and the daemon goes on."""

import os
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spec import errors, names
from spec.api import containers, content, images, namespaces, snapshots, tasks
from spec.oci.image import Descriptor
from spec.records import Container, Image, Namespace, RuntimeRef
from tests.containers import busybox, container
from tests.daemon import Daemon


@pytest.fixture
def client(daemon):
    with daemon.client() as client:
        yield client
        assert daemon.answers()


def nothing_left(daemon):
    tasks_dir = daemon.state / "tasks"
    left = [str(path) for path in tasks_dir.glob("*/*")] if tasks_dir.exists() else []
    runc = daemon.state / "runc"
    left += [str(path) for path in runc.glob("*/*")] if runc.exists() else []
    return not left


def test_a_missing_runtime(daemon, client, tmp_path):
    container(client, "c", "/bin/true", runtime="/nowhere/runc")
    with pytest.raises(errors.Error, match="/nowhere/runc") as caught:
        client.tasks.create(tasks.CreateRequest(container_id="c", rootfs=(busybox(tmp_path),)))
    assert isinstance(caught.value, errors.NotFound | errors.FailedPrecondition)
    with pytest.raises(errors.NotFound):
        client.tasks.get(tasks.GetRequest(container_id="c"))
    assert nothing_left(daemon)


def test_an_unknown_runtime(daemon, client, tmp_path):
    container(client, "c", "/bin/true", runtime="nosuch")
    with pytest.raises(errors.Error, match="nosuch"):
        client.tasks.create(tasks.CreateRequest(container_id="c", rootfs=(busybox(tmp_path),)))
    assert nothing_left(daemon)


def test_a_command_that_is_not_there(daemon, client, tmp_path):
    container(client, "c", "/bin/nosuch")
    rootfs = busybox(tmp_path)
    with pytest.raises(errors.Error, match="/bin/nosuch"):
        client.tasks.create(tasks.CreateRequest(container_id="c", rootfs=(rootfs,)))
    assert not client.tasks.list(tasks.ListRequest()).tasks
    assert nothing_left(daemon)


def test_duplicates(client, tmp_path):
    rootfs = busybox(tmp_path)
    container(client, "c", "/bin/sleep", "1000")
    with pytest.raises(errors.AlreadyExists, match="container c"):
        container(client, "c", "/bin/true")
    client.tasks.create(tasks.CreateRequest(container_id="c", rootfs=(rootfs,)))
    with pytest.raises(errors.AlreadyExists, match="c"):
        client.tasks.create(tasks.CreateRequest(container_id="c", rootfs=(rootfs,)))
    client.tasks.kill(tasks.KillRequest(container_id="c", signal=9))
    client.tasks.wait(tasks.WaitRequest(container_id="c"))
    client.tasks.delete(tasks.DeleteRequest(container_id="c"))
    request = snapshots.PrepareRequest(snapshotter="overlayfs", key="k", labels={names.GC_ROOT: "test"})
    client.snapshots.prepare(request)
    with pytest.raises(errors.AlreadyExists, match="k"):
        client.snapshots.prepare(snapshots.PrepareRequest(snapshotter="overlayfs", key="k"))
    client.namespaces.create(namespaces.CreateRequest(namespace=Namespace(name="n")))
    with pytest.raises(errors.AlreadyExists, match="namespace n"):
        client.namespaces.create(namespaces.CreateRequest(namespace=Namespace(name="n")))


@pytest.mark.parametrize("id", ["", "-a", "a..b", "a/b", "../x", "a" * 77, "a\0b", "\u00e4"])
def test_invalid_names(client, id):
    record = Container(id=id, runtime=RuntimeRef(name="runc"), spec=b"{}")
    with pytest.raises(errors.InvalidArgument):
        client.containers.create(containers.CreateRequest(container=record))
    with pytest.raises(errors.InvalidArgument):
        client.namespaces.create(namespaces.CreateRequest(namespace=Namespace(name=id)))


def test_an_unknown_and_an_invalid_namespace(daemon):
    with daemon.client("nosuch") as client:
        assert not client.images.list(images.ListRequest()).images
        with pytest.raises(errors.NotFound, match="namespace nosuch"):
            client.images.get(images.GetRequest(name="x"))
        with pytest.raises(errors.NotFound, match="nosuch"):
            client.namespaces.get(namespaces.GetRequest(name="nosuch"))
    with daemon.client("../etc") as client, pytest.raises(errors.InvalidArgument):
        client.images.list(images.ListRequest())
    with daemon.client("") as client, pytest.raises(errors.FailedPrecondition):
        client.images.list(images.ListRequest())


def test_objects_that_are_not_there(client):
    for call in (
        lambda: client.images.get(images.GetRequest(name="example.org/a:1")),
        lambda: client.images.delete(images.DeleteRequest(name="example.org/a:1")),
        lambda: client.containers.get(containers.GetRequest(id="nosuch")),
        lambda: client.containers.delete(containers.DeleteRequest(id="nosuch")),
        lambda: client.tasks.get(tasks.GetRequest(container_id="nosuch")),
        lambda: client.tasks.delete(tasks.DeleteRequest(container_id="nosuch")),
        lambda: client.tasks.kill(tasks.KillRequest(container_id="nosuch")),
        lambda: client.content.info(content.InfoRequest(digest="sha256:" + "0" * 64)),
        lambda: client.snapshots.stat(snapshots.StatRequest(snapshotter="overlayfs", key="nosuch")),
        lambda: client.snapshots.prepare(snapshots.PrepareRequest(snapshotter="overlayfs", key="k", parent="nosuch")),
    ):
        with pytest.raises(errors.NotFound, match=r"nosuch|example.org|sha256:0000"):
            call()


def test_arguments_that_cannot_be_right(client):
    with pytest.raises(errors.InvalidArgument, match="zfs"):
        client.snapshots.stat(snapshots.StatRequest(snapshotter="zfs", key="k"))
    for digest in ("sha256:../../../etc/passwd", "md5:" + "0" * 32, "sha256:" + "A" * 64, "sha256:", "", "\0"):
        with pytest.raises(errors.InvalidArgument):
            client.content.info(content.InfoRequest(digest=digest))
    digest = "sha256:" + "0" * 64
    for target in (Descriptor(media_type="a/b", digest=digest), Descriptor(digest=digest, size=1)):
        with pytest.raises(errors.InvalidArgument):
            client.images.create(images.CreateRequest(image=Image(name="x", target=target)))
    with pytest.raises(errors.InvalidArgument):
        client.containers.list(containers.ListRequest(filters=["id~=,"]))


def descriptors(daemon):
    return len(os.listdir(f"/proc/{daemon.process.pid}/fd"))


def settled(daemon, before):
    deadline = time.monotonic() + 10
    while descriptors(daemon) > before:
        assert time.monotonic() < deadline, (descriptors(daemon), before)
        time.sleep(0.01)


def test_garbage_on_the_socket(daemon):
    assert daemon.answers()
    before = descriptors(daemon)
    for garbage in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(4096), b"\0" * 64, struct.pack(">IIBB", 0xFFFFFFFF, 1, 1, 0)):
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(daemon.address)
            peer.sendall(garbage)
            peer.shutdown(socket.SHUT_WR)
            peer.settimeout(10)
            while peer.recv(65536):
                pass
        assert daemon.answers()
    settled(daemon, before)


def test_a_frame_over_the_limit(daemon):
    request = containers.CreateRequest(
        container=Container(id="big", runtime=RuntimeRef(name="runc"), spec=b"x" * (5 << 20))
    )
    with daemon.client() as client, pytest.raises(errors.Error) as caught:
        client.containers.create(request)
    assert isinstance(caught.value, errors.ResourceExhausted | errors.InvalidArgument)
    assert daemon.answers()


VANISHING = """
import os, sys
from daemon.client import connect
from spec.api import content
stream = connect(sys.argv[1], namespace="default").content.write()
stream.send(content.WriteRequest(action="write", ref="r", data=b"x" * 1000))
stream.receive()
os.kill(os.getpid(), 9)
"""


def test_a_client_that_vanishes_in_the_middle_of_a_stream(daemon):
    assert daemon.answers()
    before = descriptors(daemon)
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", VANISHING, daemon.address], timeout=60, check=False)
        assert done.returncode == -9
    settled(daemon, before)
    with daemon.client() as client:
        assert client.content.status(content.StatusRequest(ref="r")).offset == 1000
        client.content.abort(content.AbortRequest(ref="r"))


def test_the_daemons_directories_are_closed_to_others(daemon):
    assert daemon.root.stat().st_mode & 0o777 == 0o700
    assert daemon.state.stat().st_mode & 0o777 == 0o711
    assert Path(daemon.address).stat().st_mode & 0o777 == 0o600


def test_a_configuration_with_mistakes_is_refused_at_the_start(tmp_path):
    daemon = Daemon(tmp_path, "rot = 1\n[gc]\npause = 2\n")
    with pytest.raises(RuntimeError) as caught:
        daemon.start()
    said = str(caught.value).splitlines()
    assert [line.partition("config.toml, ")[2] for line in said] == [
        "line 1: unknown key rot; did you mean root?",
        "line 3: unknown key gc.pause; did you mean gc.pause_threshold?",
    ]
    assert not daemon.root.exists()
