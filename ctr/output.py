"""How ctr prints: tables, JSON, or names alone."""

import argparse
import re
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from spec import errors
from spec.base import to_json

if TYPE_CHECKING:
    from spec.records import Timing

GAP = 4
_SECONDS = {"s": 1, "m": 60, "h": 3600}
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def register_list(parser: argparse.ArgumentParser) -> None:
    """The flags of every command that prints a table."""
    parser.add_argument("--quiet", "-q", action="store_true", help="print names only")
    parser.add_argument("--json", action="store_true", help="print JSON")


def accept(parser: argparse._ActionsContainer, *flags: str) -> None:
    """Take flags of containerd's ctr that ask for what is so anyway."""
    for flag in flags:
        parser.add_argument(flag, action="store_true", help=argparse.SUPPRESS)


def duration(text: str) -> timedelta:
    """Of 90s, 1h30m or 0."""
    parts = re.findall(r"(\d+)([smh])", text)
    if text != "0" and "".join(count + unit for count, unit in parts) != text:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration such as 90s, 1h30m or 0")
    return timedelta(seconds=sum(int(count) * _SECONDS[unit] for count, unit in parts))


def after(time: timedelta) -> str:
    """The moment so long after now, as labels have it."""
    return (datetime.now(UTC) + time).isoformat(timespec="seconds")


class Out:
    """Standard output, in the form that the command's flags ask for."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._json = getattr(args, "json", False)
        self._quiet = getattr(args, "quiet", False)

    def table(
        self, header: Sequence[str], rows: Sequence[Sequence[str]], records: Sequence[object], names: Sequence[str]
    ) -> None:
        """One of: a table of `rows`, `records` as a JSON array, `names` one a line."""
        if self._json:
            self.json(list(records))
        elif self._quiet:
            for name in names:
                self.line(name)
        else:
            self.columns([header, *rows])

    def columns(self, rows: Sequence[Sequence[str]]) -> None:
        widths = [max(len(cell) for cell in column) + GAP for column in zip(*rows, strict=True)]
        for row in rows:
            self.line("".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

    def json(self, value: object) -> None:
        """Indented, as people read it."""
        self.line(msgspec.json.format(to_json(value), indent=4).decode())

    def line(self, text: str) -> None:
        sys.stdout.write(f"{text}\n")


def timing(phases: "Sequence[Timing]", out: Out) -> None:
    """In milliseconds, from when the first began. What runs beside another overlaps it."""
    first = min((phase.began_at_ns for phase in phases), default=0)
    rows = [
        (phase.name, f"{(phase.began_at_ns - first) / 1e6:.1f}", f"{phase.took_ns / 1e6:.1f}", phase.of)
        for phase in phases
    ]
    out.columns([("PHASE", "AT MS", "TOOK MS", "OF"), *rows])


def each(names: Sequence[str], work: Callable[[str], None]) -> int:
    """Do `work` to every one, whatever becomes of the others; 1 when any failed, and each failure is told."""
    code = 0
    for name in names:
        try:
            work(name)
        except errors.Error as exc:
            print(f"ctr: {exc.message}", file=sys.stderr)
            code = 1
    return code


def size(count: int) -> str:
    """`12.3 MiB`."""
    value = float(count)
    for unit in _UNITS:
        if value < 1024 or unit == _UNITS[-1]:
            return f"{value:.1f} {unit}" if unit != "B" else f"{count} B"
        value /= 1024
    raise AssertionError("unreachable")


def age(created_at_ns: int) -> str:
    """`3 minutes`."""
    seconds = max(0, time.time_ns() - created_at_ns) // 1_000_000_000
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} seconds"


def timestamp() -> str:
    """Now, as a label says it (RFC 3339)."""
    return moment(time.time_ns())


def moment(at_ns: int) -> str:
    """RFC 3339, to the second."""
    return datetime.fromtimestamp(at_ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def labels(given: dict[str, str]) -> str:
    """`a=1,b=2`, or `-`."""
    return ",".join(f"{key}={value}" for key, value in sorted(given.items())) or "-"


def parse_labels(given: Sequence[str]) -> dict[str, str]:
    """`k=v`; a bare `k` means `true`."""
    return {key: value if equals else "true" for key, equals, value in (text.partition("=") for text in given)}
