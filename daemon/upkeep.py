"""holdd fsck, backup and restore: looking after what is stored, without a daemon or beside one."""

import argparse
import sys

from daemon import config, rebuild
from daemon.fsck import check
from spec import errors
from spec.base import to_json

NO_FAULT, FAULTS, FAILED = 0, 1, 2


def parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--config", "-c", default=config.DEFAULT_PATH, metavar="FILE", help="configuration (TOML)")
    common.add_argument("--root", metavar="DIR", help="where images, snapshots and records are kept")
    parser = argparse.ArgumentParser(prog="holdd")
    verbs = parser.add_subparsers(dest="verb", required=True)
    fsck = verbs.add_parser(
        "fsck",
        parents=[common],
        help="check what is stored",
        description="Check records, blobs and snapshots, also beside a running daemon. Exit status: 0 no fault, 1 "
        "faults, 2 it could not be done. What is harmless goes by itself, and is no fault.",
    )
    fsck.add_argument("--hash", action="store_true", help="read every blob and hash it")
    fsck.add_argument("--json", action="store_true", help="one JSON document a line")
    fsck.add_argument("--quiet", "-q", action="store_true", help="leave out what is harmless")
    fsck.add_argument("--rebuild", action="store_true", help="make the records anew of what is left; no daemon may run")
    fsck.add_argument("--namespace", default="default", help="for blobs that are adopted by a rebuild (default)")
    for verb, says in (
        ("backup", "copy all records to FILE, also beside a running daemon"),
        ("restore", "take FILE's records instead of those that are there; no daemon may run"),
    ):
        one = verbs.add_parser(verb, parents=[common], help=says, description=f"{says[0].upper()}{says[1:]}.")
        one.add_argument("file", metavar="FILE")
    return parser


def run(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    try:
        settings = config.load(args.config, {"root": args.root})
        if args.verb == "backup":
            rebuild.backup(settings, args.file)
        elif args.verb == "restore":
            _tell(rebuild.restore(settings, args.file))
        elif args.rebuild:
            _tell(rebuild.rebuild(settings, args.namespace))
        else:
            return _check(settings, args)
    except errors.Error as exc:
        print(f"holdd: {exc.message}", file=sys.stderr)
        return FAILED
    except OSError as exc:
        print(f"holdd: {exc}", file=sys.stderr)
        return FAILED
    return NO_FAULT


def _check(settings: config.Config, args: argparse.Namespace) -> int:
    faults = check(settings, args.hash)
    for fault in faults:
        if fault.harmless and args.quiet:
            continue
        if args.json:
            print(to_json(fault).decode())
        else:
            print(f"{fault.place}: {fault.subject}: {fault.what}{' (harmless)' if fault.harmless else ''}")
    return FAULTS if any(not fault.harmless for fault in faults) else NO_FAULT


def _tell(lines: list[str]) -> None:
    for line in lines:
        print(line)
