"""The daemon's content store, snapshotters and differ as ports, so that a flow runs in any process. Knows only the
API."""

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from types import TracebackType

from daemon.client.client import Client
from spec import errors
from spec.api import content as content_api
from spec.api import diff as diff_api
from spec.api import introspection as introspection_api
from spec.api import snapshots as snapshots_api
from spec.api.service import Duplex
from spec.oci.image import Descriptor
from spec.ports import Applied, Cancel, Source, Tail
from spec.records import ContentInfo, IngestStatus, Labels, SnapshotInfo
from spec.types import Mount, Usage

CHUNK_BYTES = 1 << 20
PLUGIN_TYPE = "io.holdd.snapshotter.v1"


class RemoteBlobReader:
    """A ports.BlobReader over a descriptor of the blob's file: its bytes do not pass through the daemon."""

    def __init__(self, fd: int, size: int) -> None:
        self.size = size
        self._fd = fd
        self._offset = 0

    def read(self, size: int = -1, /) -> bytes:
        data = self.pread(self.size - self._offset if size < 0 else size, self._offset)
        self._offset += len(data)
        return data

    def pread(self, size: int, offset: int, /) -> bytes:
        try:
            return os.pread(self._fd, size, offset)
        except OSError as exc:
            raise errors.from_os(exc, "reading a blob") from exc

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> "RemoteBlobReader":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class RemoteBlobWriter:
    """A ports.BlobWriter over one duplex stream: each message is answered before the next is sent."""

    def __init__(self, client: Client, ref: str, total: int, expected: str) -> None:
        self._client = client
        self._ref = ref
        self._total = total
        self._expected = expected
        self._stream: Duplex[content_api.WriteRequest, content_api.WriteReply] | None = None
        self._offset = self._ask(content_api.WriteRequest(ref=ref, total=total, expected=expected)).offset

    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        view = memoryview(data).cast("B")
        for start in range(0, len(view), CHUNK_BYTES):
            chunk = bytes(view[start : start + CHUNK_BYTES])
            reply = self._ask(self._message("write", offset=self._offset, data=chunk))
            self._offset = reply.offset
        return len(view)

    def status(self) -> IngestStatus:
        reply = self._ask(self._message("stat"))
        return IngestStatus(
            ref=self._ref,
            offset=reply.offset,
            total=reply.total,
            expected=self._expected,
            started_at_ns=reply.started_at_ns,
            updated_at_ns=reply.updated_at_ns,
        )

    def digest(self) -> str:
        return self._ask(self._message("stat")).digest

    def truncate(self) -> None:
        """Drops the ingest and opens it again, as the API has no other way to make it empty."""
        self.close()
        self._client.content.abort(content_api.AbortRequest(ref=self._ref))
        self._offset = self._ask(self._message("stat")).offset

    def tail(self) -> Tail:
        raise errors.Unimplemented(f"reading {self._ref} before its commit: the API has no call for it")

    def commit(self, size: int = 0, expected: str = "", labels: Labels | None = None) -> str:
        request = content_api.WriteRequest(
            action="commit", ref=self._ref, total=size, expected=expected, offset=self._offset, labels=labels or {}
        )
        digest = self._ask(request).digest
        self.close()
        return digest

    def close(self) -> None:
        """When it returns the daemon has closed the ingest, so that it can be opened again at once."""
        stream, self._stream = self._stream, None
        if stream is None:
            return
        try:
            stream.close_send()
            while True:
                stream.receive()
        except (EOFError, errors.Error):
            pass
        finally:
            stream.close()

    def _message(self, action: str, offset: int = 0, data: bytes = b"") -> content_api.WriteRequest:
        return content_api.WriteRequest(
            action=action, ref=self._ref, total=self._total, expected=self._expected, offset=offset, data=data
        )

    def _ask(self, request: content_api.WriteRequest) -> content_api.WriteReply:
        """Send and receive. An error ends the stream; the next request opens the ingest again."""
        if self._stream is None:
            self._stream = self._client.content.write()
        try:
            self._stream.send(request)
            return self._stream.receive()
        except EOFError:
            self._stream = None
            raise errors.Unavailable(f"writing {self._ref}: the daemon ended the stream") from None
        except BaseException:
            self._stream.close()
            self._stream = None
            raise

    def __enter__(self) -> "RemoteBlobWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class RemoteContent:
    """A ports.ContentStore: the store of the client's namespace."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def info(self, digest: str) -> ContentInfo:
        return self._client.content.info(content_api.InfoRequest(digest=digest))

    def update(self, info: ContentInfo, fields: Sequence[str] = ()) -> ContentInfo:
        return self._client.content.update(content_api.UpdateRequest(info=info, fields=fields))

    def list(self, filters: Sequence[str] = ()) -> Iterator[ContentInfo]:
        for reply in self._client.content.list(content_api.ListRequest(filters=filters)):
            yield from reply.info

    def delete(self, digest: str) -> None:
        self._client.content.delete(content_api.DeleteRequest(digest=digest))

    def reader(self, digest: str) -> RemoteBlobReader:
        reply, fds = self._client.content.open(content_api.OpenRequest(digest=digest))
        if len(fds) != 1:
            for fd in fds:
                os.close(fd)
            raise errors.Internal(f"opening blob {digest}: {len(fds)} descriptors came, not one")
        return RemoteBlobReader(fds[0], reply.size)

    def writer(self, ref: str, total: int = 0, expected: str = "") -> RemoteBlobWriter:
        return RemoteBlobWriter(self._client, ref, total, expected)

    def status(self, ref: str) -> IngestStatus:
        return self._client.content.status(content_api.StatusRequest(ref=ref))

    def statuses(self, filters: Sequence[str] = ()) -> Sequence[IngestStatus]:
        return self._client.content.list_statuses(content_api.ListStatusesRequest(filters=filters)).statuses

    def abort(self, ref: str) -> None:
        self._client.content.abort(content_api.AbortRequest(ref=ref))


class RemoteSnapshotter:
    """A ports.Snapshotter: the one named `name`, in the client's namespace.

    The daemon counts a committed snapshot's usage itself: what `commit` is given for it is not sent.
    """

    def __init__(self, client: Client, name: str) -> None:
        self.name = name
        self._client = client

    @cached_property
    def capabilities(self) -> frozenset[str]:
        """As the daemon says; asked once."""
        request = introspection_api.PluginsRequest(filters=[f"type=={PLUGIN_TYPE},id=={self.name}"])
        plugins = self._client.introspection.plugins(request).plugins
        return frozenset(word for plugin in plugins for word in plugin.capabilities)

    def prepare(self, key: str, parent: str = "", labels: Labels | None = None) -> Sequence[Mount]:
        request = snapshots_api.PrepareRequest(snapshotter=self.name, key=key, parent=parent, labels=labels or {})
        return self._client.snapshots.prepare(request).mounts

    def view(self, key: str, parent: str = "", labels: Labels | None = None) -> Sequence[Mount]:
        request = snapshots_api.ViewRequest(snapshotter=self.name, key=key, parent=parent, labels=labels or {})
        return self._client.snapshots.view(request).mounts

    def mounts(self, key: str) -> Sequence[Mount]:
        return self._client.snapshots.mounts(snapshots_api.MountsRequest(snapshotter=self.name, key=key)).mounts

    def commit(
        self, name: str, key: str, labels: Labels | None = None, usage: Usage | None = None, parent: str = ""
    ) -> None:
        request = snapshots_api.CommitRequest(
            snapshotter=self.name, name=name, key=key, labels=labels or {}, parent=parent
        )
        self._client.snapshots.commit(request)

    def remove(self, key: str) -> None:
        self._client.snapshots.remove(snapshots_api.RemoveRequest(snapshotter=self.name, key=key))

    def stat(self, key: str) -> SnapshotInfo:
        return self._client.snapshots.stat(snapshots_api.StatRequest(snapshotter=self.name, key=key))

    def update(self, info: SnapshotInfo, fields: Sequence[str] = ()) -> SnapshotInfo:
        request = snapshots_api.UpdateRequest(snapshotter=self.name, info=info, fields=fields)
        return self._client.snapshots.update(request)

    def usage(self, key: str) -> Usage:
        return self._client.snapshots.usage(snapshots_api.UsageRequest(snapshotter=self.name, key=key))

    def list(self, filters: Sequence[str] = ()) -> Iterator[SnapshotInfo]:
        request = snapshots_api.ListRequest(snapshotter=self.name, filters=filters)
        for reply in self._client.snapshots.list(request):
            yield from reply.info

    def cleanup(self) -> None:
        self._client.snapshots.cleanup(snapshots_api.CleanupRequest(snapshotter=self.name))

    def close(self) -> None:
        """Nothing: the client is the caller's."""


class RemoteApplied:
    """A ports.Applied of a layer that implies nothing: the daemon takes no other."""

    implied: Sequence[bytes] = ()

    def __init__(self, descriptor: Descriptor, usage: Usage) -> None:
        self.descriptor = descriptor
        self.usage = usage


class RemoteDiffer:
    """A ports.Differ: the daemon's, over the blobs of the client's namespace.

    A call is given up by ending the client's own: `cancel` is looked at before it. `payloads` are for stream
    processors, by their ids. With `sync_fs` all that is applied is on disk when it is done; `sync` alone is
    Unimplemented.
    """

    def __init__(self, client: Client, payloads: dict[str, bytes] | None = None, sync_fs: bool = False) -> None:
        self._client = client
        self._payloads = payloads or {}
        self._sync_fs = sync_fs

    def apply(self, layer: Descriptor, mounts: Sequence[Mount], cancel: Cancel | None = None) -> RemoteApplied:
        if cancel is not None:
            cancel.check()
        request = diff_api.ApplyRequest(diff=layer, mounts=mounts, payloads=self._payloads, sync_fs=self._sync_fs)
        reply = self._client.diff.apply(request)
        return RemoteApplied(reply.applied, reply.usage)

    def apply_stream(
        self, source: Source, layer: Descriptor, mounts: Sequence[Mount], cancel: Cancel | None = None
    ) -> RemoteApplied:
        raise errors.Unimplemented(f"applying layer {layer.digest}: the daemon takes blobs that it has, no streams")

    def settle(self, applied: Applied, mounts: Sequence[Mount]) -> bool:
        return True

    def sync(self, mounts: Sequence[Mount]) -> None:
        if not self._sync_fs:
            raise errors.Unimplemented("making layers durable: the daemon does it as it applies them, or not at all")

    def compare(
        self,
        lower: Sequence[Mount],
        upper: Sequence[Mount],
        media_type: str = "",
        ref: str = "",
        labels: Labels | None = None,
        source_date_epoch_s: int | None = None,
        cancel: Cancel | None = None,
    ) -> Descriptor:
        if cancel is not None:
            cancel.check()
        request = diff_api.DiffRequest(
            left=lower, right=upper, media_type=media_type, ref=ref, labels=labels or {},
            source_date_epoch_s=source_date_epoch_s,
        )  # fmt: skip
        return self._client.diff.diff(request).diff
