"""Figures of containers, read from the files of their cgroups. Knows no task: it is told where the cgroups are."""

import os
import resource
import threading
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from pyx.cgroup import Reader
from spec import errors, metrics, series
from spec.base import Record
from spec.metrics import Figures
from spec.series import Form, Series

UNIFIED = "unified"
FIRST = {file.partition("/")[0] for row in series.V1 for file in row.files} - {UNIFIED}  # controllers of version 1
Directories = Mapping[str, str]


class Cgroups:
    """Readers of many cgroups, kept open; each is some forty descriptors of version 1, twenty of version 2.

    From any thread. What is no longer measured is to be told by `keep`. No more than `room` descriptors are kept (half
    of what the process may have, unless it is given): beyond it, files are opened for each reading.
    """

    def __init__(self, room: int | None = None) -> None:
        self._meters: dict[Hashable, Meter] = {}
        self._lock = threading.Lock()
        self._room = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2 if room is None else room

    def figures(self, key: Hashable, directories: Callable[[], Directories]) -> Figures:
        """Of the container `key`. `directories` gives its cgroups by controller, version 2's as "unified"; it is asked
        when they are not open. NotFound when there is none of its own."""
        plan, values = self.values(key, directories)
        return plan.made(values)

    def values(self, key: Hashable, directories: Callable[[], Directories]) -> "tuple[Plan, tuple[Any, ...]]":
        """As `figures`, but what was read, and the plan that says what it is."""
        with self._lock:
            meter = self._meters.get(key)
        if meter is not None:
            try:
                return meter.plan, meter.values()
            except OSError:  # another has taken its place, perhaps
                self._drop([key])
        found = directories()
        if not found:
            raise errors.NotFound(f"measure {key}: it has no cgroup of its own")
        meter, kept = self._opened(key, found)
        try:
            return meter.plan, meter.values()
        finally:
            if not kept:
                meter.close()

    def _opened(self, key: Hashable, directories: Directories) -> "tuple[Meter, bool]":
        """And whether it is kept."""
        meter = Meter(directories)
        with self._lock:
            if self._room < meter.size and key not in self._meters:
                return meter, False
            other = self._meters.setdefault(key, meter)
            if other is meter:
                self._room -= meter.size
        if other is not meter:
            meter.close()
        return other, True

    def keep(self, keys: Iterable[Hashable]) -> None:
        """Close what is open of all others."""
        with self._lock:
            others = self._meters.keys() - set(keys)
        self._drop(others)

    def _drop(self, keys: Iterable[Hashable]) -> None:
        with self._lock:
            dropped = [meter for key in keys if (meter := self._meters.pop(key, None)) is not None]
            self._room += sum(meter.size for meter in dropped)
        for meter in dropped:
            meter.close()

    def close(self) -> None:
        self.keep(())


class Meter:
    """All files of one container's cgroups, open; `size` is how many descriptors they may be."""

    def __init__(self, directories: Directories) -> None:
        self.plan = plan(directories)
        sources = self.plan.sources
        self.size = len(sources)
        self._reader = Reader([source.opened(directories) for source in sources], self.plan.values)

    def read(self) -> Figures:
        return self.plan.made(self.values())

    def values(self) -> tuple[Any, ...]:
        """OSError (ENODEV) when the cgroups are gone."""
        return self._reader.read()

    def close(self) -> None:
        self._reader.close()


class Source(NamedTuple):
    """One file of a plan, as the reader wants it but for where its controllers are."""

    files: tuple[str, ...]
    form: Form
    keys: list[tuple[str, int]]
    scale: int

    def opened(self, directories: Directories) -> tuple[list[str], int, list[tuple[str, int]], int]:
        splits = (file.split("/", 1) for file in self.files)
        paths = [f"{directories[controller]}/{name}" for controller, name in splits if controller in directories]
        return paths, self.form, self.keys, self.scale


class Leaf(NamedTuple):
    """A field: which of the values that were read, and what makes the field's of it."""

    value: int
    convert: Callable[[Any], Any] | None


class Node:
    """A Struct to be made of fields and Structs; absent when all of them are."""

    def __init__(self, struct: type[Record], **given: str) -> None:
        self.struct = struct
        self.given = given
        self.parts: dict[str, Leaf | Node | list[Node]] = {}

    def made(self, values: Sequence[Any]) -> Any:
        fields: dict[str, Any] = {}
        for name, part in self.parts.items():
            if isinstance(part, Leaf):
                value = values[part.value]
                if value is not None and part.convert is not None:
                    value = part.convert(value)
            elif isinstance(part, Node):
                value = part.made(values)
            else:
                value = [row for node in part if (row := node.made(values)) is not None] or None
            if value is not None:
                fields[name] = value
        return self.struct(**self.given, **fields) if fields else None

    def add(self, path: Sequence[str], leaf: Leaf) -> None:
        if len(path) == 1:
            self.parts[path[0]] = leaf
            return
        node = self.parts.get(path[0])
        if node is None:
            node = self.parts[path[0]] = Node(_struct_of(self.struct, path[0]))
        assert isinstance(node, Node)
        node.add(path[1:], leaf)


class Plan:
    """What to read, and the Struct to be made of it. Knows the sizes of huge pages, and no directory. `columns` are the
    figures: the entry, which of the values it is, and the size of the pages that it is of (else empty)."""

    def __init__(self, struct: type[metrics.V1] | type[metrics.V2], pages: Sequence[str]) -> None:
        first = struct is metrics.V1
        self._root = Node(struct)
        self._empty = struct()
        self._sources: dict[tuple[tuple[str, ...], int], Source] = {}
        self.columns: list[tuple[Series, int, str]] = []
        for entry in series.V1 if first else series.V2:
            self._root.add(entry.path.split("."), self._leaf(entry, entry.files, ""))
        nodes = []
        for page in pages:
            node = Node(metrics.Hugetlb1 if first else metrics.Hugetlb2, page=page)
            for entry in series.HUGETLB_1 if first else series.HUGETLB_2:
                files = tuple(file.format(page=page) for file in entry.files)
                node.add([entry.path], self._leaf(entry, files, page))
            nodes.append(node)
        self._root.parts["hugetlb"] = nodes

    @property
    def sources(self) -> list[Source]:
        return list(self._sources.values())

    @property
    def values(self) -> int:
        """How many values there are."""
        return len(self.columns)

    def _leaf(self, entry: Series, files: tuple[str, ...], page: str) -> Leaf:
        """A value of its own, and the file that it is from, which others may be from too."""
        at = self.values
        self.columns.append((entry, at, page))
        source = self._sources.setdefault((files, entry.scale), Source(files, entry.form, [], entry.scale))
        source.keys.extend((key, at) for key in entry.keys)
        convert = _of_hundredths if entry.hundredths else ROWS.get(entry.path.split(".")[0])
        return Leaf(at, convert if entry.hundredths or entry.form is Form.ROWS else None)

    def made(self, values: Sequence[Any]) -> Figures:
        return self._root.made(values) or self._empty


_plans: dict[tuple[bool, tuple[str, ...]], Plan] = {}


def plan(directories: Directories) -> Plan:
    """For the version that `directories` are of: a hybrid host's containers are version 1's."""
    is_first = not FIRST.isdisjoint(directories)
    key = (is_first, _pages(directories.get("hugetlb") or directories.get(UNIFIED)))
    if key not in _plans:
        _plans[key] = Plan(metrics.V1 if is_first else metrics.V2, key[1])
    return _plans[key]


def _pages(directory: str | None) -> tuple[str, ...]:
    """The sizes of huge pages that are counted: hugetlb.SIZE.name, and hugetlb.SIZE.rsvd.name, which is not."""
    if directory is None:
        return ()
    names = [name.split(".") for name in os.listdir(directory) if name.startswith("hugetlb.")]
    return tuple(sorted({name[1] for name in names}))


def _struct_of(struct: type[Record], name: str) -> type[Record]:
    """The Struct that the field may hold."""
    kinds: tuple[type, ...] = struct.__annotations__[name].__args__
    (found,) = (kind for kind in kinds if issubclass(kind, Record))
    return found


def _of_hundredths(value: int) -> float:
    return value / 100


def _of_blkio(rows: Sequence[tuple[str, str, int]]) -> list[metrics.BlkioEntry] | None:
    made = []
    for device, op, value in rows:
        major, _, minor = device.partition(":")
        made.append(metrics.BlkioEntry(major=int(major), minor=int(minor), op=op, value=value))
    return made or None


def _grouped(rows: Sequence[tuple[str, str, int]], names: Mapping[str, str]) -> dict[str, dict[str, int]]:
    """By label, the fields that `names` gives for keys."""
    grouped: dict[str, dict[str, int]] = {}
    for label, key, value in rows:
        if key in names:
            grouped.setdefault(label, {})[names[key]] = value
    return grouped


def _of_io(rows: Sequence[tuple[str, str, int]]) -> list[metrics.IoEntry] | None:
    names = {name: name for name in ("rbytes", "wbytes", "rios", "wios", "dbytes", "dios")}
    made = []
    for device, fields in _grouped(rows, names).items():
        major, _, minor = device.partition(":")
        made.append(metrics.IoEntry(major=int(major), minor=int(minor), **fields))
    return made or None


def _of_rdma(rows: Sequence[tuple[str, str, int]]) -> list[metrics.RdmaEntry] | None:
    names = {"hca_handle": "hca_handles", "hca_object": "hca_objects"}
    return [metrics.RdmaEntry(device=device, **fields) for device, fields in _grouped(rows, names).items()] or None


ROWS: Mapping[str, Callable[[Any], Any]] = {"blkio": _of_blkio, "io": _of_io, "rdma": _of_rdma}
