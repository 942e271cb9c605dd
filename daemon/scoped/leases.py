"""Leases of one namespace: what is made under one stays while it lives."""

import base64
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

from daemon.kit import context
from daemon.metadata import buckets
from daemon.metadata.store import Commit, Store, Txn
from daemon.metadata.tables import LEASED, LEASES
from spec import errors, filterable
from spec.edges import CONTENT, IMAGE, INGEST
from spec.filters import matcher
from spec.names import GC_EXPIRE, check_labels
from spec.ports import Tracker
from spec.records import Labels, Lease, LeaseResource

PASSING_S = 24 * 3600


class Holds:
    """Leases that a living connection holds: neither deleted nor expired. Shared by all namespaces."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str], int] = {}

    def __contains__(self, lease: tuple[str, str]) -> bool:
        return lease in self._counts

    @contextmanager
    def held(self, namespace: str, id: str) -> Iterator[None]:
        key = (namespace, id)
        with self._lock:
            self._counts[key] = self._counts.get(key, 0) + 1
        try:
            yield
        finally:
            with self._lock:
                self._counts[key] -= 1
                if not self._counts[key]:
                    del self._counts[key]


class ScopedLeases:
    """Reads are inline; writes return a Commit, which threads wait for and coroutines await."""

    def __init__(self, store: Store, tracker: Tracker, holds: Holds, namespace: str) -> None:
        self._store = store
        self._tracker = tracker
        self._holds = holds
        self._namespace = namespace

    def get(self, id: str) -> Lease:
        """NotFound."""
        with self._store.view() as view:
            return LEASES.get(view, self._namespace, id)

    def list(self, filters: Sequence[str] = ()) -> Iterator[Lease]:
        """Filter fields: id, labels.KEY."""
        return filter(matcher(filters, filterable.LEASE), LEASES.each(self._store, self._namespace))

    def create(self, id: str = "", labels: Labels | None = None) -> Commit[Lease]:
        """AlreadyExists; an empty `id` is made up."""
        check_labels(labels or {})
        lease = Lease(id=id or made_up(), created_at_ns=time.time_ns(), labels=labels or {})
        return self._store.update(lambda txn: LEASES.create(txn, lease, self._namespace, lease.id))

    def delete(self, id: str) -> Commit[None]:
        """NotFound; FailedPrecondition while a connection holds it. What it kept is for collection to look at."""
        if (self._namespace, id) in self._holds:
            raise errors.FailedPrecondition(f"deleting lease {id}: a connection holds it")
        commit = self._store.update(lambda txn: drop(txn, self._namespace, id))
        commit.add_done_callback(lambda done: self._tracker.removed())
        return commit

    def keep(self, kind: str, id: str) -> None:
        """Make a resource that of the call's lease, if it has one; wait until that is durable. NotFound when the lease
        is gone."""
        lease = context.lease()
        if lease:
            self.add(lease, LeaseResource(id=id, type=kind)).result()

    def resources(self, id: str) -> Sequence[LeaseResource]:
        """NotFound."""
        self.get(id)
        return list(LEASED.each(self._store, self._namespace, id))

    def add(self, id: str, resource: LeaseResource) -> Commit[None]:
        """Once or twice is the same. NotFound; InvalidArgument for a malformed type, Unimplemented for another one."""
        check_resource(resource)

        def change(txn: Txn) -> None:
            self._tracker.touch([(resource.type, self._namespace, resource.id)])
            attach(txn, self._namespace, id, resource.type, resource.id)

        return self._store.update(change)

    def remove(self, id: str, resource: LeaseResource) -> Commit[None]:
        """NotFound for the lease; a resource that it has not is fine."""
        check_resource(resource)
        commit = self._store.update(lambda txn: _detach(txn, self._namespace, id, resource))
        commit.add_done_callback(lambda done: self._tracker.removed())
        return commit

    @contextmanager
    def held(self, id: str) -> Iterator[None]:
        """While the block runs nobody deletes it and it does not expire. NotFound."""
        with self._holds.held(self._namespace, id):
            self.get(id)
            yield


    @contextmanager
    def passing(self) -> Iterator[None]:
        """Run the block under the call's lease, else under one of its own that goes with it. What a crash leaves of it
        expires in a day."""
        if context.lease():
            yield
            return
        expires = datetime.fromtimestamp(time.time() + PASSING_S, UTC).isoformat()
        id = self.create(labels={GC_EXPIRE: expires}).result().id
        try:
            with context.using(lease=id), self.held(id):
                yield
        finally:
            self.delete(id).result()


def attach(txn: Txn, namespace: str, lease: str, kind: str, id: str) -> None:
    """Make a resource the lease's. NotFound; nothing without a lease."""
    if lease:
        LEASES.get(txn, namespace, lease)
        LEASED.put(txn, LeaseResource(id=id, type=kind), namespace, lease, kind, id)


def drop(txn: Txn, namespace: str, id: str) -> None:
    """The lease with the list of what it keeps. NotFound."""
    LEASES.delete(txn, namespace, id)
    for key in [key for key, _ in txn.items(buckets.prefix(namespace, LEASED.kind, id))]:
        txn.delete(key)


def check_resource(resource: LeaseResource) -> None:
    """Types are content, ingests, images, snapshots/SNAPSHOTTER."""
    kind, slash, snapshotter = resource.type.partition("/")
    if kind == "snapshots" and (not snapshotter or "/" in snapshotter):
        raise errors.InvalidArgument(f"lease resource type {resource.type!r} must be snapshots/SNAPSHOTTER")
    if kind != "snapshots" and slash:
        raise errors.InvalidArgument(f"lease resource type {resource.type!r} has a part too many")
    if kind not in ("snapshots", CONTENT, INGEST, IMAGE):
        raise errors.Unimplemented(f"lease resource type {resource.type!r} is not supported")
    if not resource.id:
        raise errors.InvalidArgument(f"lease resource of type {resource.type}: the id is empty")


def made_up() -> str:
    """As containerd makes them: nanoseconds and three random bytes."""
    return f"{time.time_ns() % 1_000_000_000}-{base64.urlsafe_b64encode(secrets.token_bytes(3)).decode()}"


def _detach(txn: Txn, namespace: str, lease: str, resource: LeaseResource) -> None:
    LEASES.get(txn, namespace, lease)
    txn.delete(buckets.key(namespace, LEASED.kind, lease, resource.type, resource.id))
