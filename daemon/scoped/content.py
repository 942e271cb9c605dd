"""The content store as one namespace sees it: its own records and labels over bytes that all namespaces share."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial

from msgspec.structs import replace

from daemon.kit import context
from daemon.kit.keylock import KeyLock
from daemon.metadata.store import Store, Txn
from daemon.metadata.tables import CONTENT, GLOBAL, NAMESPACES
from daemon.scoped.leases import attach
from spec import digest as digests
from spec import edges, errors, filterable, masks
from spec.events import ContentCreate, ContentDelete
from spec.filters import matcher
from spec.names import SHAREABLE, check_labels
from spec.ports import BlobReader, BlobWriter, ContentStore, Publisher, Tail, Tracker, Untracked
from spec.records import ContentInfo, IngestStatus, Labels


class ScopedContent:
    """A ports.ContentStore. Bytes stay until garbage collection finds that no namespace has a record of them.

    What is made under the call's lease is the lease's: ingests, blobs, and a blob that is there already; `keep` makes a
    resource, by type and id, the lease's. `blobs` is held by digest from the moment that bytes appear to that of their
    record, so that nobody takes them for rubbish. With `isolated` a namespace must send the bytes of what others have,
    too, unless one of these is labelled to share them: to know a digest is not to have the right to what it names.
    """

    def __init__(
        self,
        raw: ContentStore,
        store: Store,
        publisher: Publisher,
        namespace: str,
        tracker: Tracker = Untracked(),
        keep: Callable[[str, str], None] = lambda kind, id: None,
        blobs: KeyLock | None = None,
        isolated: bool = False,
    ) -> None:
        self._raw = raw
        self._store = store
        self._publisher = publisher
        self._namespace = namespace
        self._tracker = tracker
        self._keep = keep
        self._blobs = blobs or KeyLock()
        self._isolated = isolated

    def info(self, digest: str) -> ContentInfo:
        digests.check(digest)
        with self._store.view() as view:
            return CONTENT.get(view, self._namespace, digest)

    def update(self, info: ContentInfo, fields: Sequence[str] = ()) -> ContentInfo:
        digests.check(info.digest)
        check_labels(info.labels)

        def change(txn: Txn) -> ContentInfo:
            merged = masks.merge(CONTENT.get(txn, self._namespace, info.digest), info, fields, ("labels",))
            self._tracker.touch(edges.touched(edges.of_content(self._namespace, merged)))
            return CONTENT.put(txn, replace(merged, updated_at_ns=time.time_ns()), self._namespace, info.digest)

        return self._store.update(change).result()

    def list(self, filters: Sequence[str] = ()) -> Iterator[ContentInfo]:
        matches = matcher(filters, filterable.CONTENT)
        return filter(matches, CONTENT.each(self._store, self._namespace))

    def delete(self, digest: str) -> None:
        digests.check(digest)
        self._store.update(lambda txn: CONTENT.delete(txn, self._namespace, digest)).result()
        self._tracker.removed()
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
            self._keep(edges.CONTENT, expected)
            if self._has(expected):  # no collection took it before it was kept
                raise errors.AlreadyExists(f"content {expected} already exists in namespace {self._namespace}")
        shared = self._shared(expected, total)
        if shared is not None:
            return _SharedWriter(self, ref, shared, partial(self._raw.reader, shared.digest))
        self._keep(edges.INGEST, ref)
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
        self._tracker.removed()

    def held(self, digest: str) -> AbstractContextManager[None]:
        return self._blobs.held(digest)

    def raw_info(self, digest: str) -> ContentInfo:
        """NotFound when no namespace has its bytes."""
        return self._raw.info(digest)

    def record(self, digest: str, size: int, labels: Labels) -> None:
        """Make a blob that the raw store has one of this namespace; AlreadyExists when it is. `held` by the caller."""
        check_labels(labels)
        now = time.time_ns()
        info = ContentInfo(digest=digest, size=size, labels=labels, created_at_ns=now, updated_at_ns=now)
        lease = context.lease()

        def change(txn: Txn) -> None:
            attach(txn, self._namespace, lease, edges.CONTENT, digest)
            self._tracker.touch(edges.touched(edges.of_content(self._namespace, info)))
            if CONTENT.find(txn, self._namespace, digest) is None:
                CONTENT.put(txn, info, self._namespace, digest)
                created.append(True)

        created: list[bool] = []
        self._store.update(change).result()
        if not created:
            raise errors.AlreadyExists(f"content {digest} already exists in namespace {self._namespace}")
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
        """What the raw store has under the digest that is expected, if its size does not contradict `total` and we may
        have it for nothing."""
        if not expected or (self._isolated and not self._offered(expected)):
            return None
        try:
            info = self._raw.info(expected)
        except errors.NotFound:
            return None
        return info if total in (0, info.size) else None

    def _offered(self, digest: str) -> bool:
        """Whether a namespace that shares its blobs has this one."""
        with self._store.view() as view:
            return any(
                CONTENT.find(view, namespace.name, digest) is not None
                for namespace in NAMESPACES.scan(view, GLOBAL)
                if namespace.labels.get(SHAREABLE) == "true"
            )

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
        digest = expected or self._raw.digest()
        length = self._raw.status().offset
        with self._content.held(digest):
            # AlreadyExists in the raw store is not for this namespace to know.
            with contextlib.suppress(errors.AlreadyExists):
                self._raw.commit(size, expected)
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
        return _Whole(self._blob())

    def commit(self, size: int = 0, expected: str = "", labels: Labels | None = None) -> str:
        if size and size != self._info.size:
            raise errors.FailedPrecondition(f"committing {self._ref}: {self._info.size} bytes, not {size}")
        if expected and expected != self._info.digest:
            raise errors.FailedPrecondition(f"committing {self._ref}: it is {self._info.digest}, not {expected}")
        with self._content.held(self._info.digest):
            self._content.raw_info(self._info.digest)
            self._content.record(self._info.digest, self._info.size, labels or {})
        return self._info.digest

    def close(self) -> None:
        pass

    def __enter__(self) -> "_SharedWriter":
        return self

    def __exit__(self, *exc: object) -> None:
        pass


class _Whole:
    """A ports.Tail of what is a blob already."""

    def __init__(self, blob: BlobReader) -> None:
        self._blob = blob

    def preadinto(self, buffer: memoryview, offset: int, /) -> int:
        data = self._blob.pread(len(buffer), offset)
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._blob.close()
