"""What keeps what: the nodes and edges that garbage collection walks. Pure; labels mean what they do in containerd."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from spec import names
from spec.oci.image import Descriptor
from spec.records import Container, ContentInfo, Image, SnapshotInfo

Node = tuple[str, str, str]
"""kind, namespace, id. A kind is a lease's resource type where there is one."""

CONTENT = "content"
INGEST = "ingests"
IMAGE = "images"
CONTAINER = "containers"
LEASE = "leases"

_GC = "containerd.io/gc."
_REFS = {names.GC_REF_CONTENT: CONTENT, names.GC_REF_IMAGE: IMAGE}
_BACK_REFS = {
    names.GC_BACK_REF_CONTENT: CONTENT,
    names.GC_BACK_REF_IMAGE: IMAGE,
    names.GC_BACK_REF_CONTAINER: CONTAINER,
}


def snapshot_kind(snapshotter: str) -> str:
    return f"snapshots/{snapshotter}"


class Condition(NamedTuple):
    """`node` keeps the labelled object if its stamp `gc.cond.value-usedat` meets one of `terms`, such as usedat<2h."""

    node: Node
    terms: Sequence[str]


class Resource(NamedTuple):
    """One node: what it keeps, and who keeps it.

    `base` is followed even when a flat lease holds it (a snapshot's parent, an image's target); `refs` are not.
    `owners` are nodes that keep this one. `used_at` is the stamp that conditions of others ask for.
    """

    node: Node
    root: bool = False
    flat: bool = False
    base: Sequence[Node] = ()
    refs: Sequence[Node] = ()
    owners: Sequence[Node] = ()
    conditions: Sequence[Condition] = ()
    used_at: str = ""


def of_content(namespace: str, info: ContentInfo) -> Resource:
    return _labelled((CONTENT, namespace, info.digest), info.labels)


def of_snapshot(namespace: str, snapshotter: str, info: SnapshotInfo) -> Resource:
    kind = snapshot_kind(snapshotter)
    base = ((kind, namespace, info.parent),) if info.parent else ()
    return _labelled((kind, namespace, info.name), info.labels, base=base)


def of_image(namespace: str, image: Image, now_ns: int) -> Resource:
    """A root until it expires."""
    root = not expired(image.labels, now_ns)
    return _labelled((IMAGE, namespace, image.name), image.labels, base=(_target(namespace, image.target),), root=root)


def of_container(namespace: str, container: Container) -> Resource:
    """Always a root; it keeps its snapshot."""
    base: Sequence[Node] = ()
    if container.snapshot_key:
        base = ((snapshot_kind(container.snapshotter), namespace, container.snapshot_key),)
    return _labelled((CONTAINER, namespace, container.id), container.labels, base=base, root=True)


def expired(labels: Mapping[str, str], now_ns: int) -> bool:
    """Whether `containerd.io/gc.expire` has passed. What cannot be read as a time never does."""
    text = labels.get(names.GC_EXPIRE, "")
    at = time_of(text) if text else None
    return at is not None and at * 1e9 <= now_ns


def time_of(text: str) -> float | None:
    """Seconds since the epoch, of RFC 3339."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return at.timestamp() if at.tzinfo is not None else None


def touched(resource: Resource) -> Iterator[Node]:
    """What must not be swept away while whoever wrote `resource` counts on it."""
    yield resource.node
    yield from resource.base
    yield from resource.refs


def _target(namespace: str, target: Descriptor) -> Node:
    return (CONTENT, namespace, target.digest)


def _labelled(node: Node, labels: Mapping[str, str], base: Sequence[Node] = (), root: bool = False) -> Resource:
    marks = [(key, value) for key, value in labels.items() if key.startswith(_GC)]
    if not marks:
        return Resource(node, root=root, base=base)
    namespace = node[1]
    return Resource(
        node,
        root=root or (names.GC_ROOT in labels and node[0] not in (IMAGE, CONTAINER)),
        base=base,
        refs=tuple(_edges(namespace, marks, _REFS, names.GC_REF_SNAPSHOT)),
        owners=tuple(_edges(namespace, marks, _BACK_REFS, names.GC_BACK_REF_SNAPSHOT)),
        conditions=tuple(_conditions(namespace, marks)),
        used_at=labels.get(names.GC_CONDITION_USED_AT, ""),
    )


def _edges(
    namespace: str, marks: Iterable[tuple[str, str]], kinds: Mapping[str, str], snapshots: str
) -> Iterator[Node]:
    for key, value in marks:
        if key.startswith(f"{snapshots}."):
            yield (snapshot_kind(key[len(snapshots) + 1 :].partition("/")[0]), namespace, value)
            continue
        for label, kind in kinds.items():
            if key == label or key.startswith((f"{label}.", f"{label}/")):
                yield (kind, namespace, value)


def _conditions(namespace: str, marks: Iterable[tuple[str, str]]) -> Iterator[Condition]:
    for key, value in marks:
        if key.startswith((f"{names.GC_CONDITION_SNAPSHOT}.", f"{names.GC_CONDITION_SNAPSHOT}/")):
            terms, bar, snapshot = value.partition("|")
            if bar:
                snapshotter = key[len(names.GC_CONDITION_SNAPSHOT) + 1 :]
                yield Condition((snapshot_kind(snapshotter), namespace, snapshot), terms.split(","))
