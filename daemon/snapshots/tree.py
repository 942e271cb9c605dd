"""The tree of snapshots over a KV: which there are, of which kind, on whom they stand. Knows no filesystem.

Layout:
    s KEY               -> the snapshot (Node, msgpack); of a key that is too long for a row, a NUL and its hash
    c HASH KEY-HASH     -> "", one row a child, by hashes of both names
    n                   -> the last id given out
A snapshot keeps its id when it is committed, so its directory never moves.
"""

import hashlib
import time
from collections.abc import Iterator, Sequence

import msgspec
from msgspec.structs import replace

from spec import errors, filterable, masks
from spec.base import Record, pack
from spec.filters import matcher
from spec.ports import KV, KVTxn
from spec.records import Kind, Labels, SnapshotInfo
from spec.types import Usage

MAX_KEY = 300  # bytes of a key that stands in a row as it is
_LAST = b"n"


class Node(Record, frozen=True):
    """A snapshot as stored: `id` names its directory, `usage` is what it takes once it is committed and was counted (no
    inodes: not yet), `parents` are the ids it stands on, nearest first. They never change, for what has children cannot
    be removed: so a chain is read at once, however deep."""

    id: int
    info: SnapshotInfo
    usage: Usage = Usage()
    parents: Sequence[int] = ()

    @property
    def kind(self) -> Kind:
        return self.info.kind


_node = msgspec.msgpack.Decoder(Node)


class Tree:
    """The state machine: create makes, commit turns active into committed, remove ends what has no children."""

    def __init__(self, kv: KV) -> None:
        self._kv = kv

    def create(self, kind: Kind, key: str, parent: str, labels: Labels | None) -> Node:
        """A new active snapshot or view. AlreadyExists; NotFound or InvalidArgument for the parent."""
        now = time.time_ns()
        info = SnapshotInfo(
            name=key, parent=parent, kind=kind, created_at_ns=now, updated_at_ns=now, labels=labels or {}
        )

        def change(txn: KVTxn) -> Node:
            below = _below(txn, key, parent)
            id = int(txn.get(_LAST) or b"0") + 1
            node = Node(id=id, info=info, parents=(below.id, *below.parents) if below else ())
            txn.put(_LAST, b"%d" % id)
            txn.put(_key(key), pack(node))
            if parent:
                txn.put(_child(parent, key), b"")
            return node

        return self._kv.update(change)

    def parent_of(self, key: str, parent: str) -> Node | None:
        """What a new snapshot `key` would stand on; raises what `create` would. For those who work before they ask."""
        with self._kv.view() as view:
            return _below(view, key, parent)

    def commit(self, name: str, key: str, labels: Labels | None, usage: Usage, parent: str = "") -> None:
        """Active to committed. NotFound, FailedPrecondition for `key`; AlreadyExists for `name`. `parent` rebases it:
        NotFound, FailedPrecondition; InvalidArgument when it has another."""
        now = time.time_ns()

        def change(txn: KVTxn) -> None:
            node, below = _committing(txn, name, key, parent)
            had = node.info.parent
            has = had or parent
            info = SnapshotInfo(
                name=name, parent=has, kind=Kind.COMMITTED, created_at_ns=now, updated_at_ns=now, labels=labels or {}
            )
            parents = (below.id, *below.parents) if below else node.parents
            txn.delete(_key(key))
            txn.put(_key(name), pack(replace(node, info=info, usage=usage, parents=parents)))
            if had:
                txn.delete(_child(had, key))
            if has:
                txn.put(_child(has, name), b"")

        self._kv.update(change)

    def committing(self, name: str, key: str, parent: str) -> tuple[Node, Node | None]:
        """What `commit` would commit, and what it would rebase it on; raises what it would. For those who work before
        they commit."""
        with self._kv.view() as view:
            return _committing(view, name, key, parent)

    def remove(self, key: str) -> Node:
        """What was removed. NotFound; FailedPrecondition while it has children."""

        def change(txn: KVTxn) -> Node:
            node = _get(txn, key)
            for _ in txn.items(_child(key)):
                raise errors.FailedPrecondition(f"removing snapshot {key}: it has children")
            txn.delete(_key(key))
            if node.info.parent:
                txn.delete(_child(node.info.parent, key))
            return node

        return self._kv.update(change)

    def measured(self, node: Node, usage: Usage) -> None:
        """Remember what a committed one takes; one that is gone is fine."""

        def change(txn: KVTxn) -> None:
            value = txn.get(_key(node.info.name))
            found = _node.decode(value) if value is not None else None
            if found is not None and found.id == node.id:
                txn.put(_key(node.info.name), pack(replace(found, usage=usage)))

        self._kv.update(change)

    def get(self, key: str) -> Node:
        """NotFound."""
        with self._kv.view() as view:
            return _get(view, key)

    def active(self, key: str) -> Node:
        """An active snapshot or a view; FailedPrecondition when it is committed."""
        node = self.get(key)
        if node.kind == Kind.COMMITTED:
            raise errors.FailedPrecondition(f"mounting snapshot {key}: it is committed")
        return node

    def update(self, info: SnapshotInfo, fields: Sequence[str]) -> SnapshotInfo:
        """Labels by field mask."""

        def change(txn: KVTxn) -> SnapshotInfo:
            node = _get(txn, info.name)
            merged = replace(masks.merge(node.info, info, fields, ("labels",)), updated_at_ns=time.time_ns())
            txn.put(_key(info.name), pack(replace(node, info=merged)))
            return merged

        return self._kv.update(change)

    def list(self, filters: Sequence[str] = ()) -> Iterator[SnapshotInfo]:
        """As of the call; looking at the tree while iterating is fine."""
        matches = matcher(filters, filterable.SNAPSHOT)
        return iter([node.info for node in self.nodes() if matches(node.info)])

    def nodes(self) -> Sequence[Node]:
        """All snapshots, in order of their names."""
        with self._kv.view() as view:
            return [_node.decode(value) for _, value in view.items(b"s")]

    def ids(self) -> set[int]:
        """Of all snapshots."""
        return {node.id for node in self.nodes()}


def rows_of(nodes: Sequence[Node]) -> dict[bytes, bytes]:
    """All rows of a tree of these snapshots, but for the last id's."""
    rows = {_key(node.info.name): pack(node) for node in nodes}
    return rows | {_child(node.info.parent, node.info.name): b"" for node in nodes if node.info.parent}


def last_row(id: int) -> dict[bytes, bytes]:
    return {_LAST: b"%d" % id}


def _key(key: str) -> bytes:
    text = _text(key)
    return b"s" + (text if len(text) <= MAX_KEY else b"\0" + hashlib.sha256(text).digest())


def _child(parent: str, key: str = "") -> bytes:
    """The row of a child; without `key` what all children's rows begin with."""
    own = hashlib.sha256(_text(key)).digest() if key else b""
    return b"c" + hashlib.sha256(_text(parent)).digest() + own


def _text(key: str) -> bytes:
    if "\0" in key:
        raise errors.InvalidArgument(f"snapshot {key!r}: a NUL in its name")
    return key.encode("utf-8", "surrogateescape")


def _get(view: KVTxn, key: str) -> Node:
    value = view.get(_key(key))
    if value is None:
        raise errors.NotFound(f"snapshot {key} not found")
    return _node.decode(value)


def _below(view: KVTxn, key: str, parent: str) -> Node | None:
    """The node of `parent`, on which a new snapshot `key` may stand; None without a parent."""
    if not key:
        raise errors.InvalidArgument("making a snapshot: the key is empty")
    if view.get(_key(key)) is not None:
        raise errors.AlreadyExists(f"snapshot {key} already exists")
    if not parent:
        return None
    value = view.get(_key(parent))
    if value is None:
        raise errors.NotFound(f"parent snapshot {parent} not found")
    node = _node.decode(value)
    if node.kind != Kind.COMMITTED:
        raise errors.InvalidArgument(f"parent snapshot {parent} is not committed")
    return node


def _committing(view: KVTxn, name: str, key: str, parent: str) -> tuple[Node, Node | None]:
    """The node of `key`, to be committed as `name`, and that of `parent` when it is to be rebased."""
    if not name:
        raise errors.InvalidArgument(f"committing snapshot {key}: the name is empty")
    node = _get(view, key)
    if node.kind != Kind.ACTIVE:
        raise errors.FailedPrecondition(f"committing snapshot {key}: it is not active")
    if view.get(_key(name)) is not None:
        raise errors.AlreadyExists(f"snapshot {name} already exists")
    if parent in ("", node.info.parent):
        return node, None
    if node.info.parent:
        raise errors.InvalidArgument(f"committing snapshot {key} on top of {parent}: it stands on {node.info.parent}")
    below = _get(view, parent)
    if below.kind != Kind.COMMITTED:
        raise errors.FailedPrecondition(f"committing snapshot {key} on top of {parent}: that is not committed")
    return node, below
