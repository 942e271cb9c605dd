"""The rules of content on the wire: offsets, actions, ranges, descriptors, and calls that end early.

What every content store does is in the contract suite, which the service passes with its client's proxy.
"""

import asyncio
import os
import threading

import pytest

from daemon.content.local import LocalContent
from daemon.kit import context
from daemon.kit.threads import Pool
from daemon.services import content as service_module
from daemon.services.content import Content
from spec import digest as digests
from spec import errors
from spec.api import content as api

DATA = b"0123456789"
DIGEST = digests.of(DATA)


@pytest.fixture
def raw(tmp_path):
    return LocalContent(str(tmp_path))


@pytest.fixture
def pool():
    with Pool("content", 2) as pool:
        yield pool


@pytest.fixture
def service(raw, pool):
    with context.using(namespace="ns"):
        yield Content(lambda namespace: raw, raw, pool)


@pytest.fixture
def blob(raw):
    with raw.writer("ref") as writer:
        writer.write(DATA)
        return writer.commit()


async def each(messages):
    for message in messages:
        yield message


def replies(stream):
    async def collect():
        return [reply async for reply in stream]

    return asyncio.run(collect())


def written(service, *messages):
    return replies(service.write(each(api.WriteRequest(**message) for message in messages)))


def data(service, **request):
    return b"".join(reply.data for reply in replies(service.read(api.ReadRequest(digest=DIGEST, **request))))


def test_a_stream_of_writes(service, raw):
    found = written(
        service,
        {"ref": "ref", "total": 10, "expected": DIGEST},
        {"action": "write", "data": DATA[:4]},
        {"action": "write", "offset": 4, "data": DATA[4:]},
        {"action": "stat"},
        {"action": "commit", "total": 10, "expected": DIGEST},
        {"action": "write", "data": b"after the commit nothing is read"},
    )
    assert [(reply.action, reply.offset, reply.total) for reply in found] == [
        ("stat", 0, 10),
        ("write", 4, 10),
        ("write", 10, 10),
        ("stat", 10, 10),
        ("commit", 10, 10),
    ]
    assert [reply.digest for reply in found] == [digests.of(b""), "", "", DIGEST, DIGEST]
    assert raw.info(DIGEST).size == 10


def test_a_commit_may_bring_the_last_bytes_or_all(service, raw):
    written(service, {"action": "commit", "ref": "ref", "data": DATA, "expected": DIGEST})
    assert raw.info(DIGEST).size == 10


def test_offset_0_starts_again(service, raw):
    messages = (
        {"ref": "ref", "action": "write", "data": b"wrong"},
        {"action": "write", "data": DATA[:1]},
        {"action": "commit", "offset": 1, "data": DATA[1:]},
    )
    assert written(service, *messages)[-1].digest == DIGEST


@pytest.mark.parametrize("offset", [1, 4, 6, 1 << 40])
def test_another_offset_is_out_of_range(service, raw, offset):
    with pytest.raises(errors.OutOfRange, match="it is at 5"):
        written(
            service,
            {"ref": "ref", "action": "write", "data": b"first"},
            {"action": "write", "offset": offset, "data": b"x"},
        )
    assert raw.status("ref").offset == 5
    raw.abort("ref")


@pytest.mark.parametrize("action", ["", "truncate", "Write"])
def test_actions(service, raw, action):
    with pytest.raises(errors.InvalidArgument, match="none of stat, write, commit"):
        written(service, {"ref": "ref", "action": action})
    raw.abort("ref")


def test_a_stream_that_says_nothing(service):
    assert written(service) == []
    with pytest.raises(errors.InvalidArgument, match="ref is empty"):
        written(service, {})


def test_a_stream_that_ends_keeps_the_ingest(service, raw):
    written(service, {"ref": "ref", "action": "write", "data": DATA[:5]})
    found = written(service, {"ref": "ref"}, {"action": "commit", "offset": 5, "data": DATA[5:]})
    assert found[0].offset == 5
    assert found[1].digest == DIGEST


def test_a_call_that_ends_while_its_writer_opens_leaves_it_closed(raw, pool):
    """Otherwise its ref would be taken for good."""
    opening, go_on = threading.Event(), threading.Event()

    class Slow:
        def writer(self, *arguments):
            opening.set()
            assert go_on.wait(10)
            return raw.writer(*arguments)

    async def main():
        stream = Content(lambda namespace: Slow(), raw, pool).write(each([api.WriteRequest(ref="ref")]))
        task = asyncio.ensure_future(anext(stream))
        assert await asyncio.to_thread(opening.wait, 10)
        task.cancel()
        asyncio.get_running_loop().call_soon(go_on.set)
        with pytest.raises(asyncio.CancelledError):
            await task

    with context.using(namespace="ns"):
        asyncio.run(main())
    raw.writer("ref").close()
    raw.abort("ref")


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({}, DATA),
        ({"offset": 3}, DATA[3:]),
        ({"size": 4}, DATA[:4]),
        ({"offset": 3, "size": 4}, DATA[3:7]),
        ({"offset": 8, "size": 100}, DATA[8:]),
        ({"offset": 10}, b""),
        ({"offset": -5, "size": -1}, DATA),
    ],
)
def test_ranges(service, blob, monkeypatch, request_, expected):
    monkeypatch.setattr(service_module, "CHUNK", 3)
    assert data(service, **request_) == expected


def test_past_the_end(service, blob):
    with pytest.raises(errors.OutOfRange, match="past its 10 bytes"):
        data(service, offset=11)


def test_chunks_say_where_they_belong(service, blob, monkeypatch):
    monkeypatch.setattr(service_module, "CHUNK", 4)
    found = replies(service.read(api.ReadRequest(digest=blob, offset=1)))
    assert [(reply.offset, reply.data) for reply in found] == [(1, DATA[1:5]), (5, DATA[5:9]), (9, DATA[9:])]


def test_a_blob_cut_while_it_is_read_is_data_loss(service, blob, tmp_path, monkeypatch):
    monkeypatch.setattr(service_module, "CHUNK", 4)

    async def main():
        stream = service.read(api.ReadRequest(digest=blob))
        assert (await anext(stream)).data == DATA[:4]
        os.truncate(tmp_path / "blobs/sha256" / blob.removeprefix("sha256:"), 4)
        with pytest.raises(errors.DataLoss, match="it ends at 4 of 10"):
            await anext(stream)

    asyncio.run(main())


def test_a_descriptor_is_the_callers(service, blob):
    reply, (fd,) = asyncio.run(service.open(api.OpenRequest(digest=blob)))
    try:
        assert reply.size == 10
        assert os.pread(fd, 100, 2) == DATA[2:]
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(fd, b"x")
    finally:
        os.close(fd)


def test_lists_come_in_blocks(service, raw):
    for number in range(205):
        with raw.writer("ref") as writer:
            writer.write(b"%d" % number)
            writer.commit()
    assert [len(reply.info) for reply in replies(service.list(api.ListRequest()))] == [100, 100, 5]


def verified(service, digest, discard=False):
    return asyncio.run(service.verify(api.VerifyRequest(digest=digest, discard=discard)))


def test_a_blob_is_verified(service, blob):
    assert verified(service, blob, discard=True).size == len(DATA)
    with pytest.raises(errors.NotFound):
        verified(service, digests.of(b"other"))
    with pytest.raises(errors.InvalidArgument):
        verified(service, "nonsense")


@pytest.mark.parametrize("discard", [False, True])
def test_a_damaged_blob_stays_unless_it_is_given_up(service, raw, blob, tmp_path, discard):
    path = tmp_path / "blobs" / blob.replace(":", "/")
    path.unlink()
    path.write_bytes(DATA[:-1] + b"!")
    with pytest.raises(errors.DataLoss, match=f"content {blob} is damaged: its 10 bytes hash to sha256:"):
        verified(service, blob, discard)
    assert path.exists() != discard
