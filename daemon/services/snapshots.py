"""Snapshots: every method names its snapshotter."""

from collections.abc import AsyncIterator, Callable
from itertools import islice

from daemon.flows import remap
from daemon.kit import context
from daemon.kit.threads import Pool, hop
from spec import errors
from spec.api import snapshots as api
from spec.base import Empty
from spec.ports import Snapshotter
from spec.records import SnapshotInfo
from spec.types import Usage

BLOCK = 100  # entries of a list message


class Snapshots:
    """`scoped` makes a snapshotter, by name, of a namespace; it raises InvalidArgument for a name it does not know.

    Even what only reads hops to the pool, for a snapshotter may be in another process.
    """

    def __init__(self, scoped: Callable[[str, str], Snapshotter], pool: Pool) -> None:
        self._scoped = scoped
        self._pool = pool

    async def prepare(self, request: api.PrepareRequest) -> api.MountsReply:
        snapshotter = self._snapshotter(request.snapshotter)
        mounts = await hop(self._pool, remap.prepare, snapshotter, request.key, request.parent, request.labels)
        return api.MountsReply(mounts=mounts)

    async def view(self, request: api.ViewRequest) -> api.MountsReply:
        snapshotter = self._snapshotter(request.snapshotter)
        mounts = await hop(self._pool, remap.view, snapshotter, request.key, request.parent, request.labels)
        return api.MountsReply(mounts=mounts)

    async def mounts(self, request: api.MountsRequest) -> api.MountsReply:
        mounts = self._snapshotter(request.snapshotter).mounts
        return api.MountsReply(mounts=await hop(self._pool, mounts, request.key))

    async def commit(self, request: api.CommitRequest) -> Empty:
        commit = self._snapshotter(request.snapshotter).commit
        await hop(self._pool, commit, request.name, request.key, request.labels, None, request.parent)
        return Empty()

    async def remove(self, request: api.RemoveRequest) -> Empty:
        await hop(self._pool, self._snapshotter(request.snapshotter).remove, request.key)
        return Empty()

    async def stat(self, request: api.StatRequest) -> SnapshotInfo:
        return await hop(self._pool, self._snapshotter(request.snapshotter).stat, request.key)

    async def update(self, request: api.UpdateRequest) -> SnapshotInfo:
        return await hop(self._pool, self._snapshotter(request.snapshotter).update, request.info, request.fields)

    async def list(self, request: api.ListRequest) -> AsyncIterator[api.ListReply]:
        infos = await hop(self._pool, self._snapshotter(request.snapshotter).list, request.filters)
        while block := await hop(self._pool, lambda: tuple(islice(infos, BLOCK))):
            yield api.ListReply(info=block)

    async def usage(self, request: api.UsageRequest) -> Usage:
        return await hop(self._pool, self._snapshotter(request.snapshotter).usage, request.key)

    async def cleanup(self, request: api.CleanupRequest) -> Empty:
        await hop(self._pool, self._snapshotter(request.snapshotter).cleanup)
        return Empty()

    def _snapshotter(self, name: str) -> Snapshotter:
        if not name:
            raise errors.InvalidArgument("the snapshotter is not named")
        return self._scoped(context.namespace(), name)
