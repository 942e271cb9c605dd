"""What a command line may say, read off argparse's parsers: for completion and manual pages. Knows no command."""

import argparse
from collections.abc import Iterator
from typing import NamedTuple


class Flag(NamedTuple):
    """`value` names what it takes, and is empty for one that takes nothing."""

    names: tuple[str, ...]
    value: str
    help: str
    choices: tuple[str, ...]
    required: bool


class Argument(NamedTuple):
    """`arity` is as argparse's nargs: empty for exactly one, `?`, `*`, `+`, and `...` for all that follows."""

    name: str
    value: str
    help: str
    choices: tuple[str, ...]
    arity: str


class Command(NamedTuple):
    """`names` has aliases after the name. There are either `commands` or `arguments`."""

    names: tuple[str, ...]
    help: str
    flags: tuple[Flag, ...]
    arguments: tuple[Argument, ...]
    commands: tuple["Command", ...]


def command(parser: argparse.ArgumentParser, names: tuple[str, ...], help: str) -> Command:
    """All that `parser` takes. What has no help is hidden: a verb among verbs, a flag that suppresses it."""
    actions = [action for action in parser._actions if action.help != argparse.SUPPRESS]
    return Command(
        names,
        help,
        tuple(_flag(action) for action in actions if action.option_strings),
        tuple(_argument(action) for action in actions if not _is_flag(action) and not _is_verbs(action)),
        tuple(verb for action in actions if isinstance(action, argparse._SubParsersAction) for verb in _verbs(action)),
    )


def _flag(action: argparse.Action) -> Flag:
    value = "" if action.nargs == 0 else _value(action, action.dest.upper().replace("_", "-"))
    return Flag(tuple(action.option_strings), value, action.help or "", _choices(action), action.required)


def _argument(action: argparse.Action) -> Argument:
    arity = "" if action.nargs is None else str(action.nargs)
    return Argument(action.dest, _value(action, action.dest), action.help or "", _choices(action), arity)


def _verbs(action: "argparse._SubParsersAction[argparse.ArgumentParser]") -> Iterator[Command]:
    for told in action._choices_actions:
        parser = action.choices[told.dest]
        names = [name for name, other in action.choices.items() if other is parser]
        yield command(parser, tuple(names), told.help or "")


def _value(action: argparse.Action, default: str) -> str:
    if action.metavar is None and action.choices:
        return "|".join(_choices(action))
    return action.metavar if isinstance(action.metavar, str) else default


def _choices(action: argparse.Action) -> tuple[str, ...]:
    return tuple(map(str, action.choices or ()))


def _is_flag(action: argparse.Action) -> bool:
    return bool(action.option_strings)


def _is_verbs(action: argparse.Action) -> bool:
    return isinstance(action, argparse._SubParsersAction)
