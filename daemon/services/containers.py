"""Containers: records, with containerd's rules of what may change."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import islice

from msgspec.structs import replace

from daemon.kit import context
from daemon.metadata.store import Store, Txn
from daemon.metadata.tables import CONTAINERS
from spec import edges, errors, filters, masks
from spec.api import containers as api
from spec.base import Empty
from spec.events import ContainerCreate, ContainerDelete, ContainerUpdate
from spec.names import check_identifier, check_labels
from spec.ports import Publisher, Tracker, Untracked
from spec.records import Container

BLOCK = 100  # rows of a list message
MUTABLE = ("labels", "spec", "extensions", "image", "snapshot_key")


class Containers:
    def __init__(self, store: Store, publisher: Publisher, tracker: Tracker = Untracked()) -> None:
        self._store = store
        self._publisher = publisher
        self._tracker = tracker

    def get(self, request: api.GetRequest) -> Container:
        with self._store.view() as view:
            return CONTAINERS.get(view, context.namespace(), request.id)

    def list(self, request: api.ListRequest) -> api.ListReply:
        return api.ListReply(containers=list(self._matching(request.filters)))

    async def list_stream(self, request: api.ListRequest) -> AsyncIterator[api.ListReply]:
        rows = self._matching(request.filters)
        while block := tuple(islice(rows, BLOCK)):
            yield api.ListReply(containers=block)
            await asyncio.sleep(0)

    async def create(self, request: api.CreateRequest) -> Container:
        _check(request.container)
        namespace = context.namespace()
        now = time.time_ns()
        container = replace(request.container, created_at_ns=now, updated_at_ns=now)
        self._touch(namespace, container)
        await self._store.update(lambda txn: CONTAINERS.create(txn, container, namespace, container.id))
        event = ContainerCreate(id=container.id, image=container.image, runtime=container.runtime)
        self._publisher.publish(namespace, "/containers/create", event)
        return container

    async def update(self, request: api.UpdateRequest) -> Container:
        namespace = context.namespace()
        self._touch(namespace, request.container)
        container = await self._store.update(lambda txn: _update(txn, namespace, request))
        event = ContainerUpdate(
            id=container.id, image=container.image, labels=container.labels, snapshot_key=container.snapshot_key
        )
        self._publisher.publish(namespace, "/containers/update", event)
        return container

    async def delete(self, request: api.DeleteRequest) -> Empty:
        namespace = context.namespace()
        await self._store.update(lambda txn: CONTAINERS.delete(txn, namespace, request.id))
        self._tracker.removed()
        self._publisher.publish(namespace, "/containers/delete", ContainerDelete(id=request.id))
        return Empty()

    def _touch(self, namespace: str, container: Container) -> None:
        """Before it is written, so that no collection takes what it is about to keep."""
        self._tracker.touch(edges.touched(edges.of_container(namespace, container)))

    def _matching(self, filters_: Sequence[str]) -> Iterator[Container]:
        return filter(filters.matcher(filters_, _FIELDS), CONTAINERS.each(self._store, context.namespace()))


def _update(txn: Txn, namespace: str, request: api.UpdateRequest) -> Container:
    current = CONTAINERS.get(txn, namespace, request.container.id)
    given = request.container
    if not request.fields and (given.snapshotter != current.snapshotter or given.runtime.name != current.runtime.name):
        raise errors.InvalidArgument(f"updating container {given.id}: snapshotter and runtime.name cannot change")
    merged = masks.merge(current, given, request.fields, MUTABLE)
    merged = replace(merged, updated_at_ns=time.time_ns())
    _check(merged)
    return CONTAINERS.put(txn, merged, namespace, merged.id)


def _check(container: Container) -> None:
    check_identifier(container.id, "container id")
    check_labels(container.labels)
    doing = f"container {container.id}"
    if not container.runtime.name:
        raise errors.InvalidArgument(f"{doing}: runtime.name is empty")
    if not container.spec:
        raise errors.InvalidArgument(f"{doing}: spec is empty")
    if container.snapshot_key and not container.snapshotter:
        raise errors.InvalidArgument(f"{doing}: snapshot_key without snapshotter")
    if "" in container.extensions:
        raise errors.InvalidArgument(f"{doing}: an extension's key is empty")


_FIELDS = filters.fields_of(
    {
        "id": lambda row: row.id,
        "runtime.name": lambda row: row.runtime.name,
        "image": lambda row: row.image,
        "labels": lambda row: row.labels,
    }
)
