"""Where each figure of `spec.metrics` is from, how the kernel writes it, and what Prometheus calls it.

The one table that the reader, the metrics endpoint and the documentation are made of. Names are containerd's.
"""

import enum
from collections.abc import Iterator
from typing import NamedTuple

from spec import metrics
from spec.base import Record


class Form(enum.IntEnum):
    """Of a file; the numbers are those of `pyx.cgroup`."""

    NUMBER = 0
    LINES = 1
    ROWS = 2
    NUMBERS = 3
    TEXT = 4


class Series(NamedTuple):
    """One figure.

    `path` is where it is in its Struct, with dots. `files` are controller/name, of which the first that is there
    counts; "unified" is version 2, and {page} each size of huge pages. `keys` are those of its lines, summed when there
    are several. What is read is multiplied by `scale`, and `hundredths` are divided. `metric` is empty for what has
    none.
    """

    path: str
    files: tuple[str, ...]
    keys: tuple[str, ...] = ("",)
    form: Form = Form.NUMBER
    scale: int = 1
    hundredths: bool = False
    metric: str = ""


TICK_NS = 10_000_000  # USER_HZ is 100 on every architecture of the API (time(7))

ENTRIES_1 = {"usage": "memory", "swap": "memory.memsw", "kernel": "memory.kmem", "kernel_tcp": "memory.kmem.tcp"}
ENTRY_FILES_1 = {
    "limit": ("limit_in_bytes", "bytes"),
    "usage": ("usage_in_bytes", "bytes"),
    "max": ("max_usage_in_bytes", "bytes"),
    "failcnt": ("failcnt", "total"),
}
SUMS_2 = {
    "workingset_refault": ("workingset_refault", "workingset_refault_anon", "workingset_refault_file"),
    "workingset_activate": ("workingset_activate", "workingset_activate_anon", "workingset_activate_file"),
}  # told apart since Linux 5.9
BLKIO = {
    "io_service_bytes_recursive": ("io_service_bytes", "bytes"),
    "io_serviced_recursive": ("io_serviced", "total"),
    "io_queued_recursive": ("io_queued", "total"),
    "io_service_time_recursive": ("io_service_time", "total"),
    "io_wait_time_recursive": ("io_wait_time", "total"),
    "io_merged_recursive": ("io_merged", "total"),
    "io_time_recursive": ("time", "total"),
    "sectors_recursive": ("sectors", "total"),
}


def _numbers(struct: type[Record]) -> list[str]:
    """Fields of one number each."""
    return [name for name, kind in struct.__annotations__.items() if kind == int | None]


def _pressure(path: str, file: str) -> Iterator[Series]:
    for which in ("some", "full"):
        for name in ("avg10", "avg60", "avg300", "total"):
            unit = "microseconds" if name == "total" else "percent"
            metric = f"container_{path.replace('.', '_')}_{which}_{name}_{unit}"
            keys = (f"{which} {name}",)
            yield Series(f"{path}.{which}.{name}", (file,), keys, Form.LINES, 1, name != "total", metric)


def _memory_1() -> Iterator[Series]:
    for name in _numbers(metrics.Memory1):
        yield Series(
            f"memory.{name}", ("memory/memory.stat",), (name,), Form.LINES, metric=f"container_memory_{name}_bytes"
        )
    for entry, prefix in ENTRIES_1.items():
        for name, (file, unit) in ENTRY_FILES_1.items():
            metric = f"container_memory_{entry.replace('_', '')}_{name}_{unit}"
            yield Series(f"memory.{entry}.{name}", (f"memory/{prefix}.{file}",), metric=metric)
    for name in _numbers(metrics.OomControl1):
        yield Series(
            f"memory_oom_control.{name}",
            ("memory/memory.oom_control",),
            (name,),
            Form.LINES,
            metric="container_memory_oom_total" if name == "oom_kill" else "",
        )


def _cpu_1() -> Iterator[Series]:
    usage = "container_cpu_{}_nanoseconds"
    yield Series("cpu.usage.total", ("cpuacct/cpuacct.usage",), metric=usage.format("total"))
    for name, key in (("user", "user"), ("kernel", "system")):
        path = f"cpu.usage.{name}"
        yield Series(path, ("cpuacct/cpuacct.stat",), (key,), Form.LINES, TICK_NS, metric=usage.format(name))
    per_cpu = ("cpuacct/cpuacct.usage_percpu",)
    yield Series("cpu.usage.per_cpu", per_cpu, form=Form.NUMBERS, metric="container_per_cpu_nanoseconds")
    for name, key, metric in (
        ("periods", "nr_periods", "container_cpu_throttle_periods_total"),
        ("throttled_periods", "nr_throttled", "container_cpu_throttled_periods_total"),
        ("throttled_time", "throttled_time", "container_cpu_throttled_time_nanoseconds"),
    ):
        yield Series(f"cpu.throttling.{name}", ("cpu/cpu.stat",), (key,), Form.LINES, metric=metric)


def _blkio() -> Iterator[Series]:
    for name, (file, unit) in BLKIO.items():
        files = [f"blkio/blkio.bfq.{file}_recursive", f"blkio/blkio.{file}_recursive"]
        if file in ("io_service_bytes", "io_serviced"):
            files.insert(0, f"blkio/blkio.throttle.{file}_recursive")  # counts whatever schedules
        yield Series(f"blkio.{name}", tuple(files), form=Form.ROWS, metric=f"container_blkio_{name}_{unit}")


def _common(pids: str, rdma: str, cpus: tuple[str, ...], mems: tuple[str, ...]) -> Iterator[Series]:
    yield Series("pids.current", (f"{pids}/pids.current",), metric="container_pids_current")
    yield Series("pids.limit", (f"{pids}/pids.max",), metric="container_pids_limit")
    yield Series("rdma.current", (f"{rdma}/rdma.current",), form=Form.ROWS)
    yield Series("rdma.limit", (f"{rdma}/rdma.max",), form=Form.ROWS)
    yield Series("cpuset.cpus", cpus, form=Form.TEXT)
    yield Series("cpuset.mems", mems, form=Form.TEXT)


def _memory_2() -> Iterator[Series]:
    counters = {
        "usage": "current", "usage_limit": "max", "max_usage": "peak", "swap_usage": "swap.current",
        "swap_limit": "swap.max",
    }  # fmt: skip
    for name in _numbers(metrics.Memory2):
        metric = f"container_memory_{name}_bytes"
        if name in counters:
            yield Series(f"memory.{name}", (f"unified/memory.{counters[name]}",), metric=metric)
        else:
            keys = SUMS_2.get(name, (name,))
            yield Series(f"memory.{name}", ("unified/memory.stat",), keys, Form.LINES, metric=metric)
    yield from _pressure("memory.pressure", "unified/memory.pressure")
    for path, file in (("memory_events", "memory.events"), ("memory_events_local", "memory.events.local")):
        for name in _numbers(metrics.MemoryEvents):
            metric = "container_memory_oom_total" if (path, name) == ("memory_events", "oom") else ""
            yield Series(f"{path}.{name}", (f"unified/{file}",), (name,), Form.LINES, metric=metric)


def _cpu_2() -> Iterator[Series]:
    for name in _numbers(metrics.Cpu2):
        unit = "microseconds" if name.endswith("_usec") else "total"
        metric = f"container_cpu_{name}_{unit}"
        yield Series(f"cpu.{name}", ("unified/cpu.stat",), (name,), Form.LINES, metric=metric)
    yield from _pressure("cpu.pressure", "unified/cpu.pressure")


V1 = (
    *_common("pids", "rdma", ("cpuset/cpuset.effective_cpus", "cpuset/cpuset.cpus"),
             ("cpuset/cpuset.effective_mems", "cpuset/cpuset.mems")),
    *_cpu_1(),
    *_memory_1(),
    *_blkio(),
)  # fmt: skip
HUGETLB_1 = (
    Series(
        "usage",
        ("hugetlb/hugetlb.{page}.usage_in_bytes", "unified/hugetlb.{page}.current"),
        metric="container_hugetlb_usage_bytes",
    ),
    Series("max", ("hugetlb/hugetlb.{page}.max_usage_in_bytes",), metric="container_hugetlb_max_bytes"),
    Series("failcnt", ("hugetlb/hugetlb.{page}.failcnt",), metric="container_hugetlb_failcnt_total"),
)
V2 = (
    *_common("unified", "unified", ("unified/cpuset.cpus.effective",), ("unified/cpuset.mems.effective",)),
    *_cpu_2(),
    *_memory_2(),
    Series("io.usage", ("unified/io.stat",), form=Form.ROWS, metric="container_io"),
    *_pressure("io.pressure", "unified/io.pressure"),
)
HUGETLB_2 = (
    Series("current", ("unified/hugetlb.{page}.current",), metric="container_hugetlb_usage_bytes"),
    Series("max", ("unified/hugetlb.{page}.max",), metric="container_hugetlb_limit_bytes"),
    Series(
        "events",
        ("unified/hugetlb.{page}.events",),
        ("max",),
        Form.LINES,
        metric="container_hugetlb_failcnt_total",
    ),
)


def page() -> str:
    """spec/METRICS.md."""
    lines = [
        "# Figures of containers",
        "",
        "Made of the table in `spec/series.py`; `make protocol` writes it anew. A figure whose file or key the kernel",
        "does not have is left out. Files are controller/name, `unified` is cgroup version 2, and the first that is",
        "there is read; {page} is each size of huge pages.",
    ]
    for title, rows, pages in (("Version 1", V1, HUGETLB_1), ("Version 2", V2, HUGETLB_2)):
        lines += ["", f"## {title}", "", "| figure | file | key | metric |", "|---|---|---|---|"]
        lines += [_line(row) for row in rows]
        lines += [_line(row._replace(path=f"hugetlb.{row.path}")) for row in pages]
    return "\n".join(lines) + "\n"


def _line(row: Series) -> str:
    cells = (row.path, ", ".join(row.files), " + ".join(row.keys), row.metric)
    return f"| {' | '.join(cells)} |"
