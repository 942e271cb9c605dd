"""Progress of a transfer: bars on a terminal, sparse plain lines elsewhere, or each event as a line of JSON."""

import argparse
import contextlib
import sys
from collections.abc import Iterable, Iterator
from typing import TextIO

from spec.api.transfer import HTTP
from spec.base import to_json
from spec.types import Progress

DONE = frozenset({"complete", "extracted", "already exists", "mounted", "converted"})
PLAIN_STEP = 4  # a plain line for every quarter of an object


def register(parser: argparse.ArgumentParser) -> None:
    """The flags of every command that shows progress."""
    parser.add_argument("--quiet", "-q", action="store_true", help="show no progress")
    parser.add_argument("--json", action="store_true", help="show progress as JSON, an event a line")


def show(events: Iterable[Progress], args: argparse.Namespace, where: TextIO | None = None) -> None:
    """Consume `events` to their end, and show them as the flags say: on standard output, or `where`."""
    where = where or sys.stdout
    if args.quiet:
        finish(events)
    elif args.json:
        for event in without_http(events):
            where.write(f"{to_json(event).decode()}\n")
            where.flush()
    else:
        draw(events, where)


def finish(events: Iterable[Progress]) -> None:
    """Consume `events` to their end."""
    for _ in without_http(events):
        pass


def without_http(events: Iterable[Progress]) -> Iterator[Progress]:
    """What goes over HTTP is for standard error, if it was asked for."""
    for event in events:
        if event.event == HTTP:
            sys.stderr.write(f"{event.name}\n")
            sys.stderr.flush()
        else:
            yield event


def draw(events: Iterable[Progress], where: TextIO) -> None:
    """For people."""
    shown = without_http(events)
    if where.isatty():
        _bars(shown, where)
    else:
        _lines(shown, where)


def _lines(events: Iterable[Progress], where: TextIO) -> None:
    """One line a phase of an object, and one for each quarter of a download."""
    told: dict[str, tuple[str, int]] = {}
    for event in events:
        quarter = event.progress * PLAIN_STEP // event.total if event.total else 0
        if told.get(event.name) == (event.event, quarter):
            continue
        told[event.name] = (event.event, quarter)
        amount = f" {event.progress}/{event.total}" if event.total else ""
        name = "" if event.name in event.event else f" {event.name}"
        where.write(f"{event.event}{name}{amount}\n")
        where.flush()


def _bars(events: Iterable[Progress], where: TextIO) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description:26}"), TextColumn("{task.fields[phase]:14}"), BarColumn())
    with contextlib.ExitStack() as stack:
        bars = stack.enter_context(Bars(*columns, DownloadColumn(), TransferSpeedColumn(), console=Console(file=where)))
        known = {}
        for event in events:
            if event.name not in known:
                known[event.name] = bars.add_task(_short(event.name), phase=event.event, total=event.total or None)
            total = event.total or None
            done = event.total if event.event in DONE else event.progress
            bars.update(known[event.name], phase=event.event, completed=done, total=total)


def _short(name: str) -> str:
    """As a line of 80 columns has room for: of a blob its kind and the beginning of its digest."""
    kind, algorithm, digest = name.rpartition("sha256:")
    return f"{kind.replace('-', ' ')}{digest[:12]}" if algorithm and "/" not in name else name[-26:]
