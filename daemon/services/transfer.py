"""Transfer: whole journeys as one call, with progress as its stream."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

from daemon.flows.crew import Crew
from daemon.flows.pull import Pull, Target
from daemon.flows.unpack import Unpacker
from daemon.kit import context
from daemon.kit.cancel import Token
from daemon.kit.keylock import Once
from daemon.kit.threads import Pool, hop
from daemon.scoped.images import ScopedImages
from spec import errors, names, platforms, reference
from spec.api import transfer as api
from spec.oci.image import Descriptor
from spec.ports import Applier, ContentStore, Resolver, Snapshotter
from spec.records import Image
from spec.types import Progress


class House(Protocol):
    """What a journey needs of the assembly."""

    @property
    def default_snapshotter(self) -> str: ...

    def content(self, namespace: str) -> ContentStore: ...

    def images(self, namespace: str) -> ScopedImages: ...

    def snapshotter(self, namespace: str, name: str) -> Snapshotter: ...

    def applier(self, content: ContentStore) -> Applier: ...

    def resolver(self, source: api.Registry) -> Resolver: ...


class Transfer:
    """`journeys` runs whole transfers, `downloads` their blobs, `crew` unpacks; with `sync` what it unpacked is durable
    before any record says so."""

    def __init__(self, house: House, journeys: Pool, downloads: Pool, crew: Crew, sync: bool = True) -> None:
        self._house = house
        self._journeys = journeys
        self._downloads = downloads
        self._crew = crew
        self._sync = sync
        self._once: Once[None] = Once()

    async def transfer(self, request: api.TransferRequest) -> AsyncIterator[Progress]:
        """Progress until it is done."""
        source, destination = request.source, request.destination
        if isinstance(source, api.Registry) and isinstance(destination, api.ImageStore):
            async for progress in self._pull(source, destination):
                yield progress
        elif isinstance(source, api.ImageStore) and isinstance(destination, api.ImageStore):
            yield await self._tag(source, destination)
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

    async def _pull(self, source: api.Registry, destination: api.ImageStore) -> AsyncIterator[Progress]:
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Progress | None] = asyncio.Queue()
        token = Token()

        resolver = await hop(self._journeys, self._house.resolver, source)

        def sink(progress: Progress) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens
                loop.call_soon_threadsafe(queue.put_nowait, progress)

        work = asyncio.ensure_future(
            hop(self._journeys, self._run, context.namespace(), source, destination, resolver, sink, token)
        )
        work.add_done_callback(lambda _: queue.put_nowait(None))
        try:
            while (progress := await queue.get()) is not None:
                yield progress
            await work
        finally:
            token.cancel("the caller gave up")
            resolver.close()  # wakes whoever waits for a registry
            await asyncio.wait([work])

    def _run(
        self,
        namespace: str,
        source: api.Registry,
        destination: api.ImageStore,
        resolver: Resolver,
        sink: Callable[[Progress], None],
        token: Token,
    ) -> Descriptor:
        try:
            parsed = reference.parse(source.reference)
            return Pull(
                reference=str(parsed),
                name=destination.name or source.reference,
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
                labels=destination.labels,
                origin={f"{names.DISTRIBUTION_SOURCE}.{parsed.host}": parsed.repository},
            ).run()
        finally:
            resolver.close()

    def _target(self, namespace: str, unpack: api.Unpack) -> Target:
        name = unpack.snapshotter or self._house.default_snapshotter
        applier = self._house.applier(self._house.content(namespace))
        snapshotter = self._house.snapshotter(namespace, name)
        unpacker = Unpacker(name, snapshotter, applier, self._once, namespace, self._crew, self._sync)
        platform = platforms.parse(unpack.platform) if unpack.platform else platforms.default()
        return Target(unpacker=unpacker, matcher=platforms.only(platform))


def _platforms(destination: api.ImageStore) -> Sequence[str]:
    """Those that are wanted, as text; none when all are."""
    if destination.all_platforms:
        return ()
    return destination.platforms or (platforms.format(platforms.default()),)
