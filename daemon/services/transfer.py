"""Transfer: whole journeys as one call, with progress as its stream. A journey is imported when the first one begins:
a start does not pay for them."""

import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, aclosing, nullcontext
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from daemon.flows.crew import Crew
from daemon.kit import context
from daemon.kit.cancel import Token
from daemon.kit.keylock import Once
from daemon.kit.tally import Counter, Histogram
from daemon.kit.threads import Pool, hop
from daemon.scoped.images import ScopedImages
from daemon.scoped.leases import ScopedLeases
from daemon.services.journey import journey
from spec import edges, errors, names, platforms, reference
from spec.api import transfer as api
from spec.exposition import Family
from spec.oci.image import Descriptor
from spec.ports import (
    Applier,
    Cancel,
    ContentStore,
    ImageArchive,
    ImageVerifier,
    LayerConverter,
    ProgressSink,
    Registries,
    Resolver,
    Snapshotter,
)
from spec.records import Image, Labels
from spec.types import Progress

if TYPE_CHECKING:
    from daemon.flows.pull import Pull, Target

KINDS = {
    (api.Registry, api.ImageStore): "pull",
    (api.Registry, api.Raw): "fetch",
    (api.ImageStore, api.Registry): "push",
    (api.Archive, api.ImageStore): "import",
    (api.ImageStore, api.Archive): "export",
}
WITHIN = ("unpack", "tag", "convert")
BLOCK = 100  # rows of a list message
DESCRIPTORS = frozenset({"fetch", "import", "export"})  # those that a descriptor comes with


class House(Protocol):
    """What a journey needs of the assembly."""

    def default_snapshotter(self, namespace: str) -> str: ...

    def content(self, namespace: str) -> ContentStore: ...

    def images(self, namespace: str) -> ScopedImages: ...

    def snapshotter(self, namespace: str, name: str) -> Snapshotter: ...

    def applier(self, content: ContentStore) -> Applier: ...

    def converter(self, content: ContentStore) -> LayerConverter: ...

    def resolver(self, source: api.Registry) -> Registries: ...

    def leases(self, namespace: str) -> ScopedLeases: ...

    def room(self, blobs: Sequence[Descriptor], doing: str) -> None: ...

    def verifiers(self) -> Sequence[ImageVerifier]: ...

    def archive(self, fd: int, cancel: Cancel, compress: bool) -> ImageArchive: ...


class Transfer:
    """`journeys` runs whole transfers, `downloads` and `uploads` their blobs, `crew` unpacks; with `sync` what it
    unpacked is durable before any record says so."""

    def __init__(
        self, house: House, journeys: Pool, downloads: Pool, uploads: Pool, crew: Crew, sync: bool = True
    ) -> None:
        self._house = house
        self._journeys = journeys
        self._downloads = downloads
        self._uploads = uploads
        self._crew = crew
        self._sync = sync
        self._once: Once[None] = Once()
        self._transfers = Counter("holdd_transfers_total", "Transfers that have ended.", ("kind", "status"))
        self._seconds = Histogram("holdd_transfer_seconds", "How long transfers took.", ("kind",))
        self._bytes = Counter("holdd_transfer_bytes_total", "Bytes of blobs that came.", ("kind",))
        for kind in (*KINDS.values(), *WITHIN):  # from the start, so that the first one is a change
            self._bytes.add(kind, count=0)
            for status in ("success", "fail"):
                self._transfers.add(kind, status, count=0)

    def families(self) -> Sequence[Family]:
        """What the metrics tell of it."""
        return [self._transfers.family(), self._seconds.family(), self._bytes.family()]

    async def transfer(self, request: api.TransferRequest, fds: Sequence[int]) -> AsyncIterator[Progress]:
        """Progress until it is done."""
        with ExitStack() as held:
            for fd in fds:
                held.callback(os.close, fd)
            async with aclosing(self._counted(_kind(request), request, fds)) as told:
                async for progress in told:
                    yield progress

    async def referrers(self, request: api.ReferrersRequest) -> AsyncIterator[api.ReferrersReply]:
        ref = str(reference.parse(request.source.reference))
        registry = await hop(self._journeys, self._house.resolver, request.source)

        def work(sink: Callable[[api.ReferrersReply], None], _: Token) -> None:
            registry.watch(lambda text: sink(api.ReferrersReply(http=text)))
            try:
                digest = request.digest or registry.resolve(ref).digest
                found = iter(registry.referrers(ref, digest, request.artifact_types))
                while block := tuple(islice(found, BLOCK)):
                    sink(api.ReferrersReply(referrers=block))
            finally:
                registry.close()

        async with aclosing(journey(self._journeys, work, registry.close)) as told:
            async for reply in told:
                yield reply

    async def _counted(
        self, kind: str, request: api.TransferRequest, fds: Sequence[int]
    ) -> AsyncGenerator[Progress, None]:
        began_s = time.monotonic()
        status = "fail"
        try:
            async with aclosing(await self._begin(kind, request, fds)) as told:
                async for progress in told:
                    if progress.event == "complete":
                        self._bytes.add(kind, count=progress.total)
                    yield progress
            status = "success"
        finally:
            self._transfers.add(kind, status)
            self._seconds.observe(time.monotonic() - began_s, kind)

    async def _begin(
        self, kind: str, request: api.TransferRequest, fds: Sequence[int]
    ) -> AsyncGenerator[Progress, None]:
        """The journey from this kind of source to this kind of destination, under way."""
        if len(fds) != (kind in DESCRIPTORS):
            takes = "one descriptor comes" if kind in DESCRIPTORS else "no descriptor comes"
            raise errors.InvalidArgument(f"transferring, {kind}: {takes} with the request, not {len(fds)}")
        match request.source, request.destination:
            case api.Registry() as source, api.ImageStore() as destination:
                return await self._pull(source, destination)
            case api.Registry() as source, api.Raw() as destination:
                return await self._fetch(source, destination, fds[0])
            case api.ImageStore() as source, api.Registry() as destination:
                return await self._push(source, destination)
            case api.Archive() as source, api.ImageStore() as destination:
                return self._import(source, destination, fds[0])
            case api.ImageStore() as source, api.Archive() as destination:
                return self._export(source, destination, fds[0])
            case api.ImageStore() as source, api.ImageStore() as destination:
                return self._within(source, destination)
        raise AssertionError(kind)

    def _within(self, source: api.ImageStore, destination: api.ImageStore) -> AsyncGenerator[Progress, None]:
        """Another name, another form, or snapshots of what is here."""
        namespace = context.namespace()
        images = self._house.images(namespace)
        target = images.get(source.name).target
        named = destination.name != source.name or destination.conversion is not None or not destination.unpacks

        def work(sink: ProgressSink, token: Token) -> None:
            if destination.conversion is None and not destination.unpacks:
                _tag(images, target, destination, sink)
                return
            with self._house.leases(namespace).passing():
                found = target
                if destination.conversion is not None:
                    found = self._converted(namespace, source.name, target, destination, sink, token)
                if named:
                    _tag(images, found, destination, sink)
                if destination.unpacks:
                    from daemon.flows.stored import Unpacking

                    targets = [self._target(namespace, unpack) for unpack in destination.unpacks]
                    content = self._house.content(namespace)
                    Unpacking(destination.name, found, content, targets, sink, token).run()

        return journey(self._journeys, work)

    def _converted(
        self,
        namespace: str,
        name: str,
        target: Descriptor,
        destination: api.ImageStore,
        sink: ProgressSink,
        token: Token,
    ) -> Descriptor:
        from daemon.flows.converting import Convert

        assert destination.conversion is not None
        content = self._house.content(namespace)
        with Pool("convert", len(os.sched_getaffinity(0))) as pool:
            return Convert(
                name=name,
                target=target,
                content=content,
                converter=self._house.converter(content),
                matchers=_matchers(destination),
                wanted=" or ".join(_platforms(destination)),
                compression=destination.conversion.compression,
                oci=destination.conversion.oci,
                pool=pool.executor,
                sink=sink,
                cancel=token,
            ).run()

    async def _pull(self, source: api.Registry, destination: api.ImageStore) -> AsyncGenerator[Progress, None]:
        namespace = context.namespace()
        if destination.unpacks and destination.metadata_only:
            raise errors.InvalidArgument(f"pulling {source.reference}: without its layers nothing can be unpacked")
        resolver = await hop(self._journeys, self._house.resolver, source)

        def work(sink: ProgressSink, token: Token) -> None:
            from dataclasses import replace

            with ExitStack() as stack:
                stack.callback(resolver.close)
                resolver.watch(partial(_tell, sink))
                parsed = reference.parse(source.reference)
                origin = {f"{names.DISTRIBUTION_SOURCE}.{parsed.host}": parsed.repository}
                name = destination.name or source.reference
                stack.enter_context(self._house.leases(namespace).passing())
                downloads = stack.enter_context(_bounded(self._downloads, source.concurrency))
                pull = self._one(namespace, str(parsed), name, destination, resolver, sink, token, origin)
                replace(pull, verifiers=self._house.verifiers(), pool=downloads.executor).run()

        # Closing the resolver wakes whoever waits for a registry.
        return journey(self._journeys, work, resolver.close)

    async def _push(self, source: api.ImageStore, destination: api.Registry) -> AsyncGenerator[Progress, None]:
        namespace = context.namespace()
        target = source.target or self._house.images(namespace).get(source.name).target
        registry = await hop(self._journeys, self._house.resolver, destination)

        def work(sink: ProgressSink, token: Token) -> None:
            from daemon.flows.push import Push

            with ExitStack() as stack:
                stack.callback(registry.close)
                registry.watch(partial(_tell, sink))
                stack.enter_context(self._house.leases(namespace).passing())
                uploads = stack.enter_context(_bounded(self._uploads, destination.concurrency))
                Push(
                    name=source.name or target.digest,
                    target=target,
                    reference=reference.parse(destination.reference),
                    registry=registry,
                    content=self._house.content(namespace),
                    matchers=[platforms.only(platforms.parse(text)) for text in source.platforms],
                    wanted=" or ".join(source.platforms),
                    pool=uploads.executor,
                    sink=sink,
                    cancel=token,
                    non_distributable=source.non_distributable,
                ).run()

        return journey(self._journeys, work, registry.close)

    async def _fetch(
        self, source: api.Registry, destination: api.Raw, fd: int
    ) -> AsyncGenerator[Progress, None]:
        ref = str(reference.parse(source.reference))
        resolver = await hop(self._journeys, self._house.resolver, source)

        def work(sink: ProgressSink, token: Token) -> None:
            from daemon.flows.raw import Raw

            resolver.watch(partial(_tell, sink))
            try:
                Raw(ref, resolver, fd, token, destination.digest, destination.media_type).run()
            finally:
                resolver.close()

        return journey(self._journeys, work, resolver.close)

    def _import(
        self, source: api.Archive, destination: api.ImageStore, fd: int
    ) -> AsyncGenerator[Progress, None]:
        namespace = context.namespace()

        def work(sink: ProgressSink, token: Token) -> None:
            from dataclasses import replace

            from daemon.flows.importing import Import

            with (
                self._house.leases(namespace).passing(),
                self._house.archive(fd, token, source.force_compress) as archive,
            ):

                def pull(digest: str, name: str) -> "Pull":
                    made = self._one(namespace, digest, name, destination, archive, sink, token, {})
                    return replace(made, sparse=True)

                Import(
                    archive=archive,
                    content=self._house.content(namespace),
                    images=self._house.images(namespace),
                    pull=pull,
                    sink=sink,
                    name=destination.name,
                    base_name=source.base_name,
                    add_digest=source.add_digest,
                    skip_named_digest=source.skip_named_digest,
                    labels=destination.labels,
                ).run()

        return journey(self._journeys, work)

    def _export(
        self, source: api.ImageStore, destination: api.Archive, fd: int
    ) -> AsyncGenerator[Progress, None]:
        namespace = context.namespace()
        images = self._house.images(namespace)
        given = dict.fromkeys(filter(None, (source.name, *source.extra_references)))
        found = [(name, images.get(name).target) for name in given]
        if not found:
            raise errors.InvalidArgument("exporting: no image is named")

        def work(sink: ProgressSink, token: Token) -> None:
            from daemon.flows.exporting import Export

            with self._house.leases(namespace).passing():
                Export(
                    images=found,
                    content=self._house.content(namespace),
                    matchers=_matchers(destination),
                    wanted=" or ".join(_platforms(destination)),
                    fd=fd,
                    sink=sink,
                    cancel=token,
                    saved=not destination.skip_compatibility_manifest,
                    non_distributable=not destination.skip_non_distributable,
                ).run()

        return journey(self._journeys, work)

    def _one(
        self,
        namespace: str,
        ref: str,
        name: str,
        destination: api.ImageStore,
        resolver: Resolver,
        sink: ProgressSink,
        token: Token,
        origin: Labels,
    ) -> "Pull":
        from daemon.flows.pull import Pull

        return Pull(
            reference=ref,
            name=name,
            resolver=resolver,
            content=self._house.content(namespace),
            images=self._house.images(namespace),
            targets=[self._target(namespace, unpack) for unpack in destination.unpacks],
            matchers=_matchers(destination),
            wanted=" or ".join(_platforms(destination)),
            pool=self._downloads.executor,
            once=self._once,
            scope=namespace,
            sink=sink,
            cancel=token,
            all_metadata=destination.all_metadata,
            metadata_only=destination.metadata_only,
            room=self._house.room,
            labels=destination.labels,
            origin=origin,
        )

    def _target(self, namespace: str, unpack: api.Unpack) -> "Target":
        from daemon.flows.pull import Target
        from daemon.flows.unpack import Unpacker

        name = unpack.snapshotter or self._house.default_snapshotter(namespace)
        applier = self._house.applier(self._house.content(namespace))
        snapshotter = self._house.snapshotter(namespace, name)
        keep = partial(self._house.leases(namespace).keep, edges.snapshot_kind(name))
        unpacker = Unpacker(name, snapshotter, applier, self._once, namespace, self._crew, self._sync, keep)
        platform = platforms.parse(unpack.platform) if unpack.platform else platforms.default()
        return Target(unpacker=unpacker, matcher=platforms.only(platform))


def _kind(request: api.TransferRequest) -> str:
    """What a transfer is, and is called in the metrics."""
    match request.source, request.destination:
        case api.ImageStore(), api.ImageStore() as destination:
            return "convert" if destination.conversion is not None else "unpack" if destination.unpacks else "tag"
        case source, destination:
            kind = KINDS.get((type(source), type(destination)))
            if kind is None:
                raise errors.Unimplemented(
                    f"transferring from {type(source).__name__} to {type(destination).__name__} is not offered"
                )
            return kind


def _bounded(pool: Pool, size: int) -> AbstractContextManager[Pool]:
    """`pool`, or a smaller one of `size` threads (0: as many as there are)."""
    return Pool(pool.name, size) if 0 < size < pool.size else nullcontext(pool)


def _tell(sink: ProgressSink, text: str) -> None:
    """What goes over HTTP."""
    sink(Progress(event=api.HTTP, name=text))


def _tag(images: ScopedImages, target: Descriptor, destination: api.ImageStore, sink: ProgressSink) -> None:
    """One more name. AlreadyExists, unless it is forced to point elsewhere."""
    if destination.force:
        images.put_image(destination.name, target, destination.labels)
    else:
        images.create(Image(name=destination.name, target=target, labels=destination.labels)).result()
    sink(Progress(event="saved", name=destination.name, descriptor=target.digest))


def _platforms(wanted: api.ImageStore | api.Archive) -> Sequence[str]:
    """Those that are wanted, as text; none when all are."""
    if wanted.all_platforms:
        return ()
    return wanted.platforms or (platforms.format(platforms.default()),)


def _matchers(wanted: api.ImageStore | api.Archive) -> Sequence[platforms.Matcher]:
    return [platforms.only(platforms.parse(text)) for text in _platforms(wanted)]
