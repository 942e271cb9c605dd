"""Whether the records are what the schema says, by themselves: every row decodes, where its record belongs."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from daemon.metadata import buckets, sealed
from daemon.metadata.store import View
from daemon.metadata.table import GLOBAL, Table
from daemon.metadata.tables import CONTAINERS, CONTENT, IMAGES, LEASED, LEASES, NAMESPACES
from spec.records import Fault

# The id of a row, by its record and the parts of its key.
_TABLES: dict[str, tuple[Table[Any], Callable[[Any, list[str]], tuple[str, ...]]]] = {
    "namespaces": (NAMESPACES, lambda row, parts: (row.name,)),
    "images": (IMAGES, lambda row, parts: (row.name,)),
    "containers": (CONTAINERS, lambda row, parts: (row.id,)),
    "content": (CONTENT, lambda row, parts: (row.digest,)),
    "leases": (LEASES, lambda row, parts: (row.id,)),
    "leased": (LEASED, lambda row, parts: (parts[2], row.type, row.id)),
}


def misfits(view: View) -> dict[bytes, str]:
    """Rows that cannot be where they are, and why."""
    return {key: what for key, value in view.items(b"") if (what := _misfit(view, key, value))}


def faults(misfits: Mapping[bytes, str]) -> Iterator[Fault]:
    for key, what in misfits.items():
        yield Fault(place="metadata", subject=sealed.name(key), what=what)


def _misfit(view: View, key: bytes, value: bytes) -> str:
    parts = [part.decode("utf-8", "surrogateescape") for part in key.removesuffix(b"\0").split(b"\0")]
    if len(parts) < 3:
        return "its path is too short"
    if parts[0] == GLOBAL and parts[1] in ("kv", "schema"):
        return ""
    if parts[1] not in _TABLES or (parts[0] == GLOBAL) != (parts[1] == NAMESPACES.kind):
        return "there is no such bucket"
    table, id = _TABLES[parts[1]]
    try:
        record = table.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        return f"it does not decode: {exc}"
    if len(key) < buckets.MAX_KEY and buckets.key(parts[0], parts[1], *id(record, parts)) != key:
        return f"its record is that of {'/'.join(id(record, parts))}"
    if parts[1] == LEASED.kind and view.get(buckets.key(parts[0], LEASES.kind, parts[2])) is None:
        return f"there is no lease {parts[2]}"
    return ""
