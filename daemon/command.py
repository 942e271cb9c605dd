"""holdd's options, and the run that they describe."""

import argparse
import asyncio
import contextlib
import logging
import os
import resource
import sys
from collections.abc import Iterator, Sequence

from daemon import config, configure, lifecycle, preflight
from daemon.kit import log
from daemon.manager import Manager
from daemon.runtime.nursery import Nursery
from spec import errors
from spec.version import VERSION


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="holdd",
        description="The container daemon.",
        epilog="holdd fsck, holdd backup FILE and holdd restore FILE look after what is stored; each has --help.",
    )
    parser.add_argument("--config", "-c", default=config.DEFAULT_PATH, metavar="FILE", help="configuration (TOML)")
    parser.add_argument("--root", metavar="DIR", help="where images, snapshots and records are kept")
    parser.add_argument("--state", metavar="DIR", help="where what runs is kept; gone after a reboot")
    parser.add_argument("--address", "-a", metavar="SOCKET", help="unix socket to serve on")
    parser.add_argument("--log-level", "-l", choices=list(log.LEVELS), help="how much to log")
    parser.add_argument("--selftest", action="store_true", help="check what this program is made of, and end")
    commands = parser.add_subparsers(metavar="COMMAND", dest="command")
    configure.register(commands.add_parser("config", help="print, explain or check the configuration"))
    parser.add_argument("--version", "-v", action="version", version=f"holdd {VERSION}")
    return parser


DAMAGED = 65  # EX_DATAERR of sysexits.h: a start again will not help


def _raise_descriptors() -> None:
    """As many as we may have: each container that is measured takes some thirty. The nursery was forked before, so that
    containers get what we were given."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextlib.contextmanager
def _emptied(made: Sequence[str]) -> Iterator[None]:
    """When the block fails, what it made of these directories goes again, as far as nothing is in it."""
    try:
        yield
    except BaseException:
        for path in reversed(made):
            with contextlib.suppress(OSError):
                os.rmdir(path)
        raise


def run(argv: list[str], nursery: Nursery | None) -> int:
    """Serve as `argv` says; the exit code."""
    args = parser().parse_args(argv)
    overrides = {key: getattr(args, key) for key in ("root", "state", "address", "log_level")}
    assert nursery is not None
    try:
        if args.command == "config":
            return configure.run(args, overrides)
        settings = config.load(args.config, overrides)
        log.setup(settings.log_level, settings.log_format)
        manager = Manager.of(os.environ)
        preflight.check(settings, listens=not manager.sockets)
        _raise_descriptors()
        with _emptied(preflight.missing(settings)):
            asyncio.run(lifecycle.serve(settings, nursery, lambda: config.load(args.config, overrides), manager))
    except errors.Error as exc:
        print("\n".join(f"holdd: {line}" for line in exc.message.splitlines()), file=sys.stderr)
        return DAMAGED if isinstance(exc, errors.DataLoss) else 1
    except OSError as exc:
        logging.getLogger(__name__).error("holdd: %s", exc)
        return 1
    finally:
        nursery.close()
    return 0
