"""Namespaces: their records; one with anything in it stays."""

import asyncio
from collections.abc import Callable, Sequence

from daemon.metadata import buckets
from daemon.metadata.store import Store, Txn
from daemon.metadata.tables import GLOBAL, NAMESPACED, NAMESPACES, in_use
from spec import errors, filters, masks
from spec.api import namespaces as api
from spec.base import Empty
from spec.events import NamespaceCreate, NamespaceDelete, NamespaceUpdate
from spec.names import check_labels, check_namespace
from spec.ports import Publisher
from spec.records import Namespace


class Namespaces:
    """`held` says what else than records a namespace has, in words; it blocks."""

    def __init__(self, store: Store, publisher: Publisher, held: Callable[[str], Sequence[str]]) -> None:
        self._store = store
        self._publisher = publisher
        self._held = held

    def get(self, request: api.GetRequest) -> Namespace:
        with self._store.view() as view:
            return NAMESPACES.get(view, GLOBAL, request.name)

    def list(self, request: api.ListRequest) -> api.ListReply:
        matches = filters.matcher(request.filters, _FIELDS)
        with self._store.view() as view:
            rows = [NAMESPACES.find(view, GLOBAL, name) or Namespace(name=name) for name in in_use(view)]
        return api.ListReply(namespaces=[row for row in rows if matches(row)])

    async def create(self, request: api.CreateRequest) -> Namespace:
        namespace = request.namespace
        check_namespace(namespace.name)
        check_labels(namespace.labels)
        await self._store.update(lambda txn: NAMESPACES.create(txn, namespace, GLOBAL, namespace.name))
        event = NamespaceCreate(name=namespace.name, labels=namespace.labels)
        self._publisher.publish(namespace.name, "/namespaces/create", event)
        return namespace

    async def update(self, request: api.UpdateRequest) -> Namespace:
        name = request.namespace.name
        check_labels(request.namespace.labels)

        def change(txn: Txn) -> Namespace:
            current = NAMESPACES.get(txn, GLOBAL, name)
            merged = masks.merge(current, request.namespace, request.fields, ("labels",))
            return NAMESPACES.put(txn, merged, GLOBAL, name)

        namespace = await self._store.update(change)
        self._publisher.publish(name, "/namespaces/update", NamespaceUpdate(name=name, labels=namespace.labels))
        return namespace

    async def delete(self, request: api.DeleteRequest) -> Empty:
        held = await asyncio.to_thread(self._held, request.name)
        await self._store.update(lambda txn: _delete(txn, request.name, held))
        self._publisher.publish(request.name, "/namespaces/delete", NamespaceDelete(name=request.name))
        return Empty()


def _delete(txn: Txn, name: str, held: Sequence[str]) -> None:
    NAMESPACES.get(txn, GLOBAL, name)
    left = [table.kind for table in NAMESPACED if any(txn.items(buckets.prefix(name, table.kind)))]
    left += held
    if left:
        raise errors.FailedPrecondition(f"deleting namespace {name}: it still has {', '.join(left)}")
    NAMESPACES.delete(txn, GLOBAL, name)


_FIELDS = filters.fields_of({"name": lambda row: row.name, "labels": lambda row: row.labels})
