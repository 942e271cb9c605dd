"""Containers on a host with cgroup version 2 alone, by both runtimes: their lives, limits that bite, the freezer."""

import os
import signal
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from daemon.runtime import cgroups
from spec import errors
from spec.api import containers, events, tasks
from spec.events import TaskOOM
from spec.oci import build, runtime
from spec.records import Container, RuntimeRef, Status
from spec.types import Stdio
from tests.cgroups import MOUNTED, is_v2

pytestmark = pytest.mark.root

MIB = 1 << 20
SPIN = "while :; do :; done"


@pytest.fixture(params=["runc", "crun"])
def name(request):
    return request.param


@pytest.fixture
def begin(client, rootfs, name):
    """`with begin("sh", "-c", "...", change)`: a running container, whose spec `change` has made its own."""

    @contextmanager
    def begun(*args, change=lambda spec: spec, stdio=Stdio(), fds=()):
        spec = build.encode(change(build.with_args(build.default_spec("default", "c"), args)))
        record = Container(id="c", runtime=RuntimeRef(name=name), spec=spec)
        client.containers.create(containers.CreateRequest(container=record))
        try:
            client.tasks.create(tasks.CreateRequest(container_id="c", rootfs=(rootfs,), stdio=stdio), fds=fds)
            try:
                client.tasks.start(tasks.StartRequest(container_id="c"))
                yield
            finally:
                end(client)
        finally:
            client.containers.delete(containers.DeleteRequest(id="c"))

    return begun


def end(client):
    if client.tasks.get(tasks.GetRequest(container_id="c")).status is not Status.STOPPED:
        client.tasks.kill(tasks.KillRequest(container_id="c", signal=signal.SIGKILL, all=True))
        status(client)
    client.tasks.delete(tasks.DeleteRequest(container_id="c"))


def status(client, exec_id=""):
    return client.tasks.wait(tasks.WaitRequest(container_id="c", exec_id=exec_id)).exit_status


def run(client, *args):
    """Its exit status, in the container."""
    process = runtime.Process(args=args, cwd="/", env=("PATH=/bin",))
    client.tasks.exec(tasks.ExecRequest(container_id="c", exec_id="e", spec=msgspec.json.encode(process)))
    client.tasks.start(tasks.StartRequest(container_id="c", exec_id="e"))
    try:
        return status(client, "e")
    finally:
        client.tasks.delete_process(tasks.DeleteProcessRequest(container_id="c", exec_id="e"))


def value(file, cgroup="default/c"):
    return (MOUNTED / cgroup / file).read_text().strip()


def counts(file):
    return {key: int(number) for key, number in (line.split() for line in value(file).splitlines())}


def test_the_guest_is_what_it_is_for():
    assert is_v2()
    wanted = {"cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma"}
    assert wanted <= set((MOUNTED / "cgroup.subtree_control").read_text().split())


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 42", 42), ("sleep 1000", 137)])
def test_exit_codes(begin, client, script, code):
    with begin("/bin/sh", "-c", script):
        if code == 137:
            client.tasks.kill(tasks.KillRequest(container_id="c", signal=signal.SIGKILL))
        assert status(client) == code


def test_a_plain_cgroup_path(begin, client):
    with begin("/bin/sleep", "1000", change=lambda spec: build.with_cgroup(spec, "/default/of/its/own")):
        pid = client.tasks.get(tasks.GetRequest(container_id="c")).pid
        assert cgroups.directory(pid, "") == str(MOUNTED / "default/of/its/own")
        assert str(pid) in value("cgroup.procs", "default/of/its/own").split()
        listed = client.tasks.list_pids(tasks.ListPidsRequest(container_id="c")).processes
        assert [process.pid for process in listed] == [pid]
    assert not (MOUNTED / "default/of/its/own").exists()
    for left in ("default/of/its", "default/of"):
        (MOUNTED / left).rmdir()


def test_memory_that_is_too_much(begin, client, daemon):
    """The limit bites, and everybody learns of it before the exit."""
    with daemon.client() as listener:
        told = listener.events.subscribe(events.SubscribeRequest(filters=["topic~=/tasks/"]))
        with begin("/bin/sh", "-c", "tail /dev/zero", change=lambda spec: build.with_memory_limit(spec, 16 * MIB)):
            assert status(client) == 137
        topics = []
        for envelope in told:
            topics.append(envelope.topic)
            if envelope.topic == "/tasks/oom":
                assert msgspec.msgpack.decode(envelope.event, type=TaskOOM).container_id == "c"
            if envelope.topic == "/tasks/delete":
                break
    assert topics == ["/tasks/create", "/tasks/start", "/tasks/oom", "/tasks/exit", "/tasks/delete"]


def test_memory_that_is_enough(begin, client):
    with begin("/bin/sleep", "1000", change=lambda spec: build.with_memory_limit(spec, 64 * MIB)):
        assert value("memory.max") == str(64 * MIB)
        assert run(client, "/bin/sh", "-c", "dd if=/dev/zero of=/dev/null bs=8M count=1") == 0
        assert counts("memory.events")["oom_kill"] == 0
        assert run(client, "/bin/sh", "-c", "tail /dev/zero") == 137  # the greedy one, and nobody else
        assert counts("memory.events")["oom_kill"] == 1
        assert client.tasks.get(tasks.GetRequest(container_id="c")).status is Status.RUNNING


def test_memory_that_is_too_much_above(begin, client):
    """The verdict tells whose limit it was."""
    above = MOUNTED / "default/above"
    try:
        with begin("/bin/sleep", "1000", change=lambda spec: build.with_cgroup(spec, "/default/above/c")):
            (above / "memory.max").write_text(str(32 * MIB))
            assert run(client, "/bin/sh", "-c", "tail /dev/zero") == 137
            client.tasks.kill(tasks.KillRequest(container_id="c", signal=signal.SIGKILL))
            exit = client.tasks.wait(tasks.WaitRequest(container_id="c"))
            assert (exit.oom_killed, exit.oom_kills, exit.oom_ancestor) == (True, 1, True)
    finally:
        above.rmdir()


def test_a_limit_of_processes(begin, client):
    script = "for n in $(seq 40); do sleep 1000 & done; exit 0"
    with begin("/bin/sleep", "1000", change=lambda spec: build.with_pids_limit(spec, 30)):  # runc's exec has 10 threads
        assert value("pids.max") == "30"
        assert run(client, "/bin/sh", "-c", script) != 0
        assert counts("pids.events")["max"] > 0


def test_a_limit_of_processor_time(begin, client):
    with begin("/bin/sh", "-c", SPIN, change=lambda spec: build.with_cpus(spec, 0.2)):
        assert value("cpu.max") == "20000 100000"
        while counts("cpu.stat")["nr_periods"] < 10:
            assert run(client, "/bin/true") == 0
        assert counts("cpu.stat")["nr_throttled"] > 0


def test_the_freezer(begin, client):
    with begin("/bin/sh", "-c", SPIN):
        client.tasks.pause(tasks.PauseRequest(container_id="c"))
        assert client.tasks.get(tasks.GetRequest(container_id="c")).status is Status.PAUSED
        assert counts("cgroup.events")["frozen"] == 1
        before = counts("cpu.stat")["usage_usec"]
        with pytest.raises(errors.FailedPrecondition):
            client.tasks.pause(tasks.PauseRequest(container_id="c"))
        assert counts("cpu.stat")["usage_usec"] == before
        client.tasks.resume(tasks.ResumeRequest(container_id="c"))
        assert counts("cgroup.events")["frozen"] == 0
        assert client.tasks.get(tasks.GetRequest(container_id="c")).status is Status.RUNNING
        client.tasks.pause(tasks.PauseRequest(container_id="c"))
        client.tasks.kill(tasks.KillRequest(container_id="c", signal=signal.SIGKILL))
        assert status(client) == 137  # frozen as it was


def test_signals_to_all(begin, client):
    with begin("/bin/sh", "-c", "sleep 1000 & sleep 1000 & wait"):
        processes = ()
        while len(processes) < 3:
            processes = client.tasks.list_pids(tasks.ListPidsRequest(container_id="c")).processes
        client.tasks.kill(tasks.KillRequest(container_id="c", signal=signal.SIGKILL, all=True))
        assert status(client) == 137
        assert not [process for process in processes if Path(f"/proc/{process.pid}").exists()]
        assert counts("cgroup.events")["populated"] == 0


def test_processes_of_an_exec_are_in_its_cgroup(begin, client):
    read, write = os.pipe()
    process = runtime.Process(args=("/bin/cat", "/proc/self/cgroup"), cwd="/", env=())
    with begin("/bin/sleep", "1000"), os.fdopen(read) as output:
        request = tasks.ExecRequest(
            container_id="c", exec_id="e", spec=msgspec.json.encode(process), stdio=Stdio(stdout="fd://0")
        )
        client.tasks.exec(request, fds=(write,))
        os.close(write)
        client.tasks.start(tasks.StartRequest(container_id="c", exec_id="e"))
        assert status(client, "e") == 0
        client.tasks.delete_process(tasks.DeleteProcessRequest(container_id="c", exec_id="e"))
        assert output.read() == "0::/default/c\n"


def test_a_path_for_systemd_is_refused_without_it(client, rootfs, name):
    spec = build.with_cgroup(build.with_args(build.default_spec("default", "c"), ("/bin/true",)), "slice:prefix:name")
    options = msgspec.Raw(msgspec.msgpack.encode({"systemd_cgroup": True}))
    record = Container(id="c", runtime=RuntimeRef(name=name, options=options), spec=build.encode(spec))
    client.containers.create(containers.CreateRequest(container=record))
    try:
        with pytest.raises(errors.Error, match=r"systemd|dbus|D-Bus|bus"):
            client.tasks.create(tasks.CreateRequest(container_id="c", rootfs=(rootfs,)))
        assert not client.tasks.list(tasks.ListRequest()).tasks
    finally:
        client.containers.delete(containers.DeleteRequest(id="c"))
