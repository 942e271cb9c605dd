"""Figures from files that look like a cgroup's: both versions, the hybrid, what is missing, and what is kept open."""

import os
from pathlib import Path

import pytest

from daemon.metrics.cgroups import Cgroups, Meter
from spec import errors, metrics

FILES = {
    "memory": {
        "memory.stat": "cache 4096\nrss 8192\ntotal_cache 12288\n",
        "memory.usage_in_bytes": "16384\n",
        "memory.limit_in_bytes": "9223372036854771712\n",
        "memory.oom_control": "oom_kill_disable 0\nunder_oom 1\noom_kill 2\n",
    },
    "cpuacct": {
        "cpuacct.usage": "3000000000\n",
        "cpuacct.usage_percpu": "1000000000 2000000000 \n",
        "cpuacct.stat": "user 250\nsystem 50\n",
    },
    "cpu": {"cpu.stat": "nr_periods 5\nnr_throttled 2\nthrottled_time 700\n"},
    "pids": {"pids.current": "3\n", "pids.max": "max\n"},
    "blkio": {
        "blkio.throttle.io_service_bytes_recursive": "8:0 Read 1\n8:0 Write 2\nTotal 3\n",
        "blkio.bfq.io_service_bytes_recursive": "8:0 Read 100\nTotal 100\n",
        "blkio.time_recursive": "8:0 77\n",
        "blkio.sectors_recursive": "",
    },
    "cpuset": {"cpuset.cpus": "0-3\n", "cpuset.effective_cpus": "0-1\n", "cpuset.mems": "0\n"},
    "rdma": {"rdma.current": "mlx4_0 hca_handle=2 hca_object=5\n"},
}
UNIFIED = {
    "memory.current": "16384\n",
    "memory.max": "max\n",
    "memory.stat": "anon 1\nfile 2\nworkingset_refault_anon 3\nworkingset_refault_file 4\nslab 5\n",
    "memory.events": "low 0\nhigh 1\nmax 2\noom 3\noom_kill 4\noom_group_kill 5\n",
    "memory.events.local": "oom 1\n",
    "memory.pressure": "some avg10=1.25 avg60=0.50 avg300=0.01 total=42\n"
    "full avg10=0.00 avg60=0.00 avg300=0.00 total=7\n",
    "cpu.stat": "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 1\nnr_bursts 2\nburst_usec 3\n",
    "io.stat": "253:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n8:0 rbytes=7\n",
    "pids.current": "3\n",
    "hugetlb.2MB.current": "2097152\n",
    "hugetlb.2MB.max": "max\n",
    "hugetlb.2MB.events": "max 9\n",
    "hugetlb.2MB.rsvd.current": "0\n",
    "hugetlb.1GB.current": "0\n",
}


def made(path, files):
    path.mkdir()
    for name, text in files.items():
        (path / name).write_text(text)
    return str(path)


@pytest.fixture
def first(tmp_path):
    return {name: made(tmp_path / name, files) for name, files in FILES.items()}


@pytest.fixture
def unified(tmp_path):
    return {"unified": made(tmp_path / "unified", UNIFIED)}


def read(directories):
    meter = Meter(directories)
    try:
        return meter.read()
    finally:
        meter.close()


def test_version_1(first):
    entry = metrics.BlkioEntry
    assert read(first) == metrics.V1(
        pids=metrics.Pids(current=3, limit=metrics.UNLIMITED),
        cpu=metrics.Cpu1(
            usage=metrics.CpuUsage1(
                total=3_000_000_000, user=2_500_000_000, kernel=500_000_000, per_cpu=(1_000_000_000, 2_000_000_000)
            ),
            throttling=metrics.Throttling1(periods=5, throttled_periods=2, throttled_time=700),
        ),
        memory=metrics.Memory1(
            cache=4096, rss=8192, total_cache=12288, usage=metrics.MemoryEntry1(usage=16384, limit=9223372036854771712)
        ),
        memory_oom_control=metrics.OomControl1(oom_kill_disable=0, under_oom=1, oom_kill=2),
        blkio=metrics.Blkio(
            io_service_bytes_recursive=[
                entry(major=8, minor=0, op="Read", value=1), entry(major=8, minor=0, op="Write", value=2)
            ],
            io_time_recursive=[entry(major=8, minor=0, value=77)],
        ),
        rdma=metrics.Rdma(current=[metrics.RdmaEntry(device="mlx4_0", hca_handles=2, hca_objects=5)]),
        cpuset=metrics.Cpuset(cpus="0-1", mems="0"),
    )  # fmt: skip


def test_version_2(unified):
    assert read(unified) == metrics.V2(
        pids=metrics.Pids(current=3),
        cpu=metrics.Cpu2(usage_usec=30, user_usec=20, system_usec=10, nr_periods=1, nr_bursts=2, burst_usec=3),
        memory=metrics.Memory2(
            usage=16384,
            usage_limit=metrics.UNLIMITED,
            anon=1,
            file=2,
            slab=5,
            workingset_refault=7,
            workingset_refault_anon=3,
            workingset_refault_file=4,
            pressure=metrics.Pressure(
                some=metrics.PressureData(avg10=1.25, avg60=0.5, avg300=0.01, total=42),
                full=metrics.PressureData(avg10=0.0, avg60=0.0, avg300=0.0, total=7),
            ),
        ),
        memory_events=metrics.MemoryEvents(low=0, high=1, max=2, oom=3, oom_kill=4, oom_group_kill=5),
        memory_events_local=metrics.MemoryEvents(oom=1),
        io=metrics.Io(
            usage=[
                metrics.IoEntry(major=253, minor=0, rbytes=1, wbytes=2, rios=3, wios=4, dbytes=5, dios=6),
                metrics.IoEntry(major=8, minor=0, rbytes=7),
            ]
        ),
        hugetlb=[
            metrics.Hugetlb2(page="1GB", current=0),
            metrics.Hugetlb2(page="2MB", current=2097152, max=metrics.UNLIMITED, events=9),
        ],
    )


def test_a_hybrid_host(first, unified):
    """Version 1's, with huge pages of version 2."""
    found = read(first | unified)
    assert isinstance(found, metrics.V1)
    assert found.hugetlb == [metrics.Hugetlb1(page="1GB", usage=0), metrics.Hugetlb1(page="2MB", usage=2097152)]
    assert found.memory.usage.usage == 16384


def test_controllers_that_are_missing(first):
    found = read({"pids": first["pids"]})
    assert found == metrics.V1(pids=metrics.Pids(current=3, limit=metrics.UNLIMITED))


def open_files(directory):
    found = (os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink())
    return [path for path in found if path.startswith(f"{directory}/")]


def test_what_is_kept_open(tmp_path, first, unified):
    meters, asked = Cgroups(), []

    def directories(of):
        return lambda: asked.append(of) or {"a": first, "b": unified, "none": {}}[of]

    for _ in range(3):
        assert isinstance(meters.figures("a", directories("a")), metrics.V1)
        assert isinstance(meters.figures("b", directories("b")), metrics.V2)
    assert asked == ["a", "b"]
    assert open_files(tmp_path / "memory")
    meters.keep(["b"])
    assert not open_files(tmp_path / "memory")
    assert open_files(tmp_path / "unified")
    with pytest.raises(errors.NotFound, match="no cgroup of its own"):
        meters.figures("none", directories("none"))
    (tmp_path / "unified/pids.current").write_text("4\n")
    assert meters.figures("b", directories("b")).pids.current == 4
    meters.close()
    assert not open_files(tmp_path)
