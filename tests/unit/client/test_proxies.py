"""The proxies over a real socket. Whether they satisfy their ports is for the contract suites to say."""

import hashlib
import os
from collections.abc import AsyncIterator, Iterator, Sequence

import pytest

from daemon.client import connect
from daemon.client.client import Client
from daemon.client.proxies import RemoteContent, RemoteSnapshotter
from spec import errors
from spec.api import content as content_api
from spec.api import snapshots as snapshots_api
from spec.base import Empty
from spec.records import ContentInfo, IngestStatus, Kind, SnapshotInfo
from spec.types import Mount, Usage
from tests.echo import SECONDS, Server


class MemoryContent:
    """The content API over dicts."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.ingests: dict[str, bytearray] = {}
        self.open_refs: set[str] = set()
        self.chunks: list[int] = []

    def info(self, request: content_api.InfoRequest) -> ContentInfo:
        if request.digest not in self.blobs:
            raise errors.NotFound(f"blob {request.digest}")
        return ContentInfo(digest=request.digest, size=len(self.blobs[request.digest]))

    def update(self, request: content_api.UpdateRequest) -> ContentInfo:
        assert request.fields == ["labels.a"]
        return request.info

    async def list(self, request: content_api.ListRequest) -> AsyncIterator[content_api.ListReply]:
        for digest in self.blobs:
            yield content_api.ListReply(info=[ContentInfo(digest=digest)])

    def delete(self, request: content_api.DeleteRequest) -> Empty:
        del self.blobs[request.digest]
        return Empty()

    def open(self, request: content_api.OpenRequest) -> tuple[content_api.OpenReply, Sequence[int]]:
        data = self.blobs[request.digest]
        fd = os.memfd_create("blob")
        os.write(fd, data)
        return content_api.OpenReply(size=len(data)), [fd]

    def status(self, request: content_api.StatusRequest) -> IngestStatus:
        return IngestStatus(ref=request.ref, offset=len(self.ingests[request.ref]))

    def list_statuses(self, request: content_api.ListStatusesRequest) -> content_api.ListStatusesReply:
        return content_api.ListStatusesReply(statuses=[IngestStatus(ref=ref) for ref in self.ingests])

    def abort(self, request: content_api.AbortRequest) -> Empty:
        assert request.ref not in self.open_refs
        del self.ingests[request.ref]
        return Empty()

    async def write(
        self, requests: AsyncIterator[content_api.WriteRequest]
    ) -> AsyncIterator[content_api.WriteReply]:
        ref = ""
        try:
            async for request in requests:
                if not ref:
                    if request.ref in self.open_refs:
                        raise errors.Unavailable("another writer")
                    ref = request.ref
                    self.open_refs.add(ref)
                data = self.ingests.setdefault(ref, bytearray())
                assert request.action != "write" or request.offset == len(data)
                data += request.data
                self.chunks.append(len(request.data))
                digest = "sha256:" + hashlib.sha256(data).hexdigest()
                if request.action == "commit":
                    if request.expected not in ("", digest):
                        raise errors.FailedPrecondition("digest")
                    self.blobs[digest] = bytes(data)
                    del self.ingests[ref]
                yield content_api.WriteReply(action=request.action, offset=len(data), digest=digest)
                if request.action == "commit":
                    return
        finally:
            self.open_refs.discard(ref)


class OneSnapshot:
    """The snapshots API, remembering what it was asked."""

    def __init__(self) -> None:
        self.asked: list[object] = []

    def __getattr__(self, name: str):
        replies = {
            "prepare": snapshots_api.MountsReply(mounts=[Mount(type="bind", source="/a")]),
            "view": snapshots_api.MountsReply(mounts=[Mount(type="bind", options=["ro"])]),
            "mounts": snapshots_api.MountsReply(),
            "stat": SnapshotInfo(name="k", kind=Kind.ACTIVE),
            "update": SnapshotInfo(name="k", labels={"a": "b"}),
            "usage": Usage(size=5, inodes=1),
        }
        if name not in (*replies, "commit", "remove", "cleanup"):
            raise AttributeError(name)

        def answer(request: object) -> object:
            self.asked.append(request)
            return replies.get(name, Empty())

        return answer

    async def list(self, request: snapshots_api.ListRequest) -> AsyncIterator[snapshots_api.ListReply]:
        yield snapshots_api.ListReply(info=[SnapshotInfo(name="a"), SnapshotInfo(name="b")])
        yield snapshots_api.ListReply(info=[SnapshotInfo(name="c")])


@pytest.fixture
def content() -> MemoryContent:
    return MemoryContent()


@pytest.fixture
def snapshots() -> OneSnapshot:
    return OneSnapshot()


@pytest.fixture
def client(content: MemoryContent, snapshots: OneSnapshot) -> Iterator[Client]:
    extra = [(content_api.Content, content), (snapshots_api.Snapshots, snapshots)]
    with Server(extra=extra) as server, connect(server.path, namespace="n", timeout_s=SECONDS) as client:
        yield client


def test_blob_goes_and_comes(client: Client, content: MemoryContent):
    store = RemoteContent(client)
    data = os.urandom(2_500_000)
    with store.writer("ref", total=len(data)) as writer:
        assert writer.write(data) == len(data)
        assert writer.status().offset == len(data)
        digest = writer.digest()
        assert writer.commit(len(data), digest) == digest
    assert max(content.chunks) <= 1 << 20
    assert store.info(digest).size == len(data)
    assert [info.digest for info in store.list()] == [digest]
    with store.reader(digest) as reader:
        assert reader.size == len(data)
        assert (reader.read(10), reader.pread(5, 100), reader.read()) == (data[:10], data[100:105], data[10:])
        assert reader.read() == b""
        assert os.fstat(reader.fileno()).st_size == len(data)
    store.delete(digest)
    with pytest.raises(errors.NotFound):
        store.info(digest)


def test_closed_writer_can_be_resumed_at_once(client: Client):
    store = RemoteContent(client)
    for number in range(20):
        with store.writer("ref") as writer:
            assert writer.status().offset == number
            writer.write(b"x")
    assert store.status("ref").offset == 20
    assert [status.ref for status in store.statuses()] == ["ref"]
    store.abort("ref")
    assert store.statuses() == []


def test_second_writer_is_turned_away(client: Client):
    store = RemoteContent(client)
    with store.writer("ref"), pytest.raises(errors.Unavailable, match="another writer"):
        store.writer("ref")


def test_writer_survives_a_failed_commit(client: Client):
    with RemoteContent(client).writer("ref") as writer:
        writer.write(b"ab")
        with pytest.raises(errors.FailedPrecondition):
            writer.commit(0, "sha256:" + "0" * 64)
        writer.write(b"c")
        assert writer.commit() == "sha256:" + hashlib.sha256(b"abc").hexdigest()


def test_truncated_writer_starts_again(client: Client):
    with RemoteContent(client).writer("ref") as writer:
        writer.write(b"wrong")
        writer.truncate()
        assert writer.status().offset == 0
        assert writer.commit() == "sha256:" + hashlib.sha256(b"").hexdigest()


def test_update_of_labels(client: Client):
    info = ContentInfo(digest="sha256:" + "0" * 64, labels={"a": "b"})
    assert RemoteContent(client).update(info, ["labels.a"]) == info


def test_snapshotter_asks_for_itself(client: Client, snapshots: OneSnapshot):
    remote = RemoteSnapshotter(client, "overlay")
    assert remote.prepare("k", "p", {"a": "b"}) == [Mount(type="bind", source="/a")]
    assert remote.view("v")[0].options == ["ro"]
    assert remote.mounts("k") == ()
    remote.commit("name", "k", usage=Usage(size=1))
    assert remote.stat("k").kind is Kind.ACTIVE
    assert remote.update(SnapshotInfo(name="k"), ["labels"]).labels == {"a": "b"}
    assert remote.usage("k") == Usage(size=5, inodes=1)
    assert [info.name for info in remote.list()] == ["a", "b", "c"]
    remote.remove("k")
    remote.cleanup()
    remote.close()
    assert snapshots.asked[0] == snapshots_api.PrepareRequest(
        snapshotter="overlay", key="k", parent="p", labels={"a": "b"}
    )
    assert snapshots.asked[3] == snapshots_api.CommitRequest(snapshotter="overlay", name="name", key="k")
    assert {request.snapshotter for request in snapshots.asked} == {"overlay"}
