"""Pull: from a reference to an image, its content and its snapshots. Over ports only.

Resolve; fetch index, manifest and config; fetch layers side by side and unpack each as it arrives; label what belongs
together; name the image last. What an interrupted pull has fetched is found again by the next. An import is a pull from
an archive.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field

from daemon.flows import others
from daemon.flows.fetch import Downloads, Fetch
from daemon.flows.progress import Report
from daemon.flows.unpack import Unpacker
from daemon.kit import tracing
from daemon.kit.cancel import Token
from daemon.kit.keylock import Once
from spec import errors, names, platforms
from spec.oci import graph
from spec.oci.image import Descriptor, ImageConfig, Manifest
from spec.ports import ContentStore, ImageStore, ImageVerifier, ProgressSink, Resolver
from spec.records import Labels

MAX_INDEXES = 64  # of one image, below one another and side by side


@dataclass(frozen=True)
class Target:
    """Where to unpack: what `matcher` takes goes into `unpacker`."""

    unpacker: Unpacker
    matcher: platforms.Matcher


@dataclass(frozen=True)
class Pull:
    """One pull of what `resolver` finds under `reference`.

    `pool` runs downloads, as many at once as it has threads; `once` is shared by all pulls, so that a blob wanted twice
    comes once; `scope` is the namespace. Each of `matchers` chooses one of an index's manifests (none: all are wanted);
    `wanted` names the platforms in errors. With `all_metadata` manifests and configs of an index's other platforms come
    too, without their layers; with `metadata_only` no layers come at all; with `sparse` manifests that are wanted and
    not there are passed over. `verifiers` are asked before anything comes, and `room` whether there is room for the
    layers. `labels` are the image's, `origin` those of blobs that come. A pull that fails closes its `resolver`, so
    that nothing it began runs on.
    """

    reference: str
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
    all_metadata: bool = False
    sparse: bool = False
    metadata_only: bool = False
    verifiers: Sequence[ImageVerifier] = ()
    room: Callable[[Sequence[Descriptor], str], None] = lambda blobs, doing: None
    labels: Labels = field(default_factory=dict)
    origin: Labels = field(default_factory=dict)

    def run(self) -> Descriptor:
        """What the image now points at. Errors name the reference, and what was being done to it where."""
        doing = errors.during(f"pulling {self.reference}", self.reference)
        with tracing.timeline(), tracing.span("pull", reference=self.reference), doing:
            return self._run(Report(self.sink, self.name))

    def _run(self, report: Report) -> Descriptor:
        report.tell(f"Resolving from {self.reference}")
        self.cancel.check()
        with tracing.span("resolve", reference=self.reference):
            target = self.resolver.resolve(self.reference)
        report.tell(f"Pulling from {self.reference}", target.digest)
        for verifier in self.verifiers:
            with tracing.span("verify", reference=self.reference):
                verifier.verify(self.reference, target, self.cancel)
        self.bring(target, report)
        report.tell(f"Completed pull from {self.reference}", target.digest)
        return target

    def bring(self, target: Descriptor, report: Report) -> None:
        """All of what was resolved; then the image points there."""
        fetch = self._fetch(report)
        manifests = self._manifests(target, fetch, set())
        if not manifests:
            raise errors.InvalidArgument(f"pulling {self.reference}: it has no manifest")
        for manifest in manifests:
            self._take(manifest, fetch)
        if self.all_metadata:
            others.bring(target, fetch, self.resolver)
        _label_indexes(target, fetch)
        self.cancel.check()
        self.images.put_image(self.name, target, self.labels, tracing.phases())
        report.tell("saved", target.digest)

    def _fetch(self, report: Report) -> Fetch:
        return Fetch(
            text=self.reference, content=self.content, fetcher=self.resolver.fetcher(self.reference), pool=self.pool,
            once=self.once, scope=self.scope, report=report, cancel=self.cancel.child(), origin=self.origin,
        )  # fmt: skip

    def _manifests(self, target: Descriptor, fetch: Fetch, seen: set[str]) -> list[Descriptor]:
        """The manifests that are wanted: of an index those the platforms choose, each one's best. `seen` are indexes:
        one may be met on more than one way."""
        if graph.is_manifest(target.media_type):
            return [target]
        if not graph.is_index(target.media_type):
            raise errors.InvalidArgument(
                f"pulling {self.reference}: {target.digest} is {target.media_type!r}, neither a manifest nor an index"
            )
        if target.digest in seen:
            return []
        if len(seen) == MAX_INDEXES:
            raise errors.InvalidArgument(f"pulling {self.reference}: it has more than {MAX_INDEXES} indexes")
        seen.add(target.digest)
        index = graph.index(target, fetch.document(target))
        chosen = graph.select(index, self.matchers, self.wanted, f"pulling {self.reference}")
        if not self.matchers:
            every = graph.choose(index, platforms.Every())
            chosen = {child.digest: child for child in every if not self.sparse or _comes(child, fetch)}
        return [manifest for child in chosen.values() for manifest in self._manifests(child, fetch, seen)]

    def _take(self, descriptor: Descriptor, fetch: Fetch) -> None:
        """All of one platform's image."""
        document = graph.manifest(descriptor, fetch.document(descriptor))
        config, unpackers = None, []
        if graph.is_config(document.config.media_type):
            config = graph.config(document.config, fetch.document(document.config))
            unpackers = self._unpackers(config)
            _check(descriptor, document, len(config.rootfs.diff_ids))
        else:
            fetch.blob(document.config)
        if not self.metadata_only:
            self._layers(document, config, unpackers, fetch)
        fetch.label(descriptor, graph.child_labels(descriptor, [document.config, *document.layers]))

    def _layers(
        self, document: Manifest, config: ImageConfig | None, unpackers: Sequence[Unpacker], fetch: Fetch
    ) -> None:
        self.room(document.layers, f"pulling {self.reference}")
        with Downloads(fetch, self.resolver, document.layers) as downloads:
            for unpacker in unpackers:
                assert config is not None
                diff_ids = config.rootfs.diff_ids
                top = unpacker.unpack(
                    document.layers, diff_ids, downloads.arrivals, fetch.report, fetch.cancel, self.reference
                )
                if top:
                    fetch.label(document.config, {f"{names.GC_REF_SNAPSHOT}.{unpacker.name}": top})
            downloads.wait()
        if config is not None:
            for layer, diff_id in zip(document.layers, config.rootfs.diff_ids, strict=True):
                fetch.label(layer, {names.UNCOMPRESSED: diff_id})

    def _unpackers(self, config: ImageConfig) -> list[Unpacker]:
        platform = graph.platform_of(config)
        unpackers = [target.unpacker for target in self.targets if target.matcher.match(platform)]
        if self.targets and self.matchers and not unpackers:
            raise errors.NotFound(
                f"pulling {self.reference}: it has nothing for {self.wanted}; it is {platforms.format(platform)}"
            )
        return unpackers


def _comes(child: Descriptor, fetch: Fetch) -> bool:
    try:
        fetch.document(child)
    except errors.NotFound:
        return False
    return True


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


def _label_indexes(target: Descriptor, fetch: Fetch) -> None:
    """An index keeps those of its children that are here."""

    def below(index: Descriptor) -> list[Descriptor]:
        try:
            named = graph.index(index, fetch.document(index)).manifests
        except errors.InvalidArgument:  # one that only came along
            return []
        children = [child for child in named if fetch.has(child)]
        fetch.label(index, graph.child_labels(index, children))
        return [child for child in children if graph.is_index(child.media_type)]

    if graph.is_index(target.media_type):
        list(graph.walk(target, below))
