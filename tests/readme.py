"""What README.md tells to type: its code blocks, in order, by what they are."""

import re
from pathlib import Path
from typing import NamedTuple

README = Path(__file__).parents[1] / "README.md"
PROGRAMS = ("make", "ctr", "holdd", "tar")  # which a block of commands begins with


class Block(NamedTuple):
    """`kind` is commands, toml, hosts or python; `section` the heading above it."""

    section: str
    kind: str
    text: str

    def commands(self):
        """Its lines, without comments and empty ones."""
        lines = (re.sub(r"(^|\s+)# .*", "", line).strip() for line in self.text.splitlines())
        return [line for line in lines if line]


def blocks():
    """Every one; ValueError for one that is of no kind we know."""
    section, found = "", []
    for heading, language, text in re.findall(r"^## ([^\n]*)$|^```(\w*)\n(.*?)^```$", README.read_text(), re.M | re.S):
        section = heading or section
        if not heading:
            found.append(Block(section, _kind(language, text), text))
    return found


def inline():
    """Commands within sentences."""
    prose = re.sub(r"^```.*?^```$", "", README.read_text(), flags=re.M | re.S)
    return re.findall(r"`((?:ctr|holdd) [^`]*)`", prose)


def _kind(language, text):
    first = text.split(maxsplit=1)[0]
    if language == "python":
        return "python"
    if text.startswith("# /etc/holdd/certs.d/"):
        return "hosts"
    if first in PROGRAMS:
        return "commands"
    if re.match(r"\[\w[\w.]*\]$|\w+ = ", text.splitlines()[0]):
        return "toml"
    raise ValueError(f"README.md has a block of a new kind: {text!r}")
