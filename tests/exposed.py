"""A reader of Prometheus's text format that refuses what Prometheus would refuse, written after its description and not
after `spec.exposition`."""

import re
from typing import NamedTuple

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\\\|\\"|\\n)*)"'
SAMPLE = re.compile(rf"({NAME})(?:\{{({LABEL}(?:,{LABEL})*)\}})? (\S+)")
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count")}


class Family(NamedTuple):
    kind: str
    help: str
    samples: dict


def parse(text):
    """Families by name; a sample's key is its name and its labels, sorted."""
    families, current = {}, None
    assert text == "" or text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# HELP "):
            name, _, help = line[7:].partition(" ")
            assert name not in families, f"{name} stands in two places"
            families[name] = current = Family("", _plain(help), {})
        elif line.startswith("# TYPE "):
            name, kind = line[7:].split(" ")
            assert families[name] is current
            assert not current.samples
            assert kind in ("counter", "gauge", "histogram")
            families[name] = current = current._replace(kind=kind)
        else:
            _sample(line, current, name)
    return families


def _sample(line, family, family_name):
    found = SAMPLE.fullmatch(line)
    assert found, f"no sample: {line!r}"
    name = found[1]
    assert name in [family_name + suffix for suffix in SUFFIXES.get(family.kind, ("",))], line
    labels = tuple(sorted((label, _plain(value)) for label, value in re.findall(LABEL, found[2] or "")))
    assert len(dict(labels)) == len(labels), line
    assert (name, labels) not in family.samples, f"twice: {line}"
    family.samples[name, labels] = float(found[found.re.groups])


def _plain(text):
    return re.sub(r"\\(.)", lambda escape: "\n" if escape[1] == "n" else escape[1], text)


def value(text, name, **labels):
    """The one sample of that name which has these labels."""
    (found,) = values(text, name, **labels)
    return found


def values(text, name, **labels):
    wanted = labels.items()
    return [
        number
        for family in parse(text).values()
        for (sample, given), number in family.samples.items()
        if sample == name and wanted <= dict(given).items()
    ]
