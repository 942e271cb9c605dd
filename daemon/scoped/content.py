"""The content store as one namespace sees it: its own records and labels over bytes that all namespaces share."""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from msgspec.structs import replace

from daemon.metadata.store import Store, Txn
from daemon.metadata.tables import CONTENT
from spec import digest as digests
from spec import errors, filterable, masks
from spec.events import ContentCreate, ContentDelete
from spec.filters import matcher
from spec.names import check_labels
from spec.ports import BlobReader, BlobWriter, ContentStore, Publisher, Tail
from spec.records import ContentInfo, IngestStatus, Labels


class ScopedContent:
    """A ports.ContentStore. Bytes stay until garbage collection finds that no namespace has a record of them."""

    def __init__(self, raw: ContentStore, store: Store, publisher: Publisher, namespace: str) -> None:
        self._raw = raw
        self._store = store
        self._publisher = publisher
        self._namespace = namespace

    def info(self, digest: str) -> ContentInfo:
        digests.check(digest)
        with self._store.view() as view:
            return CONTENT.get(view, self._namespace, digest)

    def update(self, info: ContentInfo, fields: Sequence[str] = ()) -> ContentInfo:
        digests.check(info.digest)
        check_labels(info.labels)

        def change(txn: Txn) -> ContentInfo:
            merged = masks.merge(CONTENT.get(txn, self._namespace, info.digest), info, fields, ("labels",))
            return CONTENT.put(txn, replace(merged, updated_at_ns=time.time_ns()), self._namespace, info.digest)

        return self._store.update(change).result()

    def list(self, filters: Sequence[str] = ()) -> Iterator[ContentInfo]:
        matches = matcher(filters, filterable.CONTENT)
        return filter(matches, CONTENT.each(self._store, self._namespace))

    def delete(self, digest: str) -> None:
        digests.check(digest)
        self._store.update(lambda txn: CONTENT.delete(txn, self._namespace, digest)).result()
        self._publisher.publish(self._namespace, "/content/delete", ContentDelete(digest=digest))

    def reader(self, digest: str) -> BlobReader:
        self.info(digest)
        return self._raw.reader(digest)

    def writer(self, ref: str, total: int = 0, expected: str = "") -> BlobWriter:
        """As the port says; a blob that another namespace has is recorded here at commit, without its bytes. One whose
        bytes are lost, or some of them, can be written again: its commit is AlreadyExists, and has made it whole."""
        if not ref:
            raise errors.InvalidArgument("opening a writer: the ref is empty")
        if expected and self._has(expected):
            raise errors.AlreadyExists(f"content {expected} already exists in namespace {self._namespace}")
        shared = self._shared(expected, total)
        if shared is not None:
            return _SharedWriter(self, ref, shared, partial(self._raw.reader, shared.digest))
        try:
            raw = self._raw.writer(self._raw_ref(ref), total, expected)
        except errors.AlreadyExists:  # one of another size, which is damaged or not what is meant: the commit decides
            raw = self._raw.writer(self._raw_ref(ref), total)
        return _ScopedWriter(self, ref, raw, expected)

    def status(self, ref: str) -> IngestStatus:
        status = self._raw.status(self._raw_ref(ref))
        return replace(status, ref=ref)

    def statuses(self, filters: Sequence[str] = ()) -> Sequence[IngestStatus]:
        matches = matcher(filters, filterable.INGEST)
        prefix = self._raw_ref("")
        return [
            status
            for raw in self._raw.statuses()
            if raw.ref.startswith(prefix) and matches(status := replace(raw, ref=raw.ref[len(prefix) :]))
        ]

    def abort(self, ref: str) -> None:
        self._raw.abort(self._raw_ref(ref))

    def record(self, digest: str, size: int, labels: Labels) -> None:
        """Make a blob that the raw store has one of this namespace."""
        check_labels(labels)
        now = time.time_ns()
        info = ContentInfo(digest=digest, size=size, labels=labels, created_at_ns=now, updated_at_ns=now)
        self._store.update(lambda txn: CONTENT.create(txn, info, self._namespace, digest)).result()
        self._publisher.publish(self._namespace, "/content/create", ContentCreate(digest=digest, size=size))

    def _has(self, digest: str) -> bool:
        """Whether there is a record, and as many bytes as it says."""
        digests.check(digest)
        with self._store.view() as view:
            info = CONTENT.find(view, self._namespace, digest)
        try:
            return info is not None and self._raw.info(digest).size == info.size
        except errors.NotFound:
            return False

    def _shared(self, expected: str, total: int) -> ContentInfo | None:
        """What the raw store has under the digest that is expected, if its size does not contradict `total`."""
        if not expected:
            return None
        try:
            info = self._raw.info(expected)
        except errors.NotFound:
            return None
        return info if total in (0, info.size) else None

    def _raw_ref(self, ref: str) -> str:
        return f"{self._namespace}/{ref}"


class _ScopedWriter:
    """A raw writer whose commit also makes the namespace's record."""

    def __init__(self, content: ScopedContent, ref: str, raw: BlobWriter, expected: str) -> None:
        self._content = content
        self._ref = ref
        self._raw = raw
        self._expected = expected

    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        return self._raw.write(data)

    def status(self) -> IngestStatus:
        return replace(self._raw.status(), ref=self._ref)

    def digest(self) -> str:
        return self._raw.digest()

    def truncate(self) -> None:
        self._raw.truncate()

    def tail(self) -> Tail:
        return self._raw.tail()

    def commit(self, size: int = 0, expected: str = "", labels: Labels | None = None) -> str:
        check_labels(labels or {})  # while the ingest is there to be tried again
        expected = expected or self._expected
        digest = self._raw.digest()
        length = self._raw.status().offset
        try:
            digest = self._raw.commit(size, expected)
        except errors.AlreadyExists:  # in the raw store, which is not for this namespace to know
            digest = expected or digest
        self._content.record(digest, length, labels or {})
        return digest

    def close(self) -> None:
        self._raw.close()

    def __enter__(self) -> "_ScopedWriter":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class _SharedWriter:
    """A writer that is complete from the start: the bytes are there, only this namespace's record is not."""

    def __init__(self, content: ScopedContent, ref: str, info: ContentInfo, blob: Callable[[], BlobReader]) -> None:
        self._content = content
        self._ref = ref
        self._info = info
        self._blob = blob
        self._opened_at_ns = time.time_ns()

    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        if len(data):
            raise errors.FailedPrecondition(f"writing {self._ref}: {self._info.digest} is complete")
        return 0

    def status(self) -> IngestStatus:
        size = self._info.size
        now = self._opened_at_ns
        return IngestStatus(
            ref=self._ref, offset=size, total=size, expected=self.digest(), started_at_ns=now, updated_at_ns=now
        )

    def digest(self) -> str:
        return self._info.digest

    def truncate(self) -> None:
        raise errors.FailedPrecondition(f"truncating {self._ref}: {self._info.digest} is complete")

    def tail(self) -> Tail:
        return self._blob()

    def commit(self, size: int = 0, expected: str = "", labels: Labels | None = None) -> str:
        if size and size != self._info.size:
            raise errors.FailedPrecondition(f"committing {self._ref}: {self._info.size} bytes, not {size}")
        if expected and expected != self._info.digest:
            raise errors.FailedPrecondition(f"committing {self._ref}: it is {self._info.digest}, not {expected}")
        self._content.record(self._info.digest, self._info.size, labels or {})
        return self._info.digest

    def close(self) -> None:
        pass

    def __enter__(self) -> "_SharedWriter":
        return self

    def __exit__(self, *exc: object) -> None:
        pass
