"""Whether a snapshotter's tree holds together, and each snapshot has its directory.

Reads the rows of `tree`, and directories as `folders` lays them out; changes nothing on disk.
"""

import os
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from daemon.snapshots.tree import Node, last_row, rows_of
from spec.ports import KVTxn
from spec.records import Fault, Kind

# What is in a snapshot's directory, by snapshotter.
_INSIDE = {"overlayfs": "fs", "aufs": "fs", "native": ""}


def check(name: str, root: str, rows: KVTxn, running: bool) -> Iterator[Fault]:
    """What a start makes again is harmless while no daemon is `running`."""
    place = f"snapshots/{name}"
    nodes, broken = read(rows)
    for key in broken:
        yield Fault(place=place, subject=repr(key), what="it does not decode")
    by_name = {node.info.name: node for node in nodes}
    by_id: dict[int, str] = {}
    for node in nodes:
        for what in _misfits(node, by_name, by_id):
            yield Fault(place=place, subject=node.info.name, what=what)
        by_id.setdefault(node.id, node.info.name)
        if not os.path.isdir(_inside(name, root, node)):
            what = f"its directory snapshots/{node.id} is not there, or empty"
            harmless = not running and node.kind != Kind.COMMITTED
            yield Fault(place=place, subject=node.info.name, what=what, harmless=harmless)
    yield from _rows(place, nodes, rows)
    for folder in sorted(directories(root)):
        if not folder.isdecimal() or int(folder) not in by_id:
            yield Fault(place=place, subject=folder, what="no snapshot has this directory", harmless=True)


def read(rows: KVTxn) -> tuple[list[Node], list[bytes]]:
    """All snapshots, and the keys of rows that are none."""
    nodes, broken = [], []
    for key, value in rows.items(b"s"):
        try:
            nodes.append(msgspec.msgpack.decode(value, type=Node))
        except (msgspec.DecodeError, UnicodeDecodeError):
            broken.append(key)
    return nodes, broken


def directories(root: str) -> set[str]:
    """Names of those that snapshots have, or rubbish; not of what is being made."""
    try:
        return {name for name in os.listdir(os.path.join(root, "snapshots")) if not name.startswith("new-")}
    except FileNotFoundError:
        return set()


def mended(name: str, root: str, rows: KVTxn) -> tuple[dict[bytes, bytes], list[str]]:
    """The tree without what cannot be: snapshots whose directory is lost, and those on top of them; their names. An
    active one without a directory is made again at the start."""
    nodes, _ = read(rows)
    by_name = {node.info.name: node for node in nodes}
    sound: dict[str, bool] = {}
    for node in sorted(nodes, key=lambda node: len(node.parents)):
        there = node.kind != Kind.COMMITTED or os.path.isdir(_inside(name, root, node))
        fits = not list(_misfits(node, by_name, {}))
        below = sound.get(node.info.parent, False) if node.info.parent else True
        sound[node.info.name] = there and fits and below
    kept = [node for node in nodes if sound[node.info.name]]
    used = [node.id for node in nodes] + [int(folder) for folder in directories(root) if folder.isdecimal()]
    last = max([*used, int(rows.get(b"n") or b"0")], default=0)
    return {**rows_of(kept), **last_row(last)}, sorted(name for name, good in sound.items() if not good)


def _misfits(node: Node, by_name: Mapping[str, Node], by_id: Mapping[int, str]) -> Iterator[str]:
    if node.id in by_id:
        yield f"its id {node.id} is that of {by_id[node.id]}, too"
    parents: Sequence[int] = ()
    if node.info.parent:
        below = by_name.get(node.info.parent)
        if below is None:
            yield f"its parent {node.info.parent} is not there"
            return
        if below.kind != Kind.COMMITTED:
            yield f"its parent {node.info.parent} is not committed"
        parents = (below.id, *below.parents)
    if tuple(node.parents) != tuple(parents):
        yield f"it stands on {list(node.parents)}, its parent on {list(parents[1:])}"
    if len(set(node.parents)) != len(node.parents) or node.id in node.parents:
        yield "it stands on itself"


def _rows(place: str, nodes: Sequence[Node], rows: KVTxn) -> Iterator[Fault]:
    """Rows of children, of names, and the last id given out, follow from the snapshots."""
    should = rows_of(nodes)
    found = {key for key, _ in rows.items(b"c")} | {key for key, _ in rows.items(b"s")}
    if found != set(should):
        what = f"{len(found ^ set(should))} rows of children or names differ from what the snapshots say"
        yield Fault(place=place, subject="tree", what=what)
    last = int(rows.get(b"n") or b"0")
    highest = max((node.id for node in nodes), default=0)
    if last < highest:
        yield Fault(place=place, subject="tree", what=f"the last id given out is {last}, but {highest} is in use")


def _inside(name: str, root: str, node: Node) -> str:
    inside = _INSIDE.get(name)
    if inside is None:  # btrfs; a view of a parent has nothing of its own
        inside = {Kind.ACTIVE: "active", Kind.COMMITTED: "committed"}.get(node.kind, "")
    elif name in ("overlayfs", "aufs") and node.kind == Kind.VIEW:
        inside = ""
    return os.path.join(root, "snapshots", str(node.id), inside)
