"""A snapshotter as one namespace sees it: its own keys and labels, over trees that carry longer ones.

The backend goes first and the record second when something is made, so a crash between the two leaves a tree that no
record names, which cleaning up removes; never a record without a tree.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence

from msgspec.structs import replace

from daemon.metadata.store import Store, Txn
from daemon.metadata.tables import SNAPSHOTS
from spec import errors, filters, masks
from spec.events import SnapshotCommit, SnapshotPrepare, SnapshotRemove
from spec.names import check_labels
from spec.ports import Publisher, Snapshotter
from spec.records import Kind, Labels, SnapshotInfo, SnapshotRef
from spec.types import Mount, Usage

PAGE = 100
INHERITED = "containerd.io/snapshot/"  # labels that the backend sees too

_Make = Callable[[str, str, Labels], Sequence[Mount]]
_sequence = itertools.count()


class ScopedSnapshots:
    """A ports.Snapshotter. `name` is the snapshotter's."""

    def __init__(self, raw: Snapshotter, name: str, store: Store, publisher: Publisher, namespace: str) -> None:
        self._raw = raw
        self._name = name
        self._store = store
        self._publisher = publisher
        self._namespace = namespace

    def prepare(self, key: str, parent: str = "", labels: Labels | None = None) -> Sequence[Mount]:
        mounts = self._make(self._raw.prepare, key, parent, labels or {})
        self._publish("/snapshot/prepare", SnapshotPrepare(key=key, parent=parent, snapshotter=self._name))
        return mounts

    def view(self, key: str, parent: str = "", labels: Labels | None = None) -> Sequence[Mount]:
        return self._make(self._raw.view, key, parent, labels or {})

    def mounts(self, key: str) -> Sequence[Mount]:
        return self._raw.mounts(self._ref(key).backend_key)

    def commit(self, name: str, key: str, labels: Labels | None = None, usage: Usage | None = None) -> None:
        labels = labels or {}
        check_labels(labels)
        self._refuse_existing(name)
        active = self._ref(key)
        backend = self._backend_key(name)
        try:
            self._raw.commit(backend, active.backend_key, _inherited(labels), usage)
        except errors.Error as exc:
            raise _named(exc, f"committing snapshot {key} as {name}", active.backend_key, key) from exc
        now = time.time_ns()
        record = SnapshotRef(
            name=name, backend_key=backend, parent=active.parent, labels=labels, created_at_ns=now, updated_at_ns=now
        )

        def change(txn: Txn) -> None:
            SNAPSHOTS.create(txn, record, self._namespace, self._name, name)
            SNAPSHOTS.delete(txn, self._namespace, self._name, key)

        self._store.update(change).result()
        self._publish("/snapshot/commit", SnapshotCommit(key=key, name=name, snapshotter=self._name))

    def remove(self, key: str) -> None:
        record = self._ref(key)
        try:
            self._raw.remove(record.backend_key)
        except errors.NotFound:
            pass  # a removal that was cut off after its first half
        except errors.Error as exc:
            raise _named(exc, f"removing snapshot {key}", record.backend_key, key) from exc
        self._store.update(lambda txn: SNAPSHOTS.delete(txn, self._namespace, self._name, key)).result()
        self._publish("/snapshot/remove", SnapshotRemove(key=key, snapshotter=self._name))

    def stat(self, key: str) -> SnapshotInfo:
        return self._info(self._ref(key))

    def update(self, info: SnapshotInfo, fields: Sequence[str] = ()) -> SnapshotInfo:
        check_labels(info.labels)

        def change(txn: Txn) -> SnapshotRef:
            current = SNAPSHOTS.get(txn, self._namespace, self._name, info.name)
            merged = masks.merge(current, _as_ref(info), fields, ("labels",))
            merged = replace(merged, updated_at_ns=time.time_ns())
            return SNAPSHOTS.put(txn, merged, self._namespace, self._name, info.name)

        return self._info(self._store.update(change).result())

    def usage(self, key: str) -> Usage:
        return self._raw.usage(self._ref(key).backend_key)

    def list(self, filters_: Sequence[str] = ()) -> Iterator[SnapshotInfo]:
        matches = filters.matcher(filters_, _FIELDS)
        mark = b""
        while True:
            with self._store.view() as view:
                page, mark = SNAPSHOTS.page(view, mark, PAGE, self._namespace, self._name)
            yield from filter(matches, map(self._info, page))
            if not mark:
                return

    def cleanup(self) -> None:
        self._raw.cleanup()

    def close(self) -> None:
        """The raw snapshotter belongs to the assembly, which closes it."""

    def _make(self, make: _Make, key: str, parent: str, labels: Labels) -> Sequence[Mount]:
        check_labels(labels)
        if not key:
            raise errors.InvalidArgument("preparing a snapshot: the key is empty")
        self._refuse_existing(key)
        parent_key = self._ref(parent).backend_key if parent else ""
        backend = self._backend_key(key)
        try:
            mounts = make(backend, parent_key, _inherited(labels))
        except errors.Error as exc:
            raise _named(exc, f"preparing snapshot {key}", parent_key, parent) from exc
        now = time.time_ns()
        record = SnapshotRef(
            name=key, backend_key=backend, parent=parent, labels=labels, created_at_ns=now, updated_at_ns=now
        )
        try:
            self._store.update(
                lambda txn: SNAPSHOTS.create(txn, record, self._namespace, self._name, key)
            ).result()
        except errors.Error:
            self._raw.remove(backend)
            raise
        return mounts

    def _ref(self, key: str) -> SnapshotRef:
        with self._store.view() as view:
            return SNAPSHOTS.get(view, self._namespace, self._name, key)

    def _refuse_existing(self, key: str) -> None:
        with self._store.view() as view:
            if SNAPSHOTS.find(view, self._namespace, self._name, key) is not None:
                raise errors.AlreadyExists(
                    f"snapshot {self._name}/{key} in namespace {self._namespace} already exists"
                )

    def _backend_key(self, key: str) -> str:
        """Unique for ever: a key may be taken again while its former tree waits to be removed."""
        return f"{self._namespace}/{time.time_ns():x}.{next(_sequence):x}/{key}"

    def _info(self, record: SnapshotRef) -> SnapshotInfo:
        return SnapshotInfo(
            name=record.name,
            parent=record.parent,
            kind=self._raw.stat(record.backend_key).kind,
            created_at_ns=record.created_at_ns,
            updated_at_ns=record.updated_at_ns,
            labels=record.labels,
        )

    def _publish(self, topic: str, event: SnapshotPrepare | SnapshotCommit | SnapshotRemove) -> None:
        self._publisher.publish(self._namespace, topic, event)


def _inherited(labels: Labels) -> Labels:
    return {key: value for key, value in labels.items() if key.startswith(INHERITED)}


def _as_ref(info: SnapshotInfo) -> SnapshotRef:
    return SnapshotRef(name=info.name, backend_key="", parent=info.parent, labels=info.labels)


def _named(exc: errors.Error, doing: str, backend: str, key: str) -> errors.Error:
    """`exc` in the caller's words: his keys, not the backend's."""
    text = exc.message.replace(backend, key) if backend else exc.message
    return type(exc)(text if text.startswith(doing) else f"{doing}: {text}")


_KINDS = {Kind.VIEW: "view", Kind.ACTIVE: "active", Kind.COMMITTED: "committed", Kind.UNKNOWN: "unknown"}
_FIELDS = filters.fields_of(
    {
        "kind": lambda info: _KINDS[info.kind],
        "name": lambda info: info.name,
        "parent": lambda info: info.parent,
        "labels": lambda info: info.labels,
    }
)
