"""Content: blobs and ingests of the call's namespace. Bytes go over the wire for callers that take no descriptor."""

import contextlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack
from itertools import islice

from daemon.kit import context
from daemon.kit.threads import Pool, hop
from spec import errors
from spec.api import content as api
from spec.base import Empty
from spec.ports import BlobWriter, Cancel, ContentStore
from spec.records import ContentInfo, IngestStatus

BLOCK = 100  # entries of a list message
CHUNK = 1 << 20  # bytes of a read message


class Content:
    """`scoped` makes the content store of a namespace; `raw` holds the bytes of all.

    Even what only reads hops to the pool, for a store may be in another process. Readers and writers are entered on
    the thread that opens them: they are closed even if the call ends meanwhile.
    """

    def __init__(self, scoped: Callable[[str], ContentStore], raw: ContentStore, pool: Pool) -> None:
        self._scoped = scoped
        self._raw = raw
        self._pool = pool

    async def info(self, request: api.InfoRequest) -> ContentInfo:
        return await hop(self._pool, self._content().info, request.digest)

    async def update(self, request: api.UpdateRequest) -> ContentInfo:
        return await hop(self._pool, self._content().update, request.info, request.fields)

    async def list(self, request: api.ListRequest) -> AsyncIterator[api.ListReply]:
        infos = self._content().list(request.filters)
        while block := await hop(self._pool, lambda: tuple(islice(infos, BLOCK))):
            yield api.ListReply(info=block)

    async def delete(self, request: api.DeleteRequest) -> Empty:
        await hop(self._pool, self._content().delete, request.digest)
        return Empty()

    async def read(self, request: api.ReadRequest) -> AsyncIterator[api.ReadReply]:
        content = self._content()
        with ExitStack() as held:
            reader = await hop(self._pool, lambda: held.enter_context(content.reader(request.digest)))
            offset = max(request.offset, 0)
            if offset > reader.size:
                raise errors.OutOfRange(f"reading {request.digest}: offset {offset} is past its {reader.size} bytes")
            end = min(reader.size, offset + request.size) if request.size > 0 else reader.size
            while offset < end:
                data = await hop(self._pool, reader.pread, min(CHUNK, end - offset), offset)
                if not data:
                    raise errors.DataLoss(f"reading {request.digest}: it ends at {offset} of {reader.size} bytes")
                yield api.ReadReply(offset=offset, data=data)
                offset += len(data)

    async def open(self, request: api.OpenRequest) -> tuple[api.OpenReply, Sequence[int]]:
        content = self._content()
        with ExitStack() as held:
            reader = await hop(self._pool, lambda: held.enter_context(content.reader(request.digest)))
            return api.OpenReply(size=reader.size), [os.dup(reader.fileno())]

    async def status(self, request: api.StatusRequest) -> IngestStatus:
        return await hop(self._pool, self._content().status, request.ref)

    async def list_statuses(self, request: api.ListStatusesRequest) -> api.ListStatusesReply:
        return api.ListStatusesReply(statuses=await hop(self._pool, self._content().statuses, request.filters))

    async def write(self, requests: AsyncIterator[api.WriteRequest]) -> AsyncIterator[api.WriteReply]:
        content = self._content()
        first = await anext(requests, None)
        if first is None:
            return
        # What a commit says of the blob is for the commit to check: it must not start the ingest again.
        said = (0, "") if first.action == "commit" else (first.total, first.expected)
        with ExitStack() as held:
            writer = await hop(self._pool, lambda: held.enter_context(content.writer(first.ref, *said)))
            reply = await hop(self._pool, _write, writer, first)
            yield reply
            while reply.action != "commit" and (request := await anext(requests, None)) is not None:
                reply = await hop(self._pool, _write, writer, request)
                yield reply

    async def abort(self, request: api.AbortRequest) -> Empty:
        await hop(self._pool, self._content().abort, request.ref)
        return Empty()

    async def verify(self, request: api.VerifyRequest) -> ContentInfo:
        content = self._content()
        try:
            await hop(self._pool, _verify, content, request.digest, context.cancel())
        except errors.DataLoss:
            if request.discard:
                with contextlib.suppress(errors.NotFound):  # its bytes are gone already
                    await hop(self._pool, self._raw.delete, request.digest)
            raise
        return await hop(self._pool, content.info, request.digest)

    def _content(self) -> ContentStore:
        return self._scoped(context.namespace())


def _verify(content: ContentStore, digest: str, cancel: Cancel | None) -> None:
    from daemon.flows.verify import verify_blob  # when it is first used: a start does not pay for it

    verify_blob(content, digest, cancel)


def _write(writer: BlobWriter, request: api.WriteRequest) -> api.WriteReply:
    """One message of a write stream, done."""
    if request.action not in ("stat", "write", "commit"):
        raise errors.InvalidArgument(f"writing content: action {request.action!r} is none of stat, write, commit")
    status = writer.status()
    if request.action != "stat" and request.data:
        if request.offset == 0 and status.offset:
            writer.truncate()
        elif request.offset != status.offset:
            raise errors.OutOfRange(f"writing {status.ref}: offset {request.offset}, but it is at {status.offset}")
        writer.write(request.data)
        status = writer.status()
    digest = ""
    if request.action == "stat":
        digest = writer.digest()
    elif request.action == "commit":
        digest = writer.commit(request.total, request.expected, request.labels)
    return api.WriteReply(
        action=request.action,
        started_at_ns=status.started_at_ns,
        updated_at_ns=status.updated_at_ns,
        offset=status.offset,
        total=status.total,
        digest=digest,
    )
