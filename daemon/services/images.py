"""Images: names for descriptors, in the namespace of the call."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from itertools import islice
from typing import Protocol

from daemon.kit import context
from daemon.kit.cancel import Token
from daemon.kit.keylock import KeyLock
from daemon.kit.threads import Pool
from daemon.scoped.images import ScopedImages
from daemon.scoped.leases import ScopedLeases
from daemon.services.journey import journey
from spec import platforms
from spec.api import images as api
from spec.base import Empty
from spec.oci.image import Descriptor
from spec.ports import Applier, ContentStore, Snapshotter
from spec.records import Image

BLOCK = 100  # rows of a list message


class House(Protocol):
    """What is needed of the assembly."""

    def default_snapshotter(self, namespace: str) -> str: ...

    def images(self, namespace: str) -> ScopedImages: ...

    def content(self, namespace: str) -> ContentStore: ...

    def snapshotter(self, namespace: str, name: str) -> Snapshotter: ...

    def applier(self, content: ContentStore) -> Applier: ...

    def leases(self, namespace: str) -> ScopedLeases: ...

    async def collected(self) -> object:
        """Wait for a garbage collection."""


class Images:
    """`journeys` runs whole checks, `hashing` what they have to hash."""

    def __init__(self, house: House, journeys: Pool, hashing: Pool) -> None:
        self._house = house
        self._journeys = journeys
        self._hashing = hashing
        self._locks = KeyLock()

    def get(self, request: api.GetRequest) -> Image:
        return self._images().get(request.name)

    def list(self, request: api.ListRequest) -> api.ListReply:
        return api.ListReply(images=list(self._images().list(request.filters)))

    async def list_stream(self, request: api.ListRequest) -> AsyncIterator[api.ListReply]:
        rows = self._images().list(request.filters)
        while block := tuple(islice(rows, BLOCK)):
            yield api.ListReply(images=block)
            await asyncio.sleep(0)

    async def create(self, request: api.CreateRequest) -> Image:
        return await self._images().create(request.image, request.source_date_epoch_ns)

    async def update(self, request: api.UpdateRequest) -> Image:
        return await self._images().update(request.image, request.fields, request.source_date_epoch_ns)

    async def delete(self, request: api.DeleteRequest) -> Empty:
        await self._images().delete(request.name, request.target)
        if request.sync:
            await self._house.collected()
        return Empty()

    async def check(self, request: api.CheckRequest) -> AsyncIterator[api.CheckReply]:
        namespace = context.namespace()
        target = self._images().get(request.name).target

        def work(sink: Callable[[api.CheckReply], None], token: Token) -> None:
            with self._house.leases(namespace).passing():  # what is made to compare with is nobody else's
                self._check(namespace, request, target, sink, token)

        async with aclosing(journey(self._journeys, work)) as told:
            async for reply in told:
                yield reply

    def _check(
        self,
        namespace: str,
        request: api.CheckRequest,
        target: Descriptor,
        sink: Callable[[api.CheckReply], None],
        token: Token,
    ) -> None:
        from daemon.flows.verify import Check, Place  # when it is first used: a start does not pay for it

        content = self._house.content(namespace)
        name = request.snapshotter or self._house.default_snapshotter(namespace)
        snapshotter = self._house.snapshotter(namespace, name)
        platform = platforms.parse(request.platform) if request.platform else platforms.default()
        Check(
            name=request.name,
            target=target,
            content=content,
            place=Place(name, snapshotter, self._house.applier(content), self._locks, namespace),
            matcher=platforms.only(platform),
            pool=self._hashing.executor,
            sink=lambda progress: sink(api.CheckReply(progress=progress)),
            found=lambda finding: sink(api.CheckReply(finding=finding)),
            cancel=token,
            repair=request.repair,
        ).run()

    def _images(self) -> ScopedImages:
        return self._house.images(context.namespace())
