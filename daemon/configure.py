"""`holdd config`: what the configuration may say, what it says, and what is wrong with it."""

import argparse
import sys
import tomllib
from collections.abc import Callable
from typing import Any

from daemon import builtin, config, settings
from daemon.plugins import Plugins
from spec import errors


def register(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(metavar="VERB", dest="verb", required=True)
    verbs.add_parser("default", help="print the configuration as it is without any file")
    verbs.add_parser("dump", help="print it as the files and the command line make it")
    verbs.add_parser("check", help="find every mistake in the files")
    explain = verbs.add_parser("explain", help="print a key's value, where it was set, and what it means")
    explain.add_argument("key", metavar="KEY", help="such as gc.pause_threshold")


def run(args: argparse.Namespace, overrides: dict[str, str | None]) -> int:
    """The exit code; errors are the caller's to print."""
    verbs: dict[str, Callable[[], str]] = {
        "default": lambda: _text(config.Config()),
        "dump": lambda: _text(config.load(args.config, overrides)),
        "check": lambda: _check(args.config, overrides),
        "explain": lambda: _explain(args.config, overrides, args.key),
    }
    sys.stdout.write(f"{verbs[args.verb]()}\n")
    return 0


def _text(value: config.Config) -> str:
    return "\n".join(settings.dump(settings.plain(value)))


def _check(path: str, overrides: dict[str, str | None]) -> str:
    found, files = config.read(path, overrides)
    proxied = builtin.proxied({name: plugin.type for name, plugin in found.proxy_plugins.items()})
    Plugins((*builtin.ROWS, *proxied), found.disabled_plugins, found.required_plugins)
    return f"{', '.join(files.texts) or 'no file'}: fine"


def _explain(path: str, overrides: dict[str, str | None], key: str) -> str:
    """A table's keys one after the other."""
    found, files = config.read(path, overrides)
    at = _path(key)
    value: Any = settings.plain(found)
    for name in at:
        if not isinstance(value, dict) or name not in value:
            raise errors.NotFound(f"no key {key}{settings.suggestion(at, config.Config)}")
        value = value[name]
    return "\n\n".join(_told(at, value, files))


def _told(path: settings.Path, value: Any, files: settings.Files) -> list[str]:
    if isinstance(value, dict) and value:
        return [line for name, entry in value.items() for line in _told((*path, name), entry, files)]
    section = _section(path[:-1])
    default: Any = settings.plain(config.Config())
    for name in path:
        default = default.get(name) if isinstance(default, dict) else None
    lines = [
        "".join(settings.dump({path[-1]: value})) or f"{path[-1]} is empty",
        f"  key:      {settings.dotted(path)}",
        f"  set by:   {files.origin(path) or 'default'}",
        f"  default:  {'none' if default is None else ''.join(settings.dump({'': default}))[5:] or 'empty'}",
        f"  SIGHUP:   {'takes effect' if config.reloadable(path) else 'needs a restart'}",
    ]
    return ["\n".join(lines + [f"  {line.strip()}" for line in (section.__doc__ or "").strip().splitlines()])]


def _section(path: settings.Path) -> type[settings.Section]:
    """That of the table at `path`, which exists."""
    section: type[settings.Section] = config.Config
    kind: Any = section
    for name in path:
        inner = settings.section_of(kind)
        kind = settings.entries_of(kind) if inner is None else dict(settings.keys(inner))[(name,)]
        section = settings.section_of(kind) or section
    return section


def _path(key: str) -> settings.Path:
    """A dotted key, as TOML reads it."""
    try:
        table: Any = tomllib.loads(f"{key} = 0")
    except tomllib.TOMLDecodeError as exc:
        raise errors.InvalidArgument(f"{key!r} is not a key: {exc}") from exc
    path = []
    while isinstance(table, dict):
        name, table = next(iter(table.items()))
        path.append(name)
    return tuple(path)
