"""Field masks: which fields of a record an update touches.

A path is a field (`labels`, `target`), a field inside one (`target.annotations`) or one entry of a map (`labels.KEY`,
where KEY is all that follows and may have dots). An empty value removes an entry. No path at all replaces every field
that may change.
"""

from collections.abc import Sequence
from typing import Any, TypeVar, cast

import msgspec
from msgspec.structs import replace

from spec import errors

S = TypeVar("S", bound=msgspec.Struct)


def merge(current: S, given: S, fields: Sequence[str], allowed: Sequence[str]) -> S:
    """`current` with what `fields` names taken from `given`.

    `allowed` are the paths that may change, maps by their name. InvalidArgument for any other path.
    """
    for field in fields or [path for path in allowed if not any(path.startswith(f"{other}.") for other in allowed)]:
        current = _take(current, given, field, allowed)
    return current


def _take(current: S, given: S, field: str, allowed: Sequence[str]) -> S:
    if field in allowed:
        value = _get(given, field.split("."))
        if isinstance(value, dict):
            value = {key: entry for key, entry in value.items() if entry}
        return cast(S, _set(current, field.split("."), value))
    for path in allowed:
        if not field.startswith(f"{path}.") or field == f"{path}.":
            continue
        entries = _get(current, path.split("."))
        if isinstance(entries, dict):
            key = field[len(path) + 1 :]
            value = _get(given, path.split(".")).get(key)
            changed = {name: entry for name, entry in entries.items() if name != key}
            if value:
                changed[key] = value
            return cast(S, _set(current, path.split("."), changed))
    raise errors.InvalidArgument(f"field {field!r} cannot be updated; what can is {', '.join(allowed)}")


def _get(record: Any, path: Sequence[str]) -> Any:
    for name in path:
        record = getattr(record, name)
    return record


def _set(record: Any, path: Sequence[str], value: Any) -> Any:
    head, *rest = path
    return replace(record, **{head: _set(getattr(record, head), rest, value) if rest else value})
