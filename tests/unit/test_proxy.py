"""Components in other processes: found again when they come back, named when they are not there."""

import threading
import time

import pytest

from daemon import proxy
from daemon.config import ProxyPlugin
from daemon.kit import context
from daemon.proxy import ProxyContent, ProxySnapshotter
from spec import errors
from spec.api import content as content_api
from spec.api import snapshots as snapshots_api
from spec.records import IngestStatus, SnapshotInfo
from spec.types import Usage
from tests.echo import SECONDS, Server


class Snapshots:
    """The snapshots API, saying in labels who asks."""

    def stat(self, request):
        labels = {"namespace": context.namespace(), "lease": context.lease(), "asked": request.snapshotter}
        return SnapshotInfo(name=request.key, labels=labels)

    def usage(self, request):
        return Usage(size=7)

    def remove(self, request):
        raise errors.FailedPrecondition("it has children")

    async def list(self, request):
        yield snapshots_api.ListReply(info=[SnapshotInfo(name=context.namespace())])


class Content:
    def status(self, request):
        return IngestStatus(ref=f"{context.namespace()}/{request.ref}")


def serving():
    return Server(extra=[(snapshots_api.Snapshots, Snapshots()), (content_api.Content, Content())])


def plugin(address, **more):
    return ProxyPlugin(type="snapshot", address=address, timeout_s=SECONDS, **more)


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(proxy, "DIAL_S", 0.0)


def made(request, address, **more):
    snapshotter = ProxySnapshotter("other", plugin(address, **more))
    request.addfinalizer(snapshotter.close)
    return snapshotter


def test_calls_keep_their_namespace_and_lease(request):
    with serving() as server:
        snapshots = made(request, server.path)
        with context.using(namespace="one", lease="mine"):
            assert snapshots.stat("key").labels == {"namespace": "one", "lease": "mine", "asked": "other"}
            assert [info.name for info in snapshots.list()] == ["one"]
        with context.using(namespace="two"):
            assert snapshots.stat("key").labels["namespace"] == "two"
        assert snapshots.stat("key").labels["namespace"] == proxy.NAMESPACE  # the daemon asks for itself
        content = ProxyContent("blobs", plugin(server.path))
        with context.using(namespace="one"):
            assert content.status("ref").ref == "one/ref"
        content.close()


def test_what_it_is_said_to_have(request):
    found = made(request, "/nowhere", capabilities=("rebase",), platform="linux/amd64", exports={"root": "/a"})
    assert found.capabilities == {"rebase"}
    assert found.platforms == ("linux/amd64",)
    assert found.exports == {"root": "/a", "address": "/nowhere"}


def test_one_that_is_not_there_is_named(request, tmp_path, impatient):
    snapshots = made(request, str(tmp_path / "nobody.sock"))
    for call in (lambda: snapshots.stat("key"), lambda: list(snapshots.list()), snapshots.cleanup):
        with pytest.raises(errors.Unavailable, match=r"proxy plugin other: connecting to .*nobody\.sock"):
            call()


def test_its_own_errors_are_its_own(request):
    with serving() as server, pytest.raises(errors.FailedPrecondition, match=r"^it has children$"):
        made(request, server.path).remove("key")


def test_one_that_comes_back_is_found(request, impatient):
    with serving() as server:
        snapshots = made(request, server.path)
        assert snapshots.usage("key") == Usage(size=7)
    with pytest.raises(errors.Unavailable):
        snapshots.usage("key")
    with serving() as server:
        snapshots._peer._pool.address = server.path  # a server of the tests has a new path each time
        assert snapshots.usage("key") == Usage(size=7)


def test_a_call_waits_for_one_that_is_starting(request, tmp_path, monkeypatch):
    """The server comes when the call has found nobody twice."""
    monkeypatch.setattr(proxy, "DIAL_S", SECONDS)
    pauses = []
    second = threading.Event()

    def sleep(seconds):
        pauses.append(seconds)
        if len(pauses) == 2:
            second.set()
            started.wait(SECONDS)

    started = threading.Event()
    monkeypatch.setattr(time, "sleep", sleep)
    snapshots = made(request, str(tmp_path / "late.sock"))
    found = []
    thread = threading.Thread(target=lambda: found.append(snapshots.usage("key")))
    thread.start()
    assert second.wait(SECONDS)
    with serving() as server:
        (tmp_path / "late.sock").symlink_to(server.path)
        started.set()
        thread.join(SECONDS)
    assert found == [Usage(size=7)]
    assert pauses == [proxy.FIRST_PAUSE_S, proxy.FIRST_PAUSE_S * 2]


def test_who_is_known_to_be_down_is_tried_once(request, tmp_path, monkeypatch):
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    clock = iter(range(1000))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    snapshots = ProxySnapshotter("other", ProxyPlugin(type="snapshot", address=str(tmp_path / "no"), timeout_s=0))
    with pytest.raises(errors.Unavailable):
        snapshots.usage("key")
    assert pauses  # the first call waited
    pauses.clear()
    with pytest.raises(errors.Unavailable):
        snapshots.usage("key")
    assert pauses == []
    snapshots.close()
