"""The restart monitor: containers run as their labels say, whatever ends them or the daemon."""

import contextlib
import os
import signal
import time
from pathlib import Path

import pytest

from spec import errors, names
from spec.api import containers, tasks
from spec.oci import build
from spec.records import Container, RuntimeRef, Status
from tests.containers import busybox
from tests.daemon import START_S, Daemon

FAST = "[restart]\ndelay_s = 0.01\nmax_delay_s = 0.05\ngrace_s = 0.05\n"
NEVER = "[restart]\ndelay_s = 1000\nmax_delay_s = 1000\ngrace_s = 1000\n"
ALWAYS = {names.RESTART_STATUS: "running", names.RESTART_POLICY: "always"}


@pytest.fixture
def daemon(tmp_path):
    with Daemon(tmp_path, FAST) as daemon:
        yield daemon
        stop_all(daemon)
        assert "following events" not in daemon.log.read_text()


def stop_all(daemon):
    """No container is to be started again."""
    if daemon.process.poll() is not None:
        daemon.start()
    for namespace in daemon.namespaces():
        with daemon.client(namespace) as client:
            for record in client.containers.list(containers.ListRequest()).containers:
                label(client, record.id, {names.RESTART_STATUS: ""})


def made(client, directory, id, *args, runtime="runc", **labels):
    """A container of a directory, so that it needs no snapshot."""
    busybox(directory)
    spec = build.with_args(build.default_spec(client.namespace, id), args)
    spec = build.encode(build.with_root(spec, str(directory / "rootfs")))
    record = Container(id=id, runtime=RuntimeRef(name=runtime), spec=spec, labels=labels)
    client.containers.create(containers.CreateRequest(container=record))


def run(client, directory, id, *args, runtime="runc", **labels):
    """Begun as ctr does: it bears the label once it runs."""
    made(client, directory, id, *args, runtime=runtime)
    client.tasks.create(tasks.CreateRequest(container_id=id))
    client.tasks.start(tasks.StartRequest(container_id=id))
    label(client, id, labels)


def label(client, id, labels):
    changed = Container(id=id, labels=labels)
    fields = [f"labels.{key}" for key in labels]
    with contextlib.suppress(errors.NotFound):
        client.containers.update(containers.UpdateRequest(container=changed, fields=fields))


def labels(client, id):
    return client.containers.get(containers.GetRequest(id=id)).labels


def count(client, id):
    return int(labels(client, id).get(names.RESTART_COUNT, "0"))


def task(client, id):
    """None without one."""
    with contextlib.suppress(errors.NotFound):
        return client.tasks.get(tasks.GetRequest(container_id=id))
    return None


def until(condition):
    deadline = time.monotonic() + START_S
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def running(client, id, other_than=0):
    """Its pid, once it runs and all that was planned for it is done."""

    def pid():
        found = task(client, id)
        settled = names.RESTART_AT not in labels(client, id)
        return settled and found and found.status is Status.RUNNING and found.pid != other_than and found.pid

    return until(pid)


def kill(client, id):
    client.tasks.kill(tasks.KillRequest(container_id=id, signal=signal.SIGKILL))


def test_what_ends_is_started_again(daemon, tmp_path):
    with daemon.client() as client:
        run(client, tmp_path, "c", "/bin/sleep", "1000", **ALWAYS)
        pid = task(client, "c").pid
        for times in range(1, 4):
            kill(client, "c")
            pid = running(client, "c", pid)
            assert count(client, "c") == times


def test_on_failure_and_no_more_often(daemon, tmp_path):
    with daemon.client() as client:
        (tmp_path / "rootfs/tmp").mkdir(parents=True)
        script = "echo x >> /tmp/runs; exit 3"
        policy = {**ALWAYS, names.RESTART_POLICY: "on-failure:2"}
        run(client, tmp_path, "c", "/bin/sh", "-c", script, **policy)
        until(lambda: count(client, "c") == 2)
        run(client, tmp_path, "well", "/bin/true", **policy)
        run(client, tmp_path, "other", "/bin/sh", "-c", script.replace("runs", "others"), **ALWAYS)
        until(lambda: count(client, "other") > 5)
        assert (tmp_path / "rootfs/tmp/runs").read_text() == "x\n" * 3
        assert (task(client, "c").status, task(client, "c").exit_status) == (Status.STOPPED, 3)
        assert (count(client, "c"), count(client, "well")) == (2, 0)


def test_what_shall_be_stopped_is(daemon, tmp_path):
    with daemon.client() as client:
        run(client, tmp_path, "c", "/bin/sleep", "1000", **ALWAYS)
        label(client, "c", {names.RESTART_STATUS: "stopped"})
        until(lambda: task(client, "c") is None)
        label(client, "c", {names.RESTART_STATUS: "running"})
        assert running(client, "c")


def test_a_container_with_the_label_needs_nobody_to_start_it(daemon, tmp_path):
    with daemon.client() as client:
        made(client, tmp_path, "c", "/bin/sleep", "1000", **ALWAYS)
        assert running(client, "c")
        kill(client, "c")
        client.tasks.wait(tasks.WaitRequest(container_id="c"))


def test_whoever_makes_its_task_has_time_to(tmp_path):
    with Daemon(tmp_path, "[restart]\ndelay_s = 0.01\ngrace_s = 1000\n") as daemon, daemon.client() as client:
        made(client, tmp_path, "c", "/bin/sleep", "1000", **ALWAYS)
        client.tasks.create(tasks.CreateRequest(container_id="c"))
        client.tasks.start(tasks.StartRequest(container_id="c"))
        pid = task(client, "c").pid
        kill(client, "c")
        running(client, "c", pid)
        assert count(client, "c") == 1
        stop_all(daemon)


def test_a_paused_one_is_left_alone(daemon, tmp_path):
    with daemon.client() as client:
        run(client, tmp_path, "c", "/bin/sleep", "1000", **ALWAYS)
        client.tasks.pause(tasks.PauseRequest(container_id="c"))
        label(client, "c", {"a": "b"})
        run(client, tmp_path, "other", "/bin/true", **ALWAYS)
        until(lambda: count(client, "other") > 2)
        assert task(client, "c").status is Status.PAUSED


def test_output_goes_where_the_label_says(daemon, tmp_path):
    with daemon.client() as client:
        log = tmp_path / "log"
        run(client, tmp_path, "c", "/bin/echo", "hello", **ALWAYS, **{names.RESTART_LOG_URI: f"file://{log}"})
        until(lambda: log.exists() and log.read_text().startswith("hello\nhello\n"))


def test_one_that_cannot_be_started_is_tried_later(daemon, tmp_path):
    with daemon.client() as client:
        run(client, tmp_path, "c", "/bin/sleep", "1000", **ALWAYS, **{names.RESTART_LOG_URI: "gopher://x"})
        pid = task(client, "c").pid
        kill(client, "c")
        daemon.says("starting container c of namespace default again: create task c")
        label(client, "c", {names.RESTART_LOG_URI: ""})
        running(client, "c", pid)
        assert count(client, "c") == 1


def test_a_policy_that_is_none_does_nothing(daemon, tmp_path):
    with daemon.client() as client:
        run(client, tmp_path, "c", "/bin/true", **{**ALWAYS, names.RESTART_POLICY: "sometimes"})
        daemon.says("container c of namespace default is not restarted: restart policy 'sometimes' is none of")
        assert task(client, "c").status is Status.STOPPED


# runc, but that each start tells and waits to be let.
SLOW = """#!/bin/sh
case "$*" in *" start "*) echo x >> $0.asked; while [ ! -e $0.go ]; do sleep 0.01; done;; esac
exec runc "$@"
"""


def test_a_container_that_is_removed_while_it_is_started(daemon, tmp_path):
    runtime, asked, go = (tmp_path / name for name in ("runtime", "runtime.asked", "runtime.go"))
    runtime.write_text(SLOW)
    runtime.chmod(0o755)
    go.touch()
    with daemon.client() as client:
        run(client, tmp_path, "c", "/bin/sleep", "1000", runtime=str(runtime), **ALWAYS)
        go.unlink()
        kill(client, "c")
        until(lambda: asked.read_text() == "x\nx\n")
        client.containers.delete(containers.DeleteRequest(id="c"))
        assert task(client, "c")
        go.touch()
        until(lambda: task(client, "c") is None)


def test_a_daemon_that_starts_starts_what_shall_run(tmp_path):
    daemon = Daemon(tmp_path, NEVER)
    with daemon:
        with daemon.client() as client:
            run(client, tmp_path, "always", "/bin/sleep", "1000", **ALWAYS)
            run(client, tmp_path, "stopped", "/bin/sleep", "1000", **{**ALWAYS, names.RESTART_POLICY: "unless-stopped"})
            label(client, "stopped", {names.RESTART_STOPPED: "true"})
            run(client, tmp_path, "gone", "/bin/sleep", "1000", **ALWAYS)
            pids = {id: task(client, id).pid for id in ("always", "stopped", "gone")}
            kill(client, "gone")
            client.tasks.wait(tasks.WaitRequest(container_id="gone"))
            until(lambda: names.RESTART_AT in labels(client, "gone"))
            client.tasks.delete(tasks.DeleteRequest(container_id="gone"))
        daemon.kill()
        for id in ("always", "stopped"):
            os.kill(pids[id], signal.SIGKILL)
        daemon.config.write_text(FAST)
        daemon.start()
        with daemon.client() as client:
            for id in ("always", "gone"):
                running(client, id, pids[id])
                assert count(client, id) == 1
            assert task(client, "stopped").status is Status.STOPPED
        stop_all(daemon)


def test_no_restart_is_lost_or_done_twice_whenever_the_daemon_is_killed(tmp_path):
    """A container that counts its starts, and is killed again and again while the daemon is too."""
    with Daemon(tmp_path, FAST) as daemon:
        busybox(tmp_path)
        script = "echo x >> /tmp/runs; while [ ! -e /tmp/go-$(wc -l < /tmp/runs) ]; do sleep 0.01; done; exit 1"
        (tmp_path / "rootfs/bin/wc").symlink_to("busybox")
        with daemon.client() as client:
            run(client, tmp_path, "c", "/bin/sh", "-c", script, **{**ALWAYS, names.RESTART_POLICY: "on-failure"})
        runs = tmp_path / "rootfs/tmp/runs"
        until(runs.exists)
        for number in range(1, 13):
            (tmp_path / f"rootfs/tmp/go-{number}").touch()
            time.sleep(number * 0.01)
            daemon.kill()
            daemon.start()
            until(lambda number=number: runs.read_text() == "x\n" * (number + 1))
        with daemon.client() as client:
            running(client, "c")
            assert count(client, "c") == 12
        stop_all(daemon)
        assert runs.read_text() == "x\n" * 13


def test_metrics_and_plugins_tell(daemon):
    rows = daemon.ctr("plugins", "ls").stdout
    assert "io.holdd.restart.v1" in rows
    assert "always" in daemon.ctr("plugins", "ls", "--json").stdout


# What ctr says to it.


def marks(daemon, id):
    with daemon.client() as client:
        return {key: value for key, value in labels(client, id).items() if key.startswith("containerd.io/restart.")}


def test_ctr_runs_and_stops(daemon, tmp_path):
    busybox(tmp_path)
    log = f"file://{tmp_path}/log"
    asked = ("--restart", "unless-stopped", "--log-uri", log)
    daemon.ctr("run", "-d", *asked, "--rootfs", tmp_path / "rootfs", "c", "/bin/sleep", "1000")
    assert marks(daemon, "c") == {
        names.RESTART_STATUS: "running",
        names.RESTART_POLICY: "unless-stopped",
        names.RESTART_LOG_URI: log,
    }
    with daemon.client() as client:
        pid = task(client, "c").pid
        os.kill(pid, signal.SIGKILL)
        running(client, "c", pid)
        daemon.ctr("tasks", "kill", "-s", "HUP", "c")
        assert names.RESTART_STOPPED not in marks(daemon, "c")
        daemon.ctr("tasks", "kill", "-s", "KILL", "c")
        client.tasks.wait(tasks.WaitRequest(container_id="c"))
        assert marks(daemon, "c")[names.RESTART_STOPPED] == "true"
        assert daemon.ctr("tasks", "kill", "c", check=False).returncode == 1
        daemon.ctr("tasks", "rm", "-f", "c")
        daemon.ctr("tasks", "start", "-d", "c")
        assert names.RESTART_STOPPED not in marks(daemon, "c")
        assert running(client, "c")
    daemon.ctr("tasks", "rm", "-f", "c")
    daemon.ctr("containers", "rm", "c")


def test_ctr_takes_back_a_mark_when_nothing_was_stopped(daemon, tmp_path):
    with daemon.client() as client:
        made(client, tmp_path, "c", "/bin/true", **{**ALWAYS, names.RESTART_POLICY: "on-failure"})
    assert "not found" in daemon.ctr("tasks", "kill", "c", check=False).stderr
    assert names.RESTART_STOPPED not in marks(daemon, "c")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--restart", "always"), "--detach"),
        (("-d", "--restart", "often"), "restart policy 'often' is none of"),
        (("-d", "--restart", "always", "--uidmap", "0:1:1", "--gidmap", "0:1:1"), "--restart knows no directory"),
    ],
)
def test_ctr_refuses(daemon, tmp_path, args, said):
    done = daemon.ctr("run", *args, "--rootfs", tmp_path, "c", check=False)
    assert done.returncode == 1
    assert said in done.stderr
    assert not daemon.ctr("containers", "ls", "-q").stdout
    assert not Path(daemon.state, "tasks", "default", "c").exists()
