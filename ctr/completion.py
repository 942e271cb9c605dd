"""What may follow on a ctr command line: verbs and flags by the parsers themselves, ids by asking the daemon."""

import contextlib
import io
from collections.abc import Sequence
from typing import NamedTuple

from ctr import cli, grammar

TIMEOUT_S = "2"
FILES, DIRECTORIES = ":files", ":directories"
_PLACES = {"FILE": FILES, "file": FILES, "PATH": FILES, "SOCKET": FILES, "DIR": DIRECTORIES, "target": DIRECTORIES}

# Which list has what an argument names: by noun, the list and the arguments.
_LISTS = {
    (noun, argument): list
    for noun, list, arguments in (
        ("containers", "containers", ("id", "ids")),
        ("containers", "images", ("source",)),
        ("content", "content", ("digest", "digests")),
        ("content", "images", ("ref",)),
        ("images", "images", ("ref", "name", "names", "source", "local")),
        ("leases", "leases", ("id", "ids")),
        ("namespaces", "namespaces", ("name", "names")),
        ("run", "images", ("source",)),
        ("snapshots", "snapshots", ("key", "keys", "name", "parent", "other")),
        ("tasks", "tasks", ("id", "ids")),
    )
    for argument in arguments
}
_NEW = ("create", "ingest")  # verbs whose argument is a name that nothing has yet


class Candidate(NamedTuple):
    """`text` replaces the word; FILES and DIRECTORIES stand for those that the shell finds."""

    text: str
    help: str = ""


class _Line:
    """The words before the one that is completed, as far as they say where that one stands."""

    def __init__(self, words: Sequence[str]) -> None:
        front = grammar.command(cli.parser(), ("ctr",), "")
        nouns = tuple(grammar.Command((noun.name, *noun.aliases), noun.help, (), (), ()) for noun in cli.NOUNS)
        self.level = front._replace(arguments=(), commands=nouns)
        self.path: list[str] = []
        self.values: dict[str, str] = {}
        self.waits: grammar.Flag | None = None
        self.free = False  # what follows is another program's, or unknown
        self._only_arguments = False
        self._count = 0
        for word in words:
            if not self.free:
                self._take(word)

    def _take(self, word: str) -> None:
        if self.waits is not None:
            self.values[self.waits.names[0]] = word
            self.waits = None
        elif word == "--":
            self._only_arguments = True
        elif self.is_flag(word):
            name, equals, value = word.partition("=")
            flag = next((flag for flag in self.level.flags if name in flag.names), None)
            if flag is not None and equals:
                self.values[flag.names[0]] = value
            elif flag is not None and flag.value:
                self.waits = flag
        elif self.level.commands:
            self._descend(word)
        else:
            self._count += 1
            self.free = self.argument() is None or self.argument().arity == "..."  # type: ignore[union-attr]

    def _descend(self, word: str) -> None:
        chosen = next((command for command in self.level.commands if word in command.names), None)
        if chosen is None:
            self.free = True
            return
        if not self.path:
            noun = next(noun for noun in cli.NOUNS if word in (noun.name, *noun.aliases))
            chosen = grammar.command(cli.command(noun)[1], chosen.names, chosen.help)
        self.path.append(chosen.names[0])
        self.level = chosen

    def is_flag(self, word: str) -> bool:
        return word.startswith("-") and not self._only_arguments and not self.free

    def argument(self) -> grammar.Argument | None:
        """The one that the word stands for."""
        for at, argument in enumerate(self.level.arguments):
            if at == self._count or argument.arity in ("*", "+", "..."):
                return argument
        return None


def candidates(words: Sequence[str]) -> list[Candidate]:
    """For the last of `words`, those after `ctr` as far as they are typed."""
    line, word = _Line(words[:-1]), words[-1] if words else ""
    name, equals, _ = word.partition("=")
    if line.free:
        return [Candidate(FILES)]
    if line.waits is not None:
        found = _values(line, line.waits)
    elif line.is_flag(word) and equals:
        found = [
            candidate if candidate.text in (FILES, DIRECTORIES) else Candidate(f"{name}={candidate.text}")
            for flag in line.level.flags
            if name in flag.names and flag.value
            for candidate in _values(line, flag)
        ]
    elif line.is_flag(word):
        found = [Candidate(name, flag.help) for flag in line.level.flags for name in flag.names]
    elif line.level.commands:
        found = [Candidate(command.names[0], command.help) for command in line.level.commands]
    else:
        argument = line.argument()
        found = _values(line, argument) if argument is not None else []
    return [each for each in found if each.text.startswith(word) or each.text in (FILES, DIRECTORIES)]


def _values(line: _Line, of: grammar.Flag | grammar.Argument) -> list[Candidate]:
    if of.choices:
        return [Candidate(choice) for choice in of.choices]
    if of.value in _PLACES:
        return [Candidate(_PLACES[of.value])]
    if isinstance(of, grammar.Flag):
        return _listed(line, "namespaces") if "--namespace" in of.names else []
    noun, new = line.path[0], line.path[-1] in _NEW
    kind = _LISTS.get((noun, of.name)) if not new or of.name == "source" else None
    return _listed(line, kind) if kind else []


def _listed(line: _Line, noun: str) -> list[Candidate]:
    """As `ctr NOUN ls --quiet` prints them; none when the daemon does not answer."""
    words = [part for name in ("--address", "--namespace") if name in line.values for part in (name, line.values[name])]
    words += ["--timeout", TIMEOUT_S, noun]
    if noun == "snapshots" and "--snapshotter" in line.values:
        words += ["--snapshotter", line.values["--snapshotter"]]
    printed, said = io.StringIO(), io.StringIO()
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(said):
        if cli.main([*words, "ls", "--quiet"]) == 0:
            return [Candidate(text) for text in printed.getvalue().splitlines()]
    return []
