"""What garbage collection sees: the records of all namespaces, snapshots of each snapshotter, ingests, blobs."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

from daemon.kit.keylock import KeyLock
from daemon.metadata.store import Store, Txn
from daemon.metadata.tables import CONTAINERS, CONTENT, IMAGES, LEASED, LEASES, in_use
from daemon.scoped.leases import Holds, drop
from spec import edges, errors, names
from spec.edges import Node, Resource
from spec.events import ImageDelete, SnapshotRemove
from spec.ports import ContentStore, Publisher, Snapshotter
from spec.records import Lease

CHUNK, BREATH_S = 16, 0.0003  # blobs, a millisecond's work, and then a pause: others want the interpreter, too
INGEST_LIFE_NS = 24 * 3600 * 10**9  # of one that no lease keeps, since it was last written to

log = logging.getLogger(__name__)
StillDead = Callable[[Sequence[Node]], Sequence[Node]]


class RecordGarbage:
    """A ports.Collectible: images, containers, leases and content of all namespaces. Bytes follow their last record."""

    kinds = frozenset({edges.IMAGE, edges.CONTAINER, edges.LEASE, edges.CONTENT})

    def __init__(self, store: Store, raw: ContentStore, blobs: KeyLock, holds: Holds, publisher: Publisher) -> None:
        self._store = store
        self._raw = raw
        self._blobs = blobs
        self._holds = holds
        self._publisher = publisher

    def resources(self) -> Iterator[Resource]:
        now = time.time_ns()
        for namespace in self._namespaces():
            for lease in LEASES.each(self._store, namespace):
                yield self._lease(namespace, lease, now)
            for image in IMAGES.each(self._store, namespace):
                yield edges.of_image(namespace, image, now)
            for container in CONTAINERS.each(self._store, namespace):
                yield edges.of_container(namespace, container)
            for info in CONTENT.each(self._store, namespace):
                yield edges.of_content(namespace, info)

    def order(self, dead: Iterable[Resource]) -> Sequence[Node]:
        return [resource.node for resource in dead if resource.node[0] in self.kinds]

    def remove(self, nodes: Sequence[Node], still_dead: StillDead) -> Sequence[Node]:
        dying = self._store.update(lambda txn: [node for node in still_dead(nodes) if _remove(txn, node)], patient=True)
        gone = dying.result()
        for kind, namespace, id in gone:
            if kind == edges.IMAGE:
                self._publisher.publish(namespace, "/images/delete", ImageDelete(name=id))
        return gone

    def clean(self, removed: bool) -> None:
        """Delete blobs that no namespace has a record of."""
        found = (info.digest for info in (self._raw.list() if removed else ()))
        while digests := list(islice(found, CHUNK)):
            for digest in self._unrecorded(digests):
                self._delete(digest)
            time.sleep(BREATH_S)

    def _delete(self, digest: str) -> None:
        """Whoever makes a record of it holds the same lock while he looks whether it is there."""
        with self._blobs.held(digest):
            if not self._recorded(digest):
                with contextlib.suppress(errors.NotFound):
                    self._raw.delete(digest)

    def _recorded(self, digest: str) -> bool:
        return not self._unrecorded([digest])

    def _unrecorded(self, digests: Sequence[str]) -> list[str]:
        with self._store.view() as view:
            namespaces = in_use(view)
            return [
                digest
                for digest in digests
                if all(CONTENT.find(view, namespace, digest) is None for namespace in namespaces)
            ]

    def _lease(self, namespace: str, lease: Lease, now_ns: int) -> Resource:
        held = (namespace, lease.id) in self._holds
        return Resource(
            (edges.LEASE, namespace, lease.id),
            root=held or not edges.expired(lease.labels, now_ns),
            flat=names.GC_FLAT in lease.labels,
            refs=[(row.type, namespace, row.id) for row in LEASED.each(self._store, namespace, lease.id)],
        )

    def _namespaces(self) -> list[str]:
        with self._store.view() as view:
            return in_use(view)


class IngestGarbage:
    """A ports.Collectible: ingests that nobody has written to for a day and no lease keeps."""

    kinds = frozenset({edges.INGEST})

    def __init__(self, raw: ContentStore) -> None:
        self._raw = raw

    def resources(self) -> Iterator[Resource]:
        oldest = time.time_ns() - INGEST_LIFE_NS
        for status in self._raw.statuses():
            namespace, _, ref = status.ref.partition("/")
            yield Resource((edges.INGEST, namespace, ref), root=status.updated_at_ns > oldest)

    def order(self, dead: Iterable[Resource]) -> Sequence[Node]:
        return [resource.node for resource in dead if resource.node[0] == edges.INGEST]

    def remove(self, nodes: Sequence[Node], still_dead: StillDead) -> Sequence[Node]:
        return [node for node in still_dead(nodes) if self._abort(f"{node[1]}/{node[2]}")]

    def clean(self, removed: bool) -> None:
        """An ingest's bytes go with it."""

    def _abort(self, ref: str) -> bool:
        try:
            self._raw.abort(ref)
        except (errors.NotFound, errors.Unavailable):  # gone, or open: its writer counts on it
            return False
        return True


class SnapshotGarbage:
    """A ports.Collectible: the snapshots of one snapshotter, of all namespaces."""

    def __init__(self, name: str, raw: Snapshotter, publisher: Publisher) -> None:
        self.kinds = frozenset({edges.snapshot_kind(name)})
        self._name = name
        self._raw = raw
        self._publisher = publisher

    def resources(self) -> Iterator[Resource]:
        for info in self._raw.list():
            namespace, _, key = info.name.partition("/")
            if key:
                parent = info.parent.partition("/")[2]
                labels = info.labels
                own = type(info)(name=key, parent=parent, kind=info.kind, labels=labels)
                yield edges.of_snapshot(namespace, self._name, own)

    def order(self, dead: Iterable[Resource]) -> Sequence[Node]:
        """Children before parents: all children of what is dead are dead."""
        mine = {resource.node: resource for resource in dead if resource.node[0] in self.kinds}
        depths: dict[Node, int] = {}
        for node in mine:
            chain = []
            at: Node | None = node
            while at in mine and at not in depths:
                chain.append(at)
                at = mine[at].base[0] if mine[at].base else None
            depth = depths.get(at, 0) if at is not None else 0
            for step in reversed(chain):
                depth += 1
                depths[step] = depth
        return sorted(mine, key=lambda node: -depths[node])

    def remove(self, nodes: Sequence[Node], still_dead: StillDead) -> Sequence[Node]:
        gone = []
        for node in nodes:
            if still_dead([node]) and self._remove(node):
                gone.append(node)
                event = SnapshotRemove(key=node[2], snapshotter=self._name)
                self._publisher.publish(node[1], "/snapshot/remove", event)
        return gone

    def clean(self, removed: bool) -> None:
        if removed:
            self._raw.cleanup()

    def _remove(self, node: Node) -> bool:
        try:
            self._raw.remove(f"{node[1]}/{node[2]}")
        except errors.NotFound:
            return False
        except errors.Error as exc:  # one that has a child since, or cannot go, stops only itself
            log.warning("collecting snapshot %s of %s in namespace %s: %s", node[2], self._name, node[1], exc)
            return False
        return True


def _remove(txn: Txn, node: Node) -> bool:
    kind, namespace, id = node
    try:
        if kind == edges.LEASE:
            drop(txn, namespace, id)
        else:
            (IMAGES if kind == edges.IMAGE else CONTENT).delete(txn, namespace, id)
    except errors.NotFound:
        return False
    return True
