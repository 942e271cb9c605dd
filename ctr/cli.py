"""ctr's front: global options, the table of nouns, and errors made into an exit code.

A noun's module is imported when it is asked for: every import is paid at every start.
"""

import argparse
import gc
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from ctr.output import Out
from daemon.client import connect
from spec import errors
from spec.version import VERSION

ADDRESS = "/run/holdd/holdd.sock"
GARBAGE = 100_000  # objects, where Python looks after 700: a command makes many, ends soon, and nearly all of them stay


class Noun(NamedTuple):
    name: str
    aliases: tuple[str, ...]
    help: str


NOUNS = (
    Noun("completion", (), "print what completes ctr's command lines in a shell"),
    Noun("containers", ("container", "c"), "manage containers"),
    Noun("content", (), "manage content"),
    Noun("deprecations", ("deprecation",), "show what is used here and should not be"),
    Noun("events", ("event",), "show what happens, as it happens"),
    Noun("images", ("image", "i"), "manage images"),
    Noun("info", (), "show who the daemon is, as JSON"),
    Noun("leases", ("lease",), "manage what keeps content, images and snapshots from collection"),
    Noun("namespaces", ("namespace", "ns"), "manage namespaces"),
    Noun("plugins", ("plugin",), "show the daemon's components"),
    Noun("run", (), "run a container"),
    Noun("snapshots", ("snapshot",), "manage snapshots"),
    Noun("tasks", ("task", "t"), "manage running containers"),
    Noun("version", (), "show the client's and the daemon's version"),
)


class Parser(argparse.ArgumentParser):
    """Takes no abbreviated flag, which a flag added later would make ambiguous. Its verbs' parsers are of its class."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)


def parser() -> argparse.ArgumentParser:
    """Global options and the noun; the rest is its module's to parse."""
    nouns = "\n".join(f"  {', '.join((noun.name, *noun.aliases)):32}{noun.help}" for noun in NOUNS)
    parser = Parser(
        prog="ctr",
        description="The bare command line of holdd, for development and debugging.",
        epilog=f"commands:\n{nouns}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    env = os.environ
    parser.add_argument(
        "--address", "-a", default=env.get("HOLDD_ADDRESS") or ADDRESS, metavar="SOCKET", help="the daemon's socket"
    )
    parser.add_argument(
        "--namespace", "-n", default=env.get("HOLDD_NAMESPACE") or "default", help="the namespace to work in"
    )
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="bound on each call")
    parser.add_argument("--debug", action="store_true", help="show where an error came from")
    parser.add_argument("--version", "-v", action="store_true", help="show the client's version")
    parser.add_argument("command", nargs="?", metavar="COMMAND")
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def command(noun: Noun) -> tuple[Any, Parser]:
    """Its module, and the parser of what follows it."""
    module = importlib.import_module(f"ctr.commands.{noun.name}")
    parser = Parser(prog=f"ctr {noun.name}", description=noun.help)
    module.register(parser)
    return module, parser


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: the container's where there is one, 1 for an error, 2 for a wrong usage."""
    gc.set_threshold(GARBAGE)
    front = parser()
    args = front.parse_args(argv)
    if args.version:
        print(f"ctr {VERSION}")
        return 0
    if args.command is None:
        front.print_help()
        return 2
    noun = next((noun for noun in NOUNS if args.command in (noun.name, *noun.aliases)), None)
    if noun is None:
        front.error(f"unknown command {args.command!r}")
    module, own = command(noun)
    given = own.parse_args(args.rest)
    try:
        trace = os.environ.get("TRACEPARENT", "")
        with connect(args.address, namespace=args.namespace, timeout_s=args.timeout, trace=trace) as client:
            code: int = module.run(given, client, Out(given)) or 0
            sys.stdout.flush()
            return code
    except errors.Error as exc:
        if args.debug:
            raise
        print(f"ctr: {exc.brief}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nobody reads: nor shall the interpreter's last flush complain
        return 1
    except OSError as exc:  # a file that was named on the command line
        if args.debug:
            raise
        print(f"ctr: {exc.filename or 'input or output'}: {(exc.strerror or str(exc)).lower()}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
