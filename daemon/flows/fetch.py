"""Fetching: an image's blobs into the content store, side by side, readable as they come. Over ports only."""

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, wait
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial

from daemon.flows.arrival import Arrival
from daemon.flows.progress import Report
from daemon.kit import tracing
from daemon.kit.cancel import Token
from daemon.kit.keylock import Once
from spec import errors, names
from spec.oci import distribution, graph
from spec.oci.image import Descriptor
from spec.ports import BlobWriter, ContentStore, Fetcher, Resolver, Source
from spec.records import ContentInfo, Labels

CHUNK = 1 << 20


@dataclass(frozen=True)
class Fetch:
    """Blobs of one image, which errors call `text`; `origin` are labels of those that come. The rest as in Pull."""

    text: str
    content: ContentStore
    fetcher: Fetcher
    pool: Executor
    once: "Once[None]"
    scope: str
    report: Report
    cancel: Token
    origin: Labels = field(default_factory=dict)

    def document(self, descriptor: Descriptor) -> bytes:
        """A small blob, fetched if it is not there."""
        if descriptor.size > graph.MAX_DOCUMENT:
            raise errors.InvalidArgument(f"fetching {descriptor.digest}: {descriptor.size} bytes are too many for it")
        self.blob(descriptor)
        with self.content.reader(descriptor.digest) as reader:
            return reader.pread(graph.MAX_DOCUMENT + 1, 0)

    def start(self, arrival: Arrival) -> "Future[None]":
        """Fetch it on a thread of the pool."""
        return self.pool.submit(copy_context().run, self.blob, arrival.descriptor, arrival)

    def blob(self, descriptor: Descriptor, arrival: Arrival | None = None) -> None:
        """Have it in the store, verified; whoever else fetches it is waited for. What another fetched is his lease's:
        it is asked for once more, to be ours too."""
        flight = f"{self.scope}/{descriptor.digest}"
        mine: list[bool] = []

        def work() -> None:
            mine.append(True)
            self._blob(descriptor, arrival)

        while not mine:
            self.once.do(flight, work, self.cancel)

    def has(self, descriptor: Descriptor) -> bool:
        try:
            self.content.info(descriptor.digest)
        except errors.NotFound:
            return False
        return True

    def label(self, descriptor: Descriptor, labels: Labels) -> None:
        """Add labels, if they are not there."""
        info = self.content.info(descriptor.digest)
        if labels.items() <= info.labels.items():
            return
        fields = [f"labels.{key}" for key in labels]
        self.content.update(ContentInfo(digest=descriptor.digest, labels=labels), fields)

    def _blob(self, descriptor: Descriptor, arrival: Arrival | None) -> None:
        ref = f"{_kind(descriptor)}-{descriptor.digest}"
        self.cancel.check()
        try:
            writer = self.content.writer(ref, descriptor.size, descriptor.digest)
        except errors.AlreadyExists:
            self._add_origin(descriptor)
            self.report.tell_part("already exists", ref, descriptor.size, descriptor.size)
            return
        with self._opened(writer, ref), tracing.span("fetch", digest=descriptor.digest, size=descriptor.size):
            was_there = self._offset(writer, descriptor)
            try:
                self._download(descriptor, ref, writer, arrival, was_there)
            except _Mismatch:
                if not was_there:
                    raise
                if arrival is not None:
                    arrival.begin_again()
                self._download(descriptor, ref, writer, arrival, 0)
        self.report.tell_part("complete", ref, descriptor.size, descriptor.size)

    def _add_origin(self, descriptor: Descriptor) -> None:
        """It came from elsewhere before: from here it could be had too, or mounted."""
        known = self.content.info(descriptor.digest).labels if self.origin else {}
        merged = {key: distribution.sources(known.get(key, ""), value) for key, value in self.origin.items()}
        changed = {key: value for key, value in merged.items() if value != known.get(key)}
        if changed and all(len(key) + len(value) <= names.MAX_LABEL for key, value in changed.items()):
            self.label(descriptor, changed)

    @contextlib.contextmanager
    def _opened(self, writer: BlobWriter, ref: str) -> Iterator[None]:
        """An ingest that holds nothing when it fails does not stay."""
        is_empty = False
        try:
            with writer:
                try:
                    yield
                except BaseException:
                    with contextlib.suppress(errors.Error):  # a store in another process, which may be gone
                        is_empty = not writer.status().offset
                    raise
        finally:
            if is_empty:
                with contextlib.suppress(errors.Error):  # another has it already
                    self.content.abort(ref)

    def _offset(self, writer: BlobWriter, descriptor: Descriptor) -> int:
        """How much of it is here; an ingest that is longer than the blob starts again."""
        offset = writer.status().offset
        if offset <= descriptor.size:
            return offset
        writer.truncate()
        return 0

    def _download(
        self, descriptor: Descriptor, ref: str, writer: BlobWriter, arrival: Arrival | None, offset: int
    ) -> None:
        """What is missing of it, and its commit. What is wrong is not kept: nobody shall resume it."""
        if arrival is not None:
            arrival.begin(writer, offset)
        if offset < descriptor.size:
            source = self.fetcher.fetch(descriptor, offset)
            try:
                self._copy(source, descriptor, ref, writer, offset, arrival)
            finally:
                source.close()
        try:
            writer.commit(descriptor.size, descriptor.digest, self.origin)
        except errors.AlreadyExists:
            pass
        except errors.FailedPrecondition as exc:
            writer.truncate()
            sender = self.fetcher.sender(descriptor.digest)
            came = f", which came from {sender}" if sender else ""
            raise _Mismatch(f"verifying {descriptor.digest} of {self.text}{came}: {exc.message}") from exc

    def _copy(
        self,
        source: Source,
        descriptor: Descriptor,
        ref: str,
        writer: BlobWriter,
        offset: int,
        arrival: Arrival | None,
    ) -> None:
        doing = f"fetching {descriptor.digest} of {self.text}"
        while data := source.read(CHUNK):
            self.cancel.check()
            offset += len(data)
            if offset > descriptor.size:
                writer.truncate()
                raise errors.FailedPrecondition(f"{doing}: it is longer than {descriptor.size} bytes")
            writer.write(data)
            if arrival is not None:
                arrival.grow(offset)
            self.report.tell_part("downloading", ref, offset, descriptor.size)
        self.cancel.check()
        if offset < descriptor.size:
            raise errors.DataLoss(f"{doing}: it ended after {offset} of {descriptor.size} bytes")


class _Mismatch(errors.FailedPrecondition):
    """What came is not what its digest says."""


class Downloads:
    """Layers that come side by side. A context manager: the first that fails ends them all, and none outlives it."""

    def __init__(self, fetch: Fetch, resolver: Resolver, layers: Sequence[Descriptor]) -> None:
        self.arrivals = {layer.digest: Arrival(layer, fetch.content) for layer in layers}
        self._fetch = fetch
        self._resolver = resolver
        self._running: list[Future[None]] = []
        self._failures: list[BaseException] = []

    def wait(self) -> None:
        """For all of them."""
        for arrival in self.arrivals.values():
            arrival.wait(self._fetch.cancel)

    def __enter__(self) -> "Downloads":
        for arrival in self.arrivals.values():
            download = self._fetch.start(arrival)
            self._running.append(download)
            download.add_done_callback(partial(self._ended, arrival))
        return self

    def __exit__(self, kind: object, raised: BaseException | None, trace: object) -> None:
        if raised is not None:
            self._end()
            wait(self._running)
        for arrival in self.arrivals.values():
            arrival.close()
        if raised is not None and self._failures and isinstance(raised, errors.Canceled):
            raise self._failures[0]  # what the rest was cancelled for

    def _ended(self, arrival: Arrival, download: "Future[None]") -> None:
        if download.cancelled():
            arrival.end(errors.Canceled(f"fetching {arrival.descriptor.digest}: it was not begun"))
            return
        failure = download.exception()
        arrival.end(failure)
        if failure is not None and not isinstance(failure, errors.Canceled):
            self._failures.append(failure)
            self._end()

    def _end(self) -> None:
        self._fetch.cancel.cancel("another part of the pull failed")
        for download in self._running.copy():
            download.cancel()
        self._resolver.close()  # wakes those that wait for bytes


def _kind(descriptor: Descriptor) -> str:
    media_type = descriptor.media_type
    if graph.is_index(media_type):
        return "index"
    if graph.is_manifest(media_type):
        return "manifest"
    if graph.is_config(media_type):
        return "config"
    return "layer" if graph.is_layer(media_type) else "unknown"
