"""Configuration files: the main one and those it imports, laid over each other, with where each value came from.

Tables are merged key by key. A later file's scalar replaces an earlier one's; its list adds what is not in it yet.
Every mistake is found, and told with its file and line. Knows how to read any `Section`, and no key of ours but two:
`version` and `imports`.
"""

import glob
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, get_args, get_origin

import msgspec
from msgspec.structs import fields

from spec import errors
from spec.base import Record

Path = tuple[str, ...]
COMMAND_LINE = "command line"


class Section(Record, frozen=True, forbid_unknown_fields=True):
    """Base of every table of the file."""


class Mistake(NamedTuple):
    """`path` is where in the table; `what` is wrong with it."""

    path: Path
    what: str


class Files:
    """What the files say together: `table`, for `check` and `msgspec.convert`, and the `origin` of its values."""

    def __init__(self, version: int, imports: Sequence[str]) -> None:
        self.table: dict[str, Any] = {}
        self.texts: dict[str, str] = {}
        self._version = version
        self._imports = imports
        self._origins: dict[Path, str] = {}

    def read(self, path: str) -> None:
        """Read `path`, which may be absent, and all that it imports. InvalidArgument, or why it cannot be read."""
        path = os.path.abspath(path)
        table = self._load(path) if os.path.lexists(path) else {}
        self._lay(table, path)
        self._follow(table.get("imports", list(self._imports)), path)

    def override(self, given: Mapping[str, Any]) -> None:
        """What the command line says, above all files."""
        _merge(self.table, given, (), COMMAND_LINE, self._origins)

    def origin(self, path: Path) -> str:
        """`FILE, line N`, `command line` or, for what is in no file, an empty text."""
        file = self._origins.get(path, "")
        line = line_of(self.texts[file], path) if file in self.texts else 0
        return f"{file}, line {line}" if line else file

    def fail(self, mistakes: Sequence[Mistake]) -> None:
        """InvalidArgument with all of `mistakes`, a line each, if there are any."""
        if mistakes:
            raise errors.InvalidArgument("\n".join(self._told(mistake) for mistake in mistakes))

    def _told(self, mistake: Mistake) -> str:
        path = mistake.path
        while path and path not in self._origins:
            path = path[:-1]  # what is missing, is so from its table
        where = self.origin(path) or next(iter(self.texts), "")
        return f"configuration {where}: {mistake.what}"

    def _follow(self, imports: Any, path: str) -> None:
        if not isinstance(imports, list):
            return  # `check` will say so
        for pattern in imports:
            if not isinstance(pattern, str):
                continue
            where = os.path.join(os.path.dirname(path), pattern)
            for found in sorted(glob.glob(where)) if glob.has_magic(pattern) else [where]:
                found = os.path.abspath(found)
                if found not in self.texts:
                    table = self._load(found)
                    self._lay(table, found)
                    self._follow(table.get("imports", []), found)

    def _load(self, path: str) -> dict[str, Any]:
        try:
            with open(path, "rb") as file:
                self.texts[path] = file.read().decode()
            table = tomllib.loads(self.texts[path])
        except OSError as exc:
            raise errors.from_os(exc, f"reading configuration {path}") from exc
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise errors.InvalidArgument(f"configuration {path}: {exc}") from exc
        version = table.get("version", self._version)
        if version != self._version:
            line = line_of(self.texts[path], ("version",))
            raise errors.InvalidArgument(
                f"configuration {path}, line {line}: version {version!r}, this holdd knows {self._version}"
            )
        return table

    def _lay(self, table: Mapping[str, Any], path: str) -> None:
        _merge(self.table, table, (), path, self._origins)


def _merge(
    into: dict[str, Any], table: Mapping[str, Any], path: Path, file: str, origins: dict[Path, str]
) -> None:
    for key, value in table.items():
        at = (*path, key)
        there = into.get(key)
        if isinstance(value, dict):
            origins.setdefault(at, file)
            if not isinstance(there, dict):
                there = into[key] = {}
            _merge(there, value, at, file, origins)
            continue
        if isinstance(value, list) and isinstance(there, list):
            value = there + [entry for entry in value if entry not in there]
        into[key] = value
        origins[at] = file


def line_of(text: str, path: Path) -> int:
    """The line on which a TOML text first says something of `path`; 0 when it does not.

    Statement by statement: the shortest beginning of the text that can be parsed and has the path ends with it.
    """
    lines = text.splitlines(keepends=True)
    begin = 0
    for end in range(1, len(lines) + 1):
        try:
            table: Any = tomllib.loads("".join(lines[:end]))
        except tomllib.TOMLDecodeError:
            continue
        for name in path:
            table = table.get(name) if isinstance(table, dict) else None
        if table is not None:
            return begin + 1
        begin = end
    return 0


def check(table: Any, kind: Any, root: type[Section], path: Path = ()) -> Iterator[Mistake]:
    """All that keeps `table` from being a `kind`; `root` is the whole schema, where a misplaced key may belong."""
    section, entry = section_of(kind), entries_of(kind)
    if (section or entry) and not isinstance(table, dict):
        yield Mistake(path, f"{dotted(path)} is a table, not {_toml(table)}")
    elif section:
        known = {field.encode_name: field for field in fields(section)}
        for key, value in table.items():
            if key in known:
                yield from check(value, known[key].type, root, (*path, key))
            else:
                yield Mistake((*path, key), f"unknown key {dotted((*path, key))}{suggestion((*path, key), root)}")
        for name, field in known.items():
            if field.required and name not in table:
                yield Mistake(path, f"{dotted(path)} has no {name}")
    elif entry:
        for key, value in table.items():
            yield from check(value, entry, root, (*path, key))
    else:
        try:
            msgspec.convert(table, kind)
        except msgspec.ValidationError as exc:
            yield Mistake(path, f"{dotted(path)}: {str(exc)[:1].lower()}{str(exc)[1:]}")


def suggestion(path: Path, root: type[Section]) -> str:
    """Which key may have been meant, as the end of a sentence: one of a like name there, or of that name elsewhere."""
    import difflib  # when it is first used: a start does not pay for it

    every = dict(keys(root))
    there = [key[-1] for key in every if key[:-1] == path[:-1]]
    near = difflib.get_close_matches(path[-1], there, 1, 0.5)
    meant = [(*path[:-1], near[0])] if near else [key for key in every if key[-1] == path[-1]]
    return f"; did you mean {' or '.join(map(dotted, meant))}?" if meant else ""


def keys(section: type[Section], path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """All keys of a schema and their types, those of tables before what is in them."""
    for field in fields(section):
        at = (*path, field.encode_name)
        yield at, field.type
        inner = section_of(field.type)
        if inner:
            yield from keys(inner, at)


def section_of(kind: Any) -> type[Section] | None:
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def entries_of(kind: Any) -> type[Section] | None:
    """Of a table of tables, by names that are the user's: what each is."""
    return section_of(get_args(kind)[1]) if get_origin(kind) is dict else None


def plain(value: Any) -> Any:
    """A section as a table with every key, defaults too."""
    if isinstance(value, Section):
        return {field.encode_name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    return value


def dump(table: Mapping[str, Any], path: Path = ()) -> Iterator[str]:
    """Lines of TOML: keys first, then the tables, and nothing of what is empty."""
    for key, value in table.items():
        if not isinstance(value, dict):
            yield f"{_key(key)} = {_toml(value)}"
    for key, value in table.items():
        if isinstance(value, dict) and value:
            at = (*path, key)
            if any(not isinstance(entry, dict) for entry in value.values()):
                yield ""
                yield f"[{dotted(at)}]"
            yield from dump(value, at)


def dotted(path: Path) -> str:
    return ".".join(map(_key, path))


def _key(name: str) -> str:
    bare = name.replace("-", "").replace("_", "")
    return name if bare.isascii() and bare.isalnum() else _toml(name)


def _toml(value: Any) -> str:
    """A value as TOML writes it; texts and arrays as JSON does, which is TOML too but for one control character."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_key(key)} = {_toml(entry)}' for key, entry in value.items())}}}"
    if isinstance(value, (str, bool, int, float)):
        return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")
    return str(value)
