"""Transfer: whole journeys as one call, with progress as its stream."""

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import Protocol

from daemon.flows import importing
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
from spec.ports import Applier, Cancel, ContentStore, ImageArchive, ProgressSink, Resolver, Snapshotter
from spec.records import Image, Labels
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

    def archive(self, fd: int, cancel: Cancel) -> ImageArchive: ...


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

    async def transfer(self, request: api.TransferRequest, fds: Sequence[int]) -> AsyncIterator[Progress]:
        """Progress until it is done."""
        with contextlib.ExitStack() as held:
            for fd in fds:
                held.callback(os.close, fd)
            source, destination = request.source, request.destination
            if isinstance(source, api.Registry) and isinstance(destination, api.ImageStore):
                journey = await self._pull(source, destination)
            elif isinstance(source, api.Archive) and isinstance(destination, api.ImageStore):
                journey = self._import(source, destination, fds)
            elif isinstance(source, api.ImageStore) and isinstance(destination, api.ImageStore):
                journey = self._tag(source, destination)
            else:
                raise errors.Unimplemented(
                    f"transferring from {type(source).__name__} to {type(destination).__name__} is not offered"
                )
            async with contextlib.aclosing(journey):
                async for progress in journey:
                    yield progress

    async def _tag(self, source: api.ImageStore, destination: api.ImageStore) -> AsyncGenerator[Progress, None]:
        """One more name. AlreadyExists, unless it is forced to point elsewhere."""
        images = self._house.images(context.namespace())
        target = images.get(source.name).target
        if destination.force:
            await hop(self._journeys, images.put_image, destination.name, target, destination.labels)
        else:
            await images.create(Image(name=destination.name, target=target, labels=destination.labels))
        yield Progress(event="saved", name=destination.name, descriptor=target.digest)

    async def _pull(self, source: api.Registry, destination: api.ImageStore) -> AsyncGenerator[Progress, None]:
        namespace, token = context.namespace(), Token()
        resolver = await hop(self._journeys, self._house.resolver, source)

        def run(sink: ProgressSink) -> None:
            try:
                parsed = reference.parse(source.reference)
                origin = {f"{names.DISTRIBUTION_SOURCE}.{parsed.host}": parsed.repository}
                name = destination.name or source.reference
                self._one(namespace, str(parsed), name, destination, resolver, sink, token, origin).run()
            finally:
                resolver.close()

        def end() -> None:
            token.cancel("the caller gave up")
            resolver.close()  # wakes whoever waits for a registry

        return self._told(run, end)

    def _import(
        self, source: api.Archive, destination: api.ImageStore, fds: Sequence[int]
    ) -> AsyncGenerator[Progress, None]:
        if len(fds) != 1:
            raise errors.InvalidArgument(f"importing: one descriptor comes with the request, not {len(fds)}")
        namespace, token = context.namespace(), Token()

        def run(sink: ProgressSink) -> None:
            with self._house.archive(fds[0], token) as archive:

                def pull(digest: str, name: str) -> Pull:
                    return self._one(namespace, digest, name, destination, archive, sink, token, {})

                importing.run(archive.images(), destination.name, source.base_name, pull, sink)

        return self._told(run, lambda: token.cancel("the caller gave up"))

    async def _told(
        self, run: Callable[[ProgressSink], None], end: Callable[[], None]
    ) -> AsyncGenerator[Progress, None]:
        """Progress of `run`, on a thread. `end` ends it early; it has ended when this has."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Progress | None] = asyncio.Queue()

        def sink(progress: Progress) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens
                loop.call_soon_threadsafe(queue.put_nowait, progress)

        work = asyncio.ensure_future(hop(self._journeys, run, sink))
        work.add_done_callback(lambda _: queue.put_nowait(None))
        try:
            while (progress := await queue.get()) is not None:
                yield progress
            await work
        finally:
            end()
            await asyncio.wait([work])

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
            labels=destination.labels,
            origin=origin,
        )

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
