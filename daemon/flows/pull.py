"""Pull: from a reference in a registry to an image, its content and its snapshots. Over ports only.

Resolve; fetch index, manifest and config; fetch layers side by side and unpack each as soon as it is there; label what
belongs together; name the image last. What an interrupted pull has fetched is found again by the next.
"""

from collections.abc import Sequence
from concurrent.futures import CancelledError, Executor, Future, wait
from contextvars import copy_context
from dataclasses import dataclass, field

from daemon.flows.progress import Report
from daemon.flows.unpack import Unpacker
from daemon.kit.cancel import Token
from daemon.kit.keylock import Once
from spec import errors, names, platforms
from spec.oci import graph
from spec.oci.image import Descriptor, Manifest
from spec.ports import BlobWriter, ContentStore, Fetcher, ImageStore, ProgressSink, Resolver, Source
from spec.records import ContentInfo, Labels
from spec.reference import Reference

CHUNK = 1 << 20
MAX_INDEXES = 64  # of one image, below one another and side by side


@dataclass(frozen=True)
class Target:
    """Where to unpack: what `matcher` takes goes into `unpacker`."""

    unpacker: Unpacker
    matcher: platforms.Matcher


@dataclass(frozen=True)
class Pull:
    """One pull.

    `pool` runs downloads, as many at once as it has threads; `once` is shared by all pulls, so that a blob wanted twice
    comes once; `scope` is the namespace. Each of `matchers` chooses one of an index's manifests (none: all are wanted);
    `wanted` names the platforms in errors. A pull that fails closes its `resolver`, so that nothing it began runs on.
    """

    reference: Reference
    name: str
    resolver: Resolver
    content: ContentStore
    images: ImageStore
    targets: Sequence[Target]
    matchers: Sequence[platforms.Matcher]
    wanted: str
    pool: Executor
    once: "Once[None]"
    scope: str
    sink: ProgressSink
    cancel: Token
    labels: Labels = field(default_factory=dict)

    def run(self) -> Descriptor:
        """What the image now points at."""
        report = Report(self.sink, self.name)
        text = str(self.reference)
        report.tell(f"Resolving from {text}")
        self.cancel.check()
        target = self.resolver.resolve(text)
        report.tell(f"Pulling from {text}", target.digest)
        fetch = Fetch(self, self.resolver.fetcher(text), report, self.cancel.child())
        manifests = fetch.manifests(target)
        if not manifests:
            raise errors.InvalidArgument(f"pulling {text}: it has no manifest")
        for manifest in manifests:
            self._take(manifest, fetch, report)
        fetch.label_index(target)
        self.cancel.check()
        self.images.put_image(self.name, target, self.labels)
        report.tell("saved", target.digest)
        report.tell(f"Completed pull from {text}", target.digest)
        return target

    def _take(self, descriptor: Descriptor, fetch: "Fetch", report: Report) -> None:
        """All of one platform's image."""
        document = graph.manifest(descriptor, fetch.document(descriptor))
        unpackers = []
        config = None
        if graph.is_config(document.config.media_type):
            config = graph.config(document.config, fetch.document(document.config))
            platform = graph.platform_of(config)
            unpackers = [target.unpacker for target in self.targets if target.matcher.match(platform)]
            if self.targets and self.matchers and not unpackers:
                raise errors.NotFound(
                    f"pulling {self.reference}: it has nothing for {self.wanted}; it is {platforms.format(platform)}"
                )
            _check(descriptor, document, len(config.rootfs.diff_ids))
        else:
            fetch.blob(document.config)
        with Downloads(fetch, self.resolver, document.layers) as downloads:
            for unpacker in unpackers:
                assert config is not None
                chain_id = unpacker.unpack(
                    document.layers, config.rootfs.diff_ids, downloads.arrive, report, fetch.cancel
                )
                fetch.label(document.config, {f"{names.GC_REF_SNAPSHOT}.{unpacker.name}": chain_id})
            for layer in document.layers:
                downloads.arrive(layer)
        if config is not None:
            for layer, diff_id in zip(document.layers, config.rootfs.diff_ids, strict=True):
                fetch.label(layer, {names.UNCOMPRESSED: diff_id})
        fetch.label(descriptor, graph.child_labels(descriptor, [document.config, *document.layers]))


class Downloads:
    """Layers that come side by side. A context manager: the first that fails ends them all, and none outlives it."""

    def __init__(self, fetch: "Fetch", resolver: Resolver, layers: Sequence[Descriptor]) -> None:
        self._fetch = fetch
        self._resolver = resolver
        self._layers = layers
        self._running: dict[str, Future[None]] = {}
        self._failures: list[BaseException] = []

    def arrive(self, layer: Descriptor) -> None:
        """Wait for it."""
        try:
            self._running[layer.digest].result()
        except CancelledError:
            raise errors.Canceled(f"fetching {layer.digest}: it was not begun") from None

    def __enter__(self) -> "Downloads":
        for layer in self._layers:
            if layer.digest not in self._running:
                download = self._fetch.start(layer)
                self._running[layer.digest] = download
                download.add_done_callback(self._ended)
        return self

    def __exit__(self, kind: object, raised: BaseException | None, trace: object) -> None:
        if raised is None:
            return
        self._end()
        wait(self._running.values())
        if self._failures and isinstance(raised, errors.Canceled):
            raise self._failures[0]  # what the rest was cancelled for

    def _ended(self, download: "Future[None]") -> None:
        failure = None if download.cancelled() else download.exception()
        if failure is not None and not isinstance(failure, errors.Canceled):
            self._failures.append(failure)
            self._end()

    def _end(self) -> None:
        self._fetch.cancel.cancel("another part of the pull failed")
        for download in self._running.copy().values():
            download.cancel()
        self._resolver.close()  # wakes those that wait for bytes


def _check(descriptor: Descriptor, document: Manifest, diff_ids: int) -> None:
    if len(document.layers) != diff_ids:
        raise errors.InvalidArgument(
            f"manifest {descriptor.digest} has {len(document.layers)} layers, its config {diff_ids} diff ids"
        )
    for layer in document.layers:
        if not graph.is_layer(layer.media_type):
            raise errors.Unimplemented(
                f"manifest {descriptor.digest}: layer {layer.digest} is {layer.media_type!r}, which is not supported"
            )


class Fetch:
    """Blobs of one pull into the content store."""

    def __init__(self, pull: Pull, fetcher: Fetcher, report: Report, cancel: Token) -> None:
        self._pull = pull
        self.cancel = cancel
        self._fetcher = fetcher
        self._report = report
        self._seen: set[str] = set()  # indexes: one may be met on more than one way

    def manifests(self, target: Descriptor) -> list[Descriptor]:
        """The manifests that are wanted: of an index those the platforms choose, each one's best."""
        if graph.is_manifest(target.media_type):
            return [target]
        if not graph.is_index(target.media_type):
            raise errors.InvalidArgument(
                f"pulling {self._pull.reference}: {target.digest} is {target.media_type!r},"
                " neither a manifest nor an index"
            )
        if target.digest in self._seen:
            return []
        if len(self._seen) == MAX_INDEXES:
            raise errors.InvalidArgument(f"pulling {self._pull.reference}: it has more than {MAX_INDEXES} indexes")
        self._seen.add(target.digest)
        index = graph.index(target, self.document(target))
        chosen: dict[str, Descriptor] = {}
        for matcher in self._pull.matchers:
            best = graph.choose(index, matcher)
            if not best:
                raise errors.NotFound(
                    f"pulling {self._pull.reference}: it has nothing for {self._pull.wanted};"
                    f" it has {', '.join(graph.offered(index)) or 'nothing'}"
                )
            chosen[best[0].digest] = best[0]
        if not self._pull.matchers:
            chosen = {child.digest: child for child in graph.choose(index, platforms.Every())}
        return [manifest for child in chosen.values() for manifest in self.manifests(child)]

    def document(self, descriptor: Descriptor) -> bytes:
        """A small blob, fetched if it is not there."""
        if descriptor.size > graph.MAX_DOCUMENT:
            raise errors.InvalidArgument(f"fetching {descriptor.digest}: {descriptor.size} bytes are too many for it")
        self.blob(descriptor)
        with self._pull.content.reader(descriptor.digest) as reader:
            return reader.pread(graph.MAX_DOCUMENT + 1, 0)

    def start(self, descriptor: Descriptor) -> "Future[None]":
        """Fetch it on a thread of the pool."""
        return self._pull.pool.submit(copy_context().run, self.blob, descriptor)

    def blob(self, descriptor: Descriptor) -> None:
        """Have it in the store, verified; whoever else fetches it is waited for."""
        self._pull.once.do(f"{self._pull.scope}/{descriptor.digest}", lambda: self._blob(descriptor), self.cancel)

    def label(self, descriptor: Descriptor, labels: Labels) -> None:
        """Add labels, if they are not there."""
        info = self._pull.content.info(descriptor.digest)
        if labels.items() <= info.labels.items():
            return
        fields = [f"labels.{key}" for key in labels]
        self._pull.content.update(ContentInfo(digest=descriptor.digest, labels=labels), fields)

    def label_index(self, target: Descriptor) -> None:
        """An index keeps those of its children that are here."""
        if not graph.is_index(target.media_type):
            return
        children = [child for child in graph.index(target, self.document(target)).manifests if self._has(child)]
        self.label(target, graph.child_labels(target, children))

    def _has(self, descriptor: Descriptor) -> bool:
        try:
            self._pull.content.info(descriptor.digest)
        except errors.NotFound:
            return False
        return True

    def _blob(self, descriptor: Descriptor) -> None:
        ref = f"{_kind(descriptor)}-{descriptor.digest}"
        self.cancel.check()
        try:
            writer = self._pull.content.writer(ref, descriptor.size, descriptor.digest)
        except errors.AlreadyExists:
            self._report.tell_part("already exists", ref, descriptor.size, descriptor.size)
            return
        with writer:
            self._download(descriptor, ref, writer)
            source = f"{names.DISTRIBUTION_SOURCE}.{self._pull.reference.host}"
            try:
                writer.commit(descriptor.size, descriptor.digest, {source: self._pull.reference.repository})
            except errors.AlreadyExists:
                pass
            except errors.FailedPrecondition as exc:
                writer.truncate()  # what came is wrong: nobody shall resume it
                raise errors.FailedPrecondition(
                    f"fetching {descriptor.digest} of {self._pull.reference}: {exc.message}"
                ) from exc
        self._report.tell_part("complete", ref, descriptor.size, descriptor.size)

    def _download(self, descriptor: Descriptor, ref: str, writer: BlobWriter) -> None:
        """What is missing of it; an ingest that is longer than the blob starts again."""
        offset = writer.status().offset
        if offset > descriptor.size:
            writer.truncate()
            offset = 0
        if offset == descriptor.size:
            return
        source = self._fetcher.fetch(descriptor, offset)
        try:
            self._copy(source, descriptor, ref, writer, offset)
        finally:
            source.close()

    def _copy(self, source: Source, descriptor: Descriptor, ref: str, writer: BlobWriter, offset: int) -> None:
        while data := source.read(CHUNK):
            self.cancel.check()
            offset += len(data)
            if offset > descriptor.size:
                writer.truncate()
                raise errors.FailedPrecondition(
                    f"fetching {descriptor.digest} of {self._pull.reference}: it is longer than {descriptor.size} bytes"
                )
            writer.write(data)
            self._report.tell_part("downloading", ref, offset, descriptor.size)
        self.cancel.check()
        if offset < descriptor.size:
            raise errors.DataLoss(
                f"fetching {descriptor.digest} of {self._pull.reference}: it ended after {offset} of"
                f" {descriptor.size} bytes"
            )


def _kind(descriptor: Descriptor) -> str:
    media_type = descriptor.media_type
    if graph.is_index(media_type):
        return "index"
    if graph.is_manifest(media_type):
        return "manifest"
    if graph.is_config(media_type):
        return "config"
    return "layer" if graph.is_layer(media_type) else "unknown"
