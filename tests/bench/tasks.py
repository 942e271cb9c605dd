"""Tasks: a short life and an exec through the API beside bare runc, the memory of shims, and many tasks at once."""

import itertools
import json
import os
import select
import statistics
import subprocess
import time
from pathlib import Path

from spec.api import containers, tasks
from spec.oci import build
from spec.records import Container, RuntimeRef
from spec.types import Mount, Stdio
from tests.bench.figures import Row, cpu_s, median_ms, memory_kb

LIVES = 30
MANY = 200
LISTED = 100


def rootfs(directory):
    """A root filesystem of one static busybox."""
    root = Path(directory, "rootfs")
    for name in ("bin", "proc", "dev", "sys", "etc", "tmp", "run"):
        (root / name).mkdir(parents=True, exist_ok=True)
    if not (root / "bin/busybox").exists():
        (root / "bin/busybox").write_bytes(Path("/bin/busybox").read_bytes())
        (root / "bin/busybox").chmod(0o755)
        for name in ("true", "sleep", "sh"):
            (root / "bin" / name).symlink_to("busybox")
    return root


def spec(id, *args):
    return build.with_args(build.default_spec("default", id), args)


def short_life(client, id, root):
    """create, start, wait, delete; seconds."""
    mount = Mount(type="bind", source=str(root), options=("rbind", "rw"))
    began = time.perf_counter()
    client.tasks.create(tasks.CreateRequest(container_id=id, rootfs=(mount,)))
    client.tasks.start(tasks.StartRequest(container_id=id))
    client.tasks.wait(tasks.WaitRequest(container_id=id))
    client.tasks.delete(tasks.DeleteRequest(container_id=id))
    return time.perf_counter() - began


def bare_life(directory, id, bundle):
    """The same by runc itself: create, start, until it has ended, delete; seconds."""
    runc = ["runc", "--root", str(directory)]
    pid_file = Path(directory, f"{id}.pid")
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "check": True}
    began = time.perf_counter()
    subprocess.run([*runc, "create", "--bundle", bundle, "--pid-file", pid_file, id], **quiet)
    init = os.pidfd_open(int(pid_file.read_text()))
    subprocess.run([*runc, "start", id], **quiet)
    select.select([init], [], [])
    subprocess.run([*runc, "delete", id], **quiet)
    took = time.perf_counter() - began
    os.close(init)
    return took


def create(client, id, *args, terminal=False):
    document = spec(id, *args)
    if terminal:
        document = build.with_terminal(document)
    container = Container(id=id, runtime=RuntimeRef(name="runc"), spec=build.encode(document))
    client.containers.create(containers.CreateRequest(container=container))


def measure_life(daemon, directory):
    root = rootfs(directory)
    bundle = Path(directory, "bundle")
    bundle.mkdir()
    ours, bare = [], []
    with daemon.client() as client:
        create(client, "life", "/bin/true")
        document = json.loads(build.encode(spec("bare", "/bin/true")))
        document["root"]["path"] = str(root)
        (bundle / "config.json").write_text(json.dumps(document))
        for turn in itertools.count():
            ours.append(short_life(client, "life", root) * 1000)
            bare.append(bare_life(directory, f"bare{turn}", bundle) * 1000)
            if turn == LIVES:
                break
    mine, theirs = statistics.median(ours[1:]), statistics.median(bare[1:])
    yield Row(
        "task create + start + wait + delete",
        f"{mine:.1f} ms = {mine / theirs:.2f} x bare",
        "<= 1.25 x bare runc",
        f"{theirs:.1f} ms runc create + start + delete",
    )


def measure_exec(daemon, directory):
    """A process exec'd into a running container, from the first call to its end and gone, beside `runc exec`."""
    root = rootfs(directory)
    runc = ["runc", "--root", str(Path(daemon.state, "runc/default"))]
    ours, bare = [], []
    with daemon.client() as client:
        _run(client, "execs", root)
        for turn in range(LIVES + 1):
            began = time.perf_counter()
            _exec(client, "execs", f"e{turn}", "/bin/true")
            client.tasks.wait(tasks.WaitRequest(container_id="execs", exec_id=f"e{turn}"))
            client.tasks.delete_process(tasks.DeleteProcessRequest(container_id="execs", exec_id=f"e{turn}"))
            ours.append((time.perf_counter() - began) * 1000)
            began = time.perf_counter()
            subprocess.run([*runc, "exec", "execs", "/bin/true"], stdin=subprocess.DEVNULL, check=True)
            bare.append((time.perf_counter() - began) * 1000)
        _end(client, "execs")
    mine, theirs = statistics.median(ours[1:]), statistics.median(bare[1:])
    yield Row(
        "exec of true + wait + delete",
        f"{mine:.1f} ms = {mine / theirs:.2f} x bare",
        "<= 1.2 x bare runc",
        f"{theirs:.1f} ms runc exec",
    )


def measure_shim(daemon, directory):
    """A shim that holds a terminal and has three exec'd processes."""
    root = rootfs(directory)
    with daemon.client() as client:
        _run(client, "terminal", root, terminal=True)
        for number in range(3):
            _exec(client, "terminal", f"e{number}", "/bin/sleep", "1000")
        (pid,) = shim_pids(daemon)
        private = memory_kb(pid, "Private_Clean", "Private_Dirty")
        _end(client, "terminal")
    yield Row("private memory of a shim, a terminal and 3 execs", f"{private} KB", "<= 320 KB", "")


def measure_many(daemon, directory):
    root = rootfs(directory)
    with daemon.client() as client:
        for number in range(MANY):
            _run(client, f"many{number}", root)
            if number + 1 == LISTED:
                took = median_ms(LIVES, lambda: client.tasks.list(tasks.ListRequest()))
                yield Row(f"list of {LISTED} tasks", f"{took:.2f} ms", "<= 5 ms", "")
    shims = shim_pids(daemon)
    private = statistics.mean(memory_kb(pid, "Private_Clean", "Private_Dirty") for pid in shims)
    yield Row(f"private memory of a shim, mean of {len(shims)}", f"{private:.0f} KB", "<= 256 KB", "")
    times = []
    for _ in range(5):
        daemon.kill()
        began = time.perf_counter()
        daemon.start()
        with daemon.client() as client:
            running = len(client.tasks.list(tasks.ListRequest()).tasks)
        times.append((time.perf_counter() - began) * 1000)
        used = cpu_s(daemon.process.pid) * 1000
    yield Row(
        f"start until all are found, {running} running",
        f"{statistics.median(times):.0f} ms ({used:.0f} ms of processor)",
        "<= 300 ms",
        "",
    )


def _run(client, id, root, terminal=False):
    """A container that sleeps, running."""
    create(client, id, "/bin/sleep", "1000", terminal=terminal)
    mount = Mount(type="bind", source=str(root), options=("rbind", "rw"))
    request = tasks.CreateRequest(container_id=id, rootfs=(mount,), stdio=Stdio(terminal=terminal))
    client.tasks.create(request)
    client.tasks.start(tasks.StartRequest(container_id=id))


def _exec(client, id, exec_id, *args):
    process = {"args": args, "cwd": "/", "user": {"uid": 0, "gid": 0}, "env": ["PATH=/bin"]}
    client.tasks.exec(tasks.ExecRequest(container_id=id, exec_id=exec_id, spec=json.dumps(process).encode()))
    client.tasks.start(tasks.StartRequest(container_id=id, exec_id=exec_id))


def _end(client, id):
    client.tasks.kill(tasks.KillRequest(container_id=id, signal=9))
    client.tasks.wait(tasks.WaitRequest(container_id=id))
    client.tasks.delete(tasks.DeleteRequest(container_id=id))
    client.containers.delete(containers.DeleteRequest(id=id))


def shim_pids(daemon):
    """Shims of this daemon: processes with an exit record or socket open below its state."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if (entry / "comm").read_text().strip() != "holdd-shim":
                continue
            if any(str(daemon.state) in os.readlink(fd) for fd in (entry / "fd").iterdir()):
                found.append(int(entry.name))
        except OSError:
            continue
    return found
