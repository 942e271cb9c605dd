"""Transfer: whole journeys as one call, with progress as its stream."""

import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import ExitStack, aclosing
from functools import partial
from typing import Protocol

from daemon.flows import importing
from daemon.flows.crew import Crew
from daemon.flows.pull import Pull, Target
from daemon.flows.push import Push
from daemon.flows.raw import Raw
from daemon.flows.stored import Unpacking
from daemon.flows.unpack import Unpacker
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
from spec.ports import Applier, Cancel, ContentStore, ImageArchive, ProgressSink, Registries, Resolver, Snapshotter
from spec.records import Image, Labels
from spec.types import Progress

KINDS = ("pull", "import", "unpack", "tag")


class House(Protocol):
    """What a journey needs of the assembly."""

    def default_snapshotter(self, namespace: str) -> str: ...

    def content(self, namespace: str) -> ContentStore: ...

    def images(self, namespace: str) -> ScopedImages: ...

    def snapshotter(self, namespace: str, name: str) -> Snapshotter: ...

    def applier(self, content: ContentStore) -> Applier: ...

    def resolver(self, source: api.Registry) -> Registries: ...

    def leases(self, namespace: str) -> ScopedLeases: ...

    def archive(self, fd: int, cancel: Cancel) -> ImageArchive: ...


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
        for kind in KINDS:  # from the start, so that the first one is a change
            self._bytes.add(kind, count=0)
            for status in ("success", "fail"):
                self._transfers.add(kind, status, count=0)

    def families(self) -> Sequence[Family]:
        """What the metrics tell of it."""
        return [self._transfers.family(), self._seconds.family(), self._bytes.family()]

    async def transfer(self, request: api.TransferRequest, fds: Sequence[int]) -> AsyncIterator[Progress]:
        """Progress until it is done."""
        kind = _kind(request)
        began_s = time.monotonic()
        status = "fail"
        try:
            async with aclosing(self._transfer(request, fds)) as told:
                async for progress in told:
                    if progress.event == "complete":
                        self._bytes.add(kind, count=progress.total)
                    yield progress
            status = "success"
        finally:
            self._transfers.add(kind, status)
            self._seconds.observe(time.monotonic() - began_s, kind)

    async def _transfer(self, request: api.TransferRequest, fds: Sequence[int]) -> AsyncGenerator[Progress, None]:
        source, destination = request.source, request.destination
        with ExitStack() as held:
            for fd in fds:
                held.callback(os.close, fd)
            if isinstance(source, api.Registry) and isinstance(destination, api.ImageStore):
                async for progress in self._pull(source, destination):
                    yield progress
            elif isinstance(source, api.Archive) and isinstance(destination, api.ImageStore):
                async for progress in self._import(source, destination, fds):
                    yield progress
            elif isinstance(source, api.Registry) and isinstance(destination, api.Raw):
                async for progress in self._raw(source, destination, fds):
                    yield progress
            elif isinstance(source, api.ImageStore) and isinstance(destination, api.Registry):
                async for progress in self._push(source, destination):
                    yield progress
            elif isinstance(source, api.ImageStore) and isinstance(destination, api.ImageStore):
                if destination.name != source.name or not destination.unpacks:
                    yield await self._tag(source, destination)
                if destination.unpacks:
                    async for progress in self._unpack(source, destination.unpacks):
                        yield progress
            else:
                raise errors.Unimplemented(
                    f"transferring from {type(source).__name__} to {type(destination).__name__} is not offered"
                )

    async def _tag(self, source: api.ImageStore, destination: api.ImageStore) -> Progress:
        """One more name. AlreadyExists, unless it is forced to point elsewhere."""
        images = self._house.images(context.namespace())
        target = images.get(source.name).target
        if destination.force:
            await hop(self._journeys, images.put_image, destination.name, target, destination.labels)
        else:
            await images.create(Image(name=destination.name, target=target, labels=destination.labels))
        return Progress(event="saved", name=destination.name, descriptor=target.digest)

    async def _unpack(self, source: api.ImageStore, unpacks: Sequence[api.Unpack]) -> AsyncIterator[Progress]:
        """Snapshots of an image that is here."""
        namespace = context.namespace()
        target = self._house.images(namespace).get(source.name).target

        def work(sink: ProgressSink, token: Token) -> None:
            targets = [self._target(namespace, unpack) for unpack in unpacks]
            with self._house.leases(namespace).passing():
                Unpacking(source.name, target, self._house.content(namespace), targets, sink, token).run()

        async for progress in journey(self._journeys, work):
            yield progress

    async def _pull(self, source: api.Registry, destination: api.ImageStore) -> AsyncIterator[Progress]:
        namespace = context.namespace()
        if destination.unpacks and destination.metadata_only:
            raise errors.InvalidArgument(f"pulling {source.reference}: without its layers nothing can be unpacked")
        resolver = await hop(self._journeys, self._house.resolver, source)

        def work(sink: ProgressSink, token: Token) -> None:
            try:
                parsed = reference.parse(source.reference)
                origin = {f"{names.DISTRIBUTION_SOURCE}.{parsed.host}": parsed.repository}
                name = destination.name or source.reference
                with self._house.leases(namespace).passing():
                    self._one(namespace, str(parsed), name, destination, resolver, sink, token, origin).run()
            finally:
                resolver.close()

        # Closing the resolver wakes whoever waits for a registry.
        async for progress in journey(self._journeys, work, resolver.close):
            yield progress

    async def _push(self, source: api.ImageStore, destination: api.Registry) -> AsyncIterator[Progress]:
        namespace = context.namespace()
        target = source.target or self._house.images(namespace).get(source.name).target
        registry = await hop(self._journeys, self._house.resolver, destination)

        def work(sink: ProgressSink, token: Token) -> None:
            with ExitStack() as stack:
                stack.callback(registry.close)
                stack.enter_context(self._house.leases(namespace).passing())
                bounded = destination.concurrency and destination.concurrency < self._uploads.size
                uploads = stack.enter_context(Pool("upload", destination.concurrency)) if bounded else self._uploads
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

        async for progress in journey(self._journeys, work, registry.close):
            yield progress

    async def _raw(
        self, source: api.Registry, destination: api.Raw, fds: Sequence[int]
    ) -> AsyncIterator[Progress]:
        if len(fds) != 1:
            raise errors.InvalidArgument(f"fetching: one descriptor comes with the request, not {len(fds)}")
        ref = str(reference.parse(source.reference))
        resolver = await hop(self._journeys, self._house.resolver, source)

        def work(_: ProgressSink, token: Token) -> None:
            try:
                Raw(ref, resolver, fds[0], token, destination.digest, destination.media_type).run()
            finally:
                resolver.close()

        async for progress in journey(self._journeys, work, resolver.close):
            yield progress

    async def _import(
        self, source: api.Archive, destination: api.ImageStore, fds: Sequence[int]
    ) -> AsyncIterator[Progress]:
        if len(fds) != 1:
            raise errors.InvalidArgument(f"importing: one descriptor comes with the request, not {len(fds)}")
        namespace = context.namespace()

        def work(sink: ProgressSink, token: Token) -> None:
            with self._house.archive(fds[0], token) as archive, self._house.leases(namespace).passing():

                def pull(digest: str, name: str) -> Pull:
                    return self._one(namespace, digest, name, destination, archive, sink, token, {})

                importing.run(archive.images(), destination.name, source.base_name, pull, sink)

        async for progress in journey(self._journeys, work):
            yield progress

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
    ) -> Pull:
        return Pull(
            reference=ref,
            name=name,
            resolver=resolver,
            content=self._house.content(namespace),
            images=self._house.images(namespace),
            targets=[self._target(namespace, unpack) for unpack in destination.unpacks],
            matchers=[platforms.only(platforms.parse(text)) for text in _platforms(destination)],
            wanted=" or ".join(_platforms(destination)),
            pool=self._downloads.executor,
            once=self._once,
            scope=namespace,
            sink=sink,
            cancel=token,
            all_metadata=destination.all_metadata,
            metadata_only=destination.metadata_only,
            labels=destination.labels,
            origin=origin,
        )

    def _target(self, namespace: str, unpack: api.Unpack) -> Target:
        name = unpack.snapshotter or self._house.default_snapshotter(namespace)
        applier = self._house.applier(self._house.content(namespace))
        snapshotter = self._house.snapshotter(namespace, name)
        keep = partial(self._house.leases(namespace).keep, edges.snapshot_kind(name))
        unpacker = Unpacker(name, snapshotter, applier, self._once, namespace, self._crew, self._sync, keep)
        platform = platforms.parse(unpack.platform) if unpack.platform else platforms.default()
        return Target(unpacker=unpacker, matcher=platforms.only(platform))


def _kind(request: api.TransferRequest) -> str:
    """What a transfer is called in the metrics."""
    if isinstance(request.source, api.Registry):
        return "pull"
    if isinstance(request.source, api.Archive):
        return "import"
    return "unpack" if getattr(request.destination, "unpacks", ()) else "tag"


def _platforms(destination: api.ImageStore) -> Sequence[str]:
    """Those that are wanted, as text; none when all are."""
    if destination.all_platforms:
        return ()
    return destination.platforms or (platforms.format(platforms.default()),)
