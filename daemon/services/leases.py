"""Leases of the call's namespace."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from itertools import islice

from daemon.kit import context
from daemon.scoped.leases import ScopedLeases
from spec import errors
from spec.api import leases as api
from spec.base import Empty
from spec.records import Lease, LeaseResource

BLOCK = 100  # entries of a list message

Ways = Sequence[Sequence[LeaseResource]]


class Leases:
    """`scoped` makes the leases of a namespace; `collected` waits for a garbage collection; `holders` tells why a
    resource, by namespace, type and id, stays."""

    def __init__(
        self,
        scoped: Callable[[str], ScopedLeases],
        collected: Callable[[], Awaitable[object]],
        holders: Callable[[str, str, str], Awaitable[Ways]],
    ) -> None:
        self._scoped = scoped
        self._collected = collected
        self._holders = holders

    async def create(self, request: api.CreateRequest) -> Lease:
        return await self._leases().create(request.id, request.labels)

    async def delete(self, request: api.DeleteRequest) -> Empty:
        await self._leases().delete(request.id)
        if request.sync:
            await self._collected()
        return Empty()

    def list(self, request: api.ListRequest) -> api.ListReply:
        return api.ListReply(leases=list(self._leases().list(request.filters)))

    async def list_stream(self, request: api.ListRequest) -> AsyncIterator[api.ListReply]:
        rows = iter(self._leases().list(request.filters))
        while block := tuple(islice(rows, BLOCK)):
            yield api.ListReply(leases=block)
            await asyncio.sleep(0)

    async def add_resource(self, request: api.AddResourceRequest) -> Empty:
        await self._leases().add(request.id, request.resource)
        return Empty()

    async def delete_resource(self, request: api.DeleteResourceRequest) -> Empty:
        await self._leases().remove(request.id, request.resource)
        return Empty()

    async def list_resources(self, request: api.ListResourcesRequest) -> AsyncIterator[api.ListResourcesReply]:
        resources = iter(self._leases().resources(request.id))
        while block := tuple(islice(resources, BLOCK)):
            yield api.ListResourcesReply(resources=block)

    async def holders(self, request: api.HoldersRequest) -> api.HoldersReply:
        resource = request.resource
        return api.HoldersReply(ways=await self._holders(context.namespace(), resource.type, resource.id))

    async def hold(self, request: api.HoldRequest) -> AsyncIterator[Lease]:
        leases = self._leases()
        try:
            with leases.held(request.id):
                yield leases.get(request.id)
                await asyncio.get_running_loop().create_future()  # until the caller goes
        finally:
            if request.delete:
                with contextlib.suppress(errors.NotFound, errors.FailedPrecondition):
                    await asyncio.shield(asyncio.wrap_future(leases.delete(request.id)))

    def _leases(self) -> ScopedLeases:
        return self._scoped(context.namespace())
