"""What tasks use, from one look at their figures to the next, as `tasks top` shows it."""

import json
import time
from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from ctr import output
from daemon.client.client import Client
from spec.api import tasks as api
from spec.base import Record
from spec.metrics import V1, V2, Cpu1, Cpu2, CpuUsage1, Figures, Io, Memory1, Memory2, MemoryEntry1, Pids, Pressure

HEADER = ("TASK", "CPU %", "MEMORY", "LIMIT", "PIDS", "LIMIT", "READ", "WRITTEN", "WAITING %")
NO_LIMIT = 1 << 62  # version 1 says a number near 2^63

Reading = tuple[int, int]  # when, and how much processor time by then; nanoseconds


class Used(Record, frozen=True):
    """Of one task. `cpu_percent` is of one processor, since the last look; `waiting_percent` the share of the last ten
    seconds in which processes waited for processors, for memory and for devices. None is what the kernel does not tell.
    """

    id: str
    cpu_percent: float | None = None
    memory_bytes: int | None = None
    memory_limit_bytes: int | None = None
    pids: int | None = None
    pids_limit: int | None = None
    read_bytes: int | None = None
    written_bytes: int | None = None
    waiting_percent: tuple[float | None, float | None, float | None] = (None, None, None)


def looks(client: Client, ids: Sequence[str], interval_s: float) -> Iterator[list[Used]]:
    """What tasks use, those that use most first, again each `interval_s`; all tasks without `ids`."""
    request = api.MetricsRequest(filters=[f"id=={json.dumps(id)}" for id in ids])
    before: dict[str, Reading] | None = None
    while True:
        metrics = client.tasks.metrics(request).metrics
        now = {metric.id: (metric.timestamp_ns, _cpu_ns(metric.data)) for metric in metrics}
        if before is not None:
            found = [used(metric.id, metric.data, before.get(metric.id), now[metric.id]) for metric in metrics]
            yield sorted(found, key=lambda one: (-(one.cpu_percent or 0), one.id))
        before = now
        time.sleep(interval_s)


def used(id: str, data: Figures, before: Reading | None, now: Reading) -> Used:
    """Without processor time where there is no look before, and where its task was another of that name."""
    made = _of_1(id, data) if isinstance(data, V1) else _of_2(id, data)
    if before is None or now[0] <= before[0] or now[1] < before[1]:
        return made
    return replace(made, cpu_percent=100 * (now[1] - before[1]) / (now[0] - before[0]))


def cells(one: Used) -> tuple[str, ...]:
    """A row below HEADER."""
    waiting = [_percent(share) for share in one.waiting_percent if share is not None]
    return (
        one.id,
        _percent(one.cpu_percent),
        _size(one.memory_bytes),
        _size(one.memory_limit_bytes),
        _count(one.pids),
        _count(one.pids_limit),
        _size(one.read_bytes),
        _size(one.written_bytes),
        " ".join(waiting) or "-",
    )


def _cpu_ns(data: Figures) -> int:
    if isinstance(data, V1):
        return ((data.cpu or Cpu1()).usage or CpuUsage1()).total or 0
    return 1000 * ((data.cpu or Cpu2()).usage_usec or 0)


def _of_1(id: str, data: V1) -> Used:
    pids, memory = data.pids or Pids(), (data.memory or Memory1()).usage or MemoryEntry1()
    rows = data.blkio.io_service_bytes_recursive if data.blkio else None
    return Used(
        id=id,
        memory_bytes=memory.usage,
        memory_limit_bytes=memory.limit,
        pids=pids.current,
        pids_limit=pids.limit,
        read_bytes=None if rows is None else sum(row.value for row in rows if row.op == "Read"),
        written_bytes=None if rows is None else sum(row.value for row in rows if row.op == "Write"),
    )


def _of_2(id: str, data: V2) -> Used:
    pids, memory, io, cpu = data.pids or Pids(), data.memory or Memory2(), data.io or Io(), data.cpu or Cpu2()
    return Used(
        id=id,
        memory_bytes=memory.usage,
        memory_limit_bytes=memory.usage_limit,
        pids=pids.current,
        pids_limit=pids.limit,
        read_bytes=None if io.usage is None else sum(row.rbytes for row in io.usage),
        written_bytes=None if io.usage is None else sum(row.wbytes for row in io.usage),
        waiting_percent=(_some(cpu.pressure), _some(memory.pressure), _some(io.pressure)),
    )


def _some(pressure: Pressure | None) -> float | None:
    return pressure.some.avg10 if pressure and pressure.some else None


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1f}"


def _size(count: int | None) -> str:
    if count is None:
        return "-"
    return "max" if count >= NO_LIMIT else output.size(count)


def _count(count: int | None) -> str:
    if count is None:
        return "-"
    return "max" if count >= NO_LIMIT else str(count)
