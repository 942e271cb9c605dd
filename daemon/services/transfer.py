"""Transfer: whole journeys as one call, with progress as its stream. Journeys are imported when the first one begins: a
start does not pay for them."""

import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import ExitStack, aclosing
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

from daemon.flows.crew import Crew
from daemon.kit.cancel import Token
from daemon.kit.tally import Counter, Histogram
from daemon.kit.threads import Pool, hop
from daemon.services.journey import journey
from spec import errors, reference
from spec.api import transfer as api
from spec.exposition import Family
from spec.types import Progress

if TYPE_CHECKING:
    from daemon.services.house import House, Tools

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


class Transfer:
    """Its arguments are those of Tools."""

    def __init__(
        self, house: "House", journeys: Pool, downloads: Pool, uploads: Pool, crew: Crew, sync: bool = True
    ) -> None:
        self._arguments = house, journeys, downloads, uploads, crew, sync
        self._transfers = Counter("holdd_transfers_total", "Transfers that have ended.", ("kind", "status"))
        self._seconds = Histogram("holdd_transfer_seconds", "How long transfers took.", ("kind",))
        self._bytes = Counter("holdd_transfer_bytes_total", "Bytes of blobs that came.", ("kind",))
        for kind in (*KINDS.values(), *WITHIN):  # from the start, so that the first one is a change
            self._bytes.add(kind, count=0)
            for status in ("success", "fail"):
                self._transfers.add(kind, status, count=0)

    @cached_property
    def _tools(self) -> "Tools":
        from daemon.services.house import Tools

        return Tools(*self._arguments)

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
        registry = await hop(self._tools.journeys, self._tools.house.resolver, request.source)

        def work(sink: Callable[[api.ReferrersReply], None], _: Token) -> None:
            registry.watch(lambda text: sink(api.ReferrersReply(http=text)))
            try:
                digest = request.digest or registry.resolve(ref).digest
                found = iter(registry.referrers(ref, digest, request.artifact_types))
                while block := tuple(islice(found, BLOCK)):
                    sink(api.ReferrersReply(referrers=block))
            finally:
                registry.close()

        async with aclosing(journey(self._tools.journeys, work, registry.close)) as told:
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
        from daemon.services import archives, registries, within

        match request.source, request.destination:
            case api.Registry() as source, api.ImageStore() as destination:
                return await registries.pull(self._tools, source, destination)
            case api.Registry() as source, api.Raw() as destination:
                return await registries.fetch(self._tools, source, destination, fds[0])
            case api.ImageStore() as source, api.Registry() as destination:
                return await registries.push(self._tools, source, destination)
            case api.Archive() as source, api.ImageStore() as destination:
                return archives.bring(self._tools, source, destination, fds[0])
            case api.ImageStore() as source, api.Archive() as destination:
                return archives.write(self._tools, source, destination, fds[0])
            case api.ImageStore() as source, api.ImageStore() as destination:
                return within.change(self._tools, source, destination)
        raise AssertionError(kind)


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
