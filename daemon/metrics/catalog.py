"""What the metrics endpoint tells of containers, under containerd's names: `spec.series` as text. Knows no HTTP.

A family's samples stand together, so that the text goes through all containers once for each name.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from daemon.metrics.cgroups import Cgroups, Plan
from spec import errors, exposition
from spec.ports import Measured
from spec.series import Form, Series

GROUPS = ("pids", "cpu", "per_cpu", "memory", "io", "hugetlb", "pressure")
BREATH = 16  # families after which other threads get their turn

Values = Sequence[Any]
Render = Callable[[str, str, Any], str]


class Column(NamedTuple):
    """Where a family's samples are among a container's values; `extra` are labels of the column's own."""

    value: int
    extra: str
    render: Render


def group(path: str) -> str:
    """Which of GROUPS a figure at `path` of its Struct is in; empty for one that is in none."""
    if ".pressure." in path:
        return "pressure"
    if path == "cpu.usage.per_cpu":
        return "per_cpu"
    top = path.split(".")[0]
    return {"memory_oom_control": "memory", "memory_events": "memory", "blkio": "io"}.get(top, top)


class Layout:
    """The families of one plan, those of `groups`."""

    def __init__(self, plan: Plan, groups: frozenset[str]) -> None:
        self.columns: dict[str, list[Column]] = {}
        self.help: dict[str, str] = {}
        for entry, value, page in plan.columns:
            if entry.metric and ("hugetlb" if page else group(entry.path)) in groups:
                extra = f',page="{page}"' if page else ""
                for metric, render in _renders(entry):
                    self.columns.setdefault(metric, []).append(Column(value, extra, render))
                    self.help.setdefault(metric, _help(entry))


class Containers:
    """The figures of all containers that `tasks` gives, as text. One that is gone, or has no cgroup of its own, is left
    out. Blocking; from any thread."""

    def __init__(self, cgroups: Cgroups, tasks: Callable[[], Sequence[Measured]], groups: Iterable[str]) -> None:
        self._cgroups = cgroups
        self._tasks = tasks
        self._groups = frozenset(groups)
        self._layouts: dict[Plan, Layout] = {}

    def text(self) -> str:
        return "".join(self._families(self._rows()))

    def _rows(self) -> Mapping[Layout, Sequence[tuple[str, Values]]]:
        """By layout, each container's labels and values."""
        tasks = self._tasks()
        rows: dict[Layout, list[tuple[str, Values]]] = {}
        for task in tasks:
            try:
                plan, values = self._cgroups.values((task.namespace, task.id), task.cgroups)
            except (errors.Error, OSError):
                continue
            given = {"container_id": task.id, "namespace": task.namespace, "runtime": task.runtime}
            rows.setdefault(self._layout(plan), []).append((exposition.labels(given), values))
        self._cgroups.keep((task.namespace, task.id) for task in tasks)
        return rows

    def _layout(self, plan: Plan) -> Layout:
        layout = self._layouts.get(plan)
        if layout is None:
            layout = self._layouts[plan] = Layout(plan, self._groups)
        return layout

    def _families(self, rows: Mapping[Layout, Sequence[tuple[str, Values]]]) -> Iterator[str]:
        names = {name: layout.help[name] for layout in rows for name in layout.columns}
        for number, (name, help) in enumerate(names.items()):
            lines: list[str] = []
            for layout, of in rows.items():
                for column in layout.columns.get(name, ()):
                    _append(lines, name, column, of)
            if lines:
                yield exposition.head(name, "gauge", help)
                yield from lines
            if number % BREATH == 0:
                time.sleep(0)


def _append(lines: list[str], name: str, column: Column, rows: Sequence[tuple[str, Values]]) -> None:
    at, extra, render = column
    if render is _number:  # nearly all, and the loop that counts
        lines += [
            f"{name}{{{labels}{extra}}} {value}\n" for labels, values in rows if (value := values[at]) is not None
        ]
        return
    lines += [render(name, labels, value) for labels, values in rows if (value := values[at]) is not None]


def _number(name: str, labels: str, value: Any) -> str:
    return f"{name}{{{labels}}} {value}\n"


def _hundredths(name: str, labels: str, value: Any) -> str:
    return f"{name}{{{labels}}} {value / 100}\n"


def _per_cpu(name: str, labels: str, value: Any) -> str:
    return "".join(f'{name}{{{labels},cpu="{cpu}"}} {used}\n' for cpu, used in enumerate(value))


def _blkio(name: str, labels: str, value: Any) -> str:
    return "".join(_of_device(name, labels, device, f',op="{op}"', number) for device, op, number in value)


def _of_device(name: str, labels: str, device: str, op: str, number: int) -> str:
    major, _, minor = device.partition(":")
    return f'{name}{{{labels}{op},major="{major}",minor="{minor}"}} {number}\n'


class Io:
    """One of the figures that io.stat has of each device."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __call__(self, name: str, labels: str, value: Any) -> str:
        rows = (row for row in value if row[1] == self._key)
        return "".join(_of_device(name, labels, device, "", number) for device, _, number in rows)


def _renders(entry: Series) -> Iterator[tuple[str, Render]]:
    """The families of an entry: but for io.stat there is one."""
    if entry.path == "io.usage":
        for key, unit in (("rbytes", "bytes"), ("wbytes", "bytes"), ("rios", "total"), ("wios", "total")):
            yield f"{entry.metric}_{key}_{unit}", Io(key)
    elif entry.form is Form.ROWS:
        yield entry.metric, _blkio
    elif entry.form is Form.NUMBERS:
        yield entry.metric, _per_cpu
    else:
        yield entry.metric, _hundredths if entry.hundredths else _number


def _help(entry: Series) -> str:
    """Where it is from: a file of the cgroup, and keys in it."""
    file = entry.files[-1].partition("/")[2].replace("{page}", "SIZE")
    keys = ", ".join(key for key in entry.keys if key)
    return f"{file}: {keys}" if keys else file
