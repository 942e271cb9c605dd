"""Figures of containers under loads that are known, by the API and by ctr; on cgroups of either version."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from msgspec.structs import replace

from daemon.runtime import cgroups
from spec import errors
from spec.api import containers, tasks
from spec.metrics import UNLIMITED, V1
from spec.oci import build, runtime
from spec.records import Container, RuntimeRef
from tests.cgroups import is_v2
from tests.containers import busybox, ended
from tests.daemon import Daemon

MIB = 1 << 20
NAMESPACE = f"metrics-{os.getpid()}"
SECONDS = 60.0
CLOSE = 0.05


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    with Daemon(tmp_path_factory.mktemp("metrics")) as running:
        yield running


@pytest.fixture
def client(daemon):
    with daemon.client(NAMESPACE) as connected:
        yield connected


@pytest.fixture
def begin(client, disks):
    """Start a container that runs `script`, its root filesystem on a block device; its pid. It ends with the test."""
    begun = []
    rootfs = busybox(disks["ext4"])

    def start(script, id="c", change=lambda spec: spec):
        spec = build.with_args(build.default_spec(NAMESPACE, id), ("/bin/busybox", "sh", "-c", script))
        tmpfs = runtime.Mount(destination="/memory", type="tmpfs", source="tmpfs", options=("size=128m",))
        spec = build.encode(change(build.with_mounts(spec, [tmpfs])))
        record = Container(id=id, runtime=RuntimeRef(name="runc"), spec=spec)
        client.containers.create(containers.CreateRequest(container=record))
        pid = client.tasks.create(tasks.CreateRequest(container_id=id, rootfs=(rootfs,))).pid
        begun.append(id)
        client.tasks.start(tasks.StartRequest(container_id=id))
        # only then it is alone in its cgroup
        until(lambda: os.readlink(f"/proc/{pid}/exe"), lambda program: program.endswith("/busybox"))
        return pid

    def end(id):
        begun.remove(id)
        client.tasks.kill(tasks.KillRequest(container_id=id, signal=signal.SIGKILL, all=True))
        ended(client, id)

    start.end = end
    yield start
    for id in list(begun):
        end(id)


def figures(client, id="c"):
    (metric,) = client.tasks.metrics(tasks.MetricsRequest(filters=[f"id=={id}"])).metrics
    assert metric.id == id
    assert abs(metric.timestamp_ns - time.time_ns()) < SECONDS * 1e9
    assert isinstance(metric.data, V1) is not is_v2()
    return metric.data


def until(value, enough):
    """Ask until there is enough."""
    deadline = time.monotonic() + SECONDS
    while not enough(value()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return value()


def test_memory(client, begin):
    begin("busybox dd if=/dev/zero of=/memory/file bs=1M count=64; exec busybox sleep 1000",
          change=lambda spec: build.with_memory_limit(spec, 256 * MIB))  # fmt: skip

    def shared():
        memory = figures(client).memory
        return memory.total_cache if not is_v2() else memory.shmem

    assert until(shared, lambda got: got >= 64 * MIB) == pytest.approx(64 * MIB, rel=CLOSE)
    found = figures(client)
    used, limit = (
        (found.memory.usage, found.memory.usage_limit)
        if is_v2()
        else (found.memory.usage.usage, found.memory.usage.limit)
    )
    assert 64 * MIB <= used <= 70 * MIB
    assert limit == 256 * MIB


def spent_s(pid):
    """Processor time of one process (proc(5), stat: utime and stime)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def test_processor_time(client, begin):
    def used_s():
        cpu = figures(client).cpu
        return cpu.usage_usec / 1e6 if is_v2() else cpu.usage.total / 1e9

    def frozen():
        """What the cgroup says beside what its process says, neither of which changes in between."""
        client.tasks.pause(tasks.PauseRequest(container_id="c"))
        pair = used_s(), spent_s(pid)
        client.tasks.resume(tasks.ResumeRequest(container_id="c"))
        return pair

    pid = begin("while :; do :; done")
    used, spent = frozen()  # the runtime's own, as it made the container, is not the process's
    until(lambda: spent_s(pid), lambda now: now >= spent + 1)
    used_later, spent_later = frozen()
    assert used_later - used == pytest.approx(spent_later - spent, rel=CLOSE)


def with_throttling(spec, path):
    """A bound that nothing meets: version 1 counts what is throttled, since Linux 6.10."""
    device = os.stat(path).st_dev
    bound = runtime.ThrottleDevice(major=os.major(device), minor=os.minor(device), rate=1 << 40)
    resources = replace(spec.linux.resources, block_io=runtime.BlockIO(throttle_write_bps_device=(bound,)))
    return replace(spec, linux=replace(spec.linux, resources=resources))


def test_writes(client, begin, disks):
    begin("busybox dd if=/dev/zero of=/file bs=1M count=32 oflag=direct; exec busybox sleep 1000",
          change=lambda spec: with_throttling(spec, disks["ext4"]))  # fmt: skip

    device = disks["ext4"].stat().st_dev
    mine = (os.major(device), os.minor(device))  # what is written to a loop device is, once more, to the disk below it

    def written():
        found = figures(client)
        entries = (found.io and found.io.usage) if is_v2() else (found.blkio and found.blkio.io_service_bytes_recursive)
        entries = [entry for entry in entries or () if (entry.major, entry.minor) == mine]
        return sum(entry.wbytes if is_v2() else entry.value for entry in entries if is_v2() or entry.op == "Write")

    assert until(written, lambda got: got >= 32 * MIB) == pytest.approx(32 * MIB, rel=CLOSE)


def test_processes(client, begin):
    begin("sleep 1000 & sleep 1000 & wait", change=lambda spec: build.with_pids_limit(spec, 50))
    assert until(lambda: figures(client).pids.current, lambda got: got >= 3) == 3
    assert figures(client).pids.limit == 50


def test_equal_to_the_files(client, begin):
    pid = begin("exec busybox sleep 1000")
    until(lambda: Path(f"/proc/{pid}/cmdline").read_bytes(), lambda argv: argv.startswith(b"busybox\0sleep"))
    folder = Path(cgroups.directories(pid, f"/{NAMESPACE}/c")["unified" if is_v2() else "memory"])
    names = ("anon", "file", "slab", "pgfault") if is_v2() else ("rss", "total_rss", "cache", "pgfault")
    client.tasks.pause(tasks.PauseRequest(container_id="c"))

    def both():
        memory = figures(client).memory
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return [(getattr(memory, name), int(stat[name])) for name in names]

    until(both, lambda pairs: all(ours == theirs for ours, theirs in pairs))  # the kernel sums up at times of its own
    assert figures(client).pids.limit == UNLIMITED
    client.tasks.resume(tasks.ResumeRequest(container_id="c"))


def test_who_is_measured(client, daemon, begin):
    for id in ("a", "b"):
        begin("exec busybox sleep 1000", id)
    asked = {
        (): ["a", "b"],
        ("id==a",): ["a"],
        ("id==a", "id==b"): ["a", "b"],
        (f"id~=b,namespace=={NAMESPACE}",): ["b"],
        ("namespace==other",): [],
    }
    for filters, ids in asked.items():
        metrics = client.tasks.metrics(tasks.MetricsRequest(filters=filters)).metrics
        assert sorted(metric.id for metric in metrics) == ids, filters
    with daemon.client("other") as other:
        assert not other.tasks.metrics(tasks.MetricsRequest()).metrics
    with pytest.raises(errors.InvalidArgument):
        client.tasks.metrics(tasks.MetricsRequest(filters=["id=="]))


def open_files(daemon):
    """Files of cgroups that the daemon has open."""
    found = [os.readlink(path) for path in Path(f"/proc/{daemon.process.pid}/fd").iterdir()]
    return sorted(path for path in found if path.startswith("/sys/fs/cgroup"))


def test_files_are_open_as_long_as_the_task(client, daemon, begin):
    """And those of another task in its place are its own."""
    begin("exec busybox sleep 1000", "stays")
    assert figures(client, "stays").pids.current == 1
    kept = open_files(daemon)
    for _ in range(2):
        begin("exec busybox sleep 1000", "goes")
        assert figures(client, "goes").pids.current == 1
        assert any("/goes/" in path for path in open_files(daemon))
        begin.end("goes")
        assert open_files(daemon) == kept


def test_ctr(daemon, begin):
    begin("exec busybox sleep 1000", change=lambda spec: build.with_memory_limit(spec, 64 * MIB))
    lines = daemon.ctr("tasks", "metrics", "c", namespace=NAMESPACE).stdout.splitlines()
    assert lines[0].split() == ["METRIC", "VALUE"]
    shown = dict(line.split(maxsplit=1) for line in lines[1:])
    assert shown["memory.usage_limit" if is_v2() else "memory.limit_in_bytes"] == str(64 * MIB)
    assert shown["pids.current"] == "1"
    assert shown["pids.limit"] == "max"
    assert '"version": "v' in daemon.ctr("t", "metric", "c", "--format", "json", namespace=NAMESPACE).stdout
    refused = daemon.ctr("tasks", "metrics", "nobody", namespace=NAMESPACE, check=False)
    assert refused.returncode == 1
    assert refused.stderr == "ctr: measuring nobody: no task of that id has a cgroup of its own\n"


def test_top(daemon, begin):
    """One look, at all and at one; the one that works is the first."""
    begin("exec busybox sleep 1000", "idle")
    begin("while :; do :; done", "busy", change=lambda spec: build.with_memory_limit(spec, 64 * MIB))
    lines = daemon.ctr("tasks", "top", "--once", "--interval", "0.5", namespace=NAMESPACE).stdout.splitlines()
    assert lines[0].split()[0] == "TASK"
    assert [line.split()[0] for line in lines[1:]] == ["busy", "idle"]
    assert "64.0 MiB" in lines[1]
    shown = daemon.ctr("tasks", "top", "--once", "--interval", "0.5", "--json", "busy", namespace=NAMESPACE).stdout
    (used,) = json.loads(shown)
    assert used["id"] == "busy"
    assert used["cpu_percent"] > 0
    refused = daemon.ctr("tasks", "top", "--interval", "0", check=False)
    assert refused.returncode == 2
