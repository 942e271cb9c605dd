"""The life of components: each row is loaded, made, remembered with its status, and closed in reverse order."""

import importlib
import inspect
import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from daemon.builtin import Row
from spec import errors
from spec.records import PluginInfo

_UNUSED = ("skip", "not configured", None)

log = logging.getLogger(__name__)


class Plugins:
    """`disabled` rows, by their `type.id`, are not made; `required` ones must all work."""

    def __init__(self, rows: Sequence[Row], disabled: Sequence[str] = (), required: Sequence[str] = ()) -> None:
        self._rows = rows
        self._disabled = frozenset(disabled)
        self._required = required
        self._notes: dict[str, tuple[str, str, object]] = {}  # by uri: status, error, component
        self._made: list[Any] = []
        twice = {row.uri for row in rows if sum(row.uri == other.uri for other in rows) > 1}
        if twice:
            raise errors.InvalidArgument(f"proxy_plugins: {', '.join(sorted(twice))} is there already")
        for key, uris in (("disabled_plugins", self._disabled), ("required_plugins", frozenset(required))):
            unknown = uris - {row.uri for row in rows}
            if unknown:
                raise errors.InvalidArgument(f"{key}: no plugin {', '.join(sorted(unknown))}")

    def one(self, type: str, id: str, make: Callable[[Any], Any]) -> Any:
        """Make the component that holdd cannot do without; what fails it ends the start."""
        return self._make(self._needed(type, id), make)

    def every(self, type: str, make: Callable[[Row, Any], Any]) -> dict[str, Any]:
        """Make all components of a type, by id. One that fails is left out, with its error on record."""
        made = {}
        for row in self._rows:
            if row.type != type:
                continue
            if row.uri in self._disabled:
                self._note(row, "skip", "disabled by configuration")
                continue
            try:
                made[row.id] = self._make(row, partial(make, row))
            except (errors.Error, OSError, ImportError, AttributeError) as exc:
                if isinstance(exc, errors.Unimplemented):
                    log.info("plugin %s is skipped: %s", row.uri, exc)
                    self._note(row, "skip", str(exc))
                else:
                    log.warning("plugin %s is off: %s", row.uri, exc)
                    self._note(row, "error", str(exc))
        return made

    def later(self, type: str, id: str) -> Callable[[], Any]:
        """The class of a component that is made for each use: imported when the first use comes."""
        row = self._needed(type, id)
        self._note(row, "ok", "")
        return partial(_load, row)

    def infos(self) -> list[PluginInfo]:
        """All rows, in their order, as they are now. One that the configuration makes no use of is skipped."""
        return [_info(row, *self._notes.get(row.uri, _UNUSED)) for row in self._rows]

    def check(self) -> None:
        """Once all are made: FailedPrecondition, with the reasons, when required ones do not work."""
        notes = [(uri, *self._notes.get(uri, _UNUSED)) for uri in self._required]
        failed = [f"{uri}: {error}" for uri, status, error, _ in notes if status != "ok"]
        if failed:
            raise errors.FailedPrecondition(f"required_plugins: {'; '.join(failed)}")

    def close(self) -> None:
        """Close what has a `close`, last made first, whatever another's raises. One that must be awaited is the
        lifecycle's to close."""
        with ExitStack() as stack:
            for component in self._made:
                close = getattr(component, "close", None)
                if close is not None and not inspect.iscoroutinefunction(close):
                    stack.callback(close)
            self._made.clear()

    def _needed(self, type: str, id: str) -> Row:
        row = next((row for row in self._rows if (row.type, row.id) == (type, id)), None)
        if row is None:
            raise errors.InvalidArgument(f"configuration: no plugin {type}.{id}")
        if row.uri in self._disabled:
            raise errors.InvalidArgument(f"disabled_plugins: holdd cannot do without {row.uri}")
        return row

    def _make(self, row: Row, make: Callable[[Any], Any]) -> Any:
        component = make(_load(row))
        self._made.append(component)
        self._note(row, "ok", "", component)
        return component

    def _note(self, row: Row, status: str, error: str, component: object = None) -> None:
        self._notes[row.uri] = (status, error, component)


def _info(row: Row, status: str, error: str, component: object = None) -> PluginInfo:
    """What a component says of itself, on this host, counts with its row; so does what made it `failed` since."""
    failed = getattr(component, "failed", "")
    if status == "ok" and failed:
        status, error = "error", failed
    return PluginInfo(
        type=row.type,
        id=row.id,
        requires=row.requires,
        platforms=tuple(getattr(component, "platforms", ())),
        capabilities=(*row.capabilities, *sorted(getattr(component, "capabilities", ()))),
        exports=dict(getattr(component, "exports", {})),
        status=status,
        init_error=error,
    )


def _load(row: Row) -> Any:
    module, _, name = row.target.partition(":")
    return getattr(importlib.import_module(module), name)
