"""Progress of a transfer: bars on a terminal, sparse plain lines elsewhere."""

import contextlib
import sys
from collections.abc import Iterable

from spec.types import Progress

PLAIN_STEP = 4  # a plain line for every quarter of an object


def show(events: Iterable[Progress], quiet: bool) -> None:
    """Consume `events` to their end, and show them unless quiet."""
    if quiet:
        for _ in events:
            pass
    elif sys.stdout.isatty():
        _bars(events)
    else:
        _lines(events)


def _lines(events: Iterable[Progress]) -> None:
    """One line a phase of an object, and one for each quarter of a download."""
    told: dict[str, tuple[str, int]] = {}
    for event in events:
        quarter = event.progress * PLAIN_STEP // event.total if event.total else 0
        if told.get(event.name) == (event.event, quarter):
            continue
        told[event.name] = (event.event, quarter)
        amount = f" {event.progress}/{event.total}" if event.total else ""
        name = "" if event.name in event.event else f" {event.name}"
        sys.stdout.write(f"{event.event}{name}{amount}\n")
        sys.stdout.flush()


def _bars(events: Iterable[Progress]) -> None:
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description:48}"), TextColumn("{task.fields[phase]:14}"), BarColumn())
    with contextlib.ExitStack() as stack:
        bars = stack.enter_context(Bars(*columns, DownloadColumn(), TransferSpeedColumn()))
        known = {}
        for event in events:
            if event.name not in known:
                known[event.name] = bars.add_task(event.name[-48:], phase=event.event, total=event.total or None)
            total = event.total or None
            done = event.total if event.event in ("complete", "extracted", "already exists") else event.progress
            bars.update(known[event.name], phase=event.event, completed=done, total=total)
