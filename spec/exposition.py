"""Prometheus's text format, version 0.0.4: families of samples as text. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Family(NamedTuple):
    """All samples of one name. `kind` is counter, gauge or histogram. A sample is what follows the name (`_bucket` of a
    histogram, else nothing), its labels as `labels` makes them, and its value."""

    name: str
    kind: str
    help: str
    samples: Sequence[tuple[str, str, float]]


def labels(given: Mapping[str, str]) -> str:
    """`a="1",b="2"`."""
    return ",".join(f'{name}="{escaped(value)}"' for name, value in given.items())


def escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def head(name: str, kind: str, help: str) -> str:
    escaped_help = help.replace("\\", "\\\\").replace("\n", "\\n")
    return f"# HELP {name} {escaped_help}\n# TYPE {name} {kind}\n"


def text(families: Iterable[Family]) -> str:
    """Families without a sample are left out."""
    return "".join(_lines(families))


def _lines(families: Iterable[Family]) -> Iterator[str]:
    for name, kind, help, samples in families:
        if samples:
            yield head(name, kind, help)
        for suffix, labelled, value in samples:
            yield f"{name}{suffix}{{{labelled}}} {value}\n" if labelled else f"{name}{suffix} {value}\n"
