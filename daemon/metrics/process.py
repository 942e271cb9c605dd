"""Figures of the daemon's own process, under the names of Prometheus's clients (proc(5))."""

import os
from pathlib import Path

from spec.exposition import Family

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


def families() -> list[Family]:
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()  # from field 3 on
    user, system, threads, started, virtual, resident = (int(fields[at - 3]) for at in (14, 15, 20, 22, 23, 24))
    return [
        _one("process_cpu_seconds_total", "counter", "Processor time.", (user + system) / TICKS),
        _one("process_resident_memory_bytes", "gauge", "Resident memory.", resident * PAGE),
        _one("process_virtual_memory_bytes", "gauge", "Virtual memory.", virtual),
        _one("process_start_time_seconds", "gauge", "When it began, since the epoch.", _boot_s() + started / TICKS),
        _one("process_open_fds", "gauge", "Descriptors that are open.", _descriptors()),
        _one("process_threads", "gauge", "Threads.", threads),
    ]


def _one(name: str, kind: str, help: str, value: float) -> Family:
    return Family(name, kind, help, [("", "", value)])


def _descriptors() -> int:
    """The size of the directory is their number since Linux 6.2; before it was 0, and thousands had to be listed."""
    return os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd"))


def _boot_s() -> int:
    for line in Path("/proc/stat").read_text().splitlines():
        name, _, value = line.partition(" ")
        if name == "btime":
            return int(value)
    return 0
