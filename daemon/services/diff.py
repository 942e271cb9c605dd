"""Diff: layers onto mounts, differences of mounts into layers."""

from collections.abc import Callable, Mapping

from daemon.kit import context
from daemon.kit.threads import Pool, hop
from spec import errors
from spec.api import diff as api
from spec.ports import Differ


class Diff:
    """`scoped` makes the differ of a namespace, with payloads for its stream processors. `sync_fs` asks of every
    application what a request may ask of one."""

    def __init__(self, scoped: Callable[[str, Mapping[str, bytes]], Differ], pool: Pool, sync_fs: bool = False) -> None:
        self._scoped = scoped
        self._pool = pool
        self._sync_fs = sync_fs

    async def apply(self, request: api.ApplyRequest) -> api.ApplyReply:
        return await hop(self._pool, self._apply, request)

    async def diff(self, request: api.DiffRequest) -> api.DiffReply:
        return await hop(self._pool, self._diff, request)

    def _apply(self, request: api.ApplyRequest) -> api.ApplyReply:
        differ = self._scoped(context.namespace(), request.payloads)
        applied = differ.apply(request.diff, request.mounts, context.cancel())
        if applied.implied:  # which could be settled with what only we hold
            raise errors.FailedPrecondition(f"applying layer {request.diff.digest}: needs the layers below")
        if request.sync_fs or self._sync_fs:
            differ.sync(request.mounts)
        return api.ApplyReply(applied=applied.descriptor, usage=applied.usage)

    def _diff(self, request: api.DiffRequest) -> api.DiffReply:
        made = self._scoped(context.namespace(), {}).compare(
            request.left,
            request.right,
            request.media_type,
            request.ref,
            request.labels,
            request.source_date_epoch_s,
            context.cancel(),
        )
        return api.DiffReply(diff=made)
