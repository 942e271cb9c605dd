"""What `tasks top` makes of figures, of either version, and of none."""

import pytest

from ctr import top
from spec import metrics

SECOND = 10**9
MIB = 1 << 20
V1 = metrics.V1(
    cpu=metrics.Cpu1(usage=metrics.CpuUsage1(total=3 * SECOND)),
    memory=metrics.Memory1(usage=metrics.MemoryEntry1(usage=3 * MIB, limit=9223372036854771712)),
    pids=metrics.Pids(current=4, limit=metrics.UNLIMITED),
    blkio=metrics.Blkio(
        io_service_bytes_recursive=[
            metrics.BlkioEntry(major=8, minor=minor, op=op, value=MIB)
            for minor in (0, 1)
            for op in ("Read", "Write", "Sync", "Total")
        ]
    ),
)
V2 = metrics.V2(
    cpu=metrics.Cpu2(
        usage_usec=3_000_000, pressure=metrics.Pressure(some=metrics.PressureData(avg10=1.25, total=1))
    ),
    memory=metrics.Memory2(usage=3 * MIB, usage_limit=4 * MIB),
    io=metrics.Io(usage=[metrics.IoEntry(major=8, minor=0, rbytes=1), metrics.IoEntry(major=8, minor=1, wbytes=2)]),
)
MAX = "max"


@pytest.mark.parametrize(
    ("data", "cells"),
    [
        (V1, ("3.0 MiB", MAX, "4", MAX, "2.0 MiB", "2.0 MiB", "-")),
        (V2, ("3.0 MiB", "4.0 MiB", "-", "-", "1 B", "2 B", "1.2")),
        (metrics.V1(), ("-",) * 7),
        (metrics.V2(), ("-",) * 7),
    ],
)
def test_cells(data, cells):
    assert top.cells(top.used("c", data, None, (0, 0))) == ("c", "-", *cells)


@pytest.mark.parametrize(
    ("before", "now", "shown"),
    [
        ((0, SECOND), (2 * SECOND, 3 * SECOND), "100.0"),
        ((0, 0), (SECOND, 4 * SECOND), "400.0"),
        ((0, SECOND), (SECOND, SECOND), "0.0"),
        (None, (SECOND, SECOND), "-"),
        ((0, SECOND), (SECOND, 0), "-"),  # another task of that name
        ((SECOND, 0), (SECOND, 0), "-"),
    ],
)
def test_processor_time(before, now, shown):
    assert top.cells(top.used("c", V1, before, now))[1] == shown


def test_rows_fit_the_header():
    assert len(top.cells(top.Used(id="c"))) == len(top.HEADER)
