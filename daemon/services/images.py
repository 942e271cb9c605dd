"""Images: names for descriptors, in the namespace of the call."""

from collections.abc import Awaitable, Callable

from daemon.kit import context
from daemon.scoped.images import ScopedImages
from spec.api import images as api
from spec.base import Empty
from spec.records import Image


class Images:
    """`scoped` makes the images of a namespace; `collected` waits for a garbage collection."""

    def __init__(self, scoped: Callable[[str], ScopedImages], collected: Callable[[], Awaitable[object]]) -> None:
        self._scoped = scoped
        self._collected = collected

    def get(self, request: api.GetRequest) -> Image:
        return self._images().get(request.name)

    def list(self, request: api.ListRequest) -> api.ListReply:
        return api.ListReply(images=list(self._images().list(request.filters)))

    async def create(self, request: api.CreateRequest) -> Image:
        return await self._images().create(request.image, request.source_date_epoch_ns)

    async def update(self, request: api.UpdateRequest) -> Image:
        return await self._images().update(request.image, request.fields, request.source_date_epoch_ns)

    async def delete(self, request: api.DeleteRequest) -> Empty:
        await self._images().delete(request.name, request.target)
        if request.sync:
            await self._collected()
        return Empty()

    def _images(self) -> ScopedImages:
        return self._scoped(context.namespace())
