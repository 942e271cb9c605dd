"""Tasks: a short life through the API beside bare runc, the memory of shims, and a start with many running."""

import itertools
import json
import os
import select
import statistics
import subprocess
import time
from pathlib import Path

from spec.api import containers, tasks
from spec.api.version import VersionRequest
from spec.oci import build
from spec.records import Container, RuntimeRef
from spec.types import Mount
from tests.bench.figures import Row, memory_kb

LIVES = 30
MANY = 50


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


def create(client, id, *args):
    container = Container(id=id, runtime=RuntimeRef(name="runc"), spec=build.encode(spec(id, *args)))
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
        "<= 1.4 x bare runc",
        f"{theirs:.1f} ms runc create + start + delete",
    )


def measure_many(daemon, directory):
    root = rootfs(directory)
    mount = Mount(type="bind", source=str(root), options=("rbind", "rw"))
    with daemon.client() as client:
        for number in range(MANY):
            create(client, f"many{number}", "/bin/sleep", "1000")
            client.tasks.create(tasks.CreateRequest(container_id=f"many{number}", rootfs=(mount,)))
            client.tasks.start(tasks.StartRequest(container_id=f"many{number}"))
    shims = shim_pids(daemon)
    private = statistics.mean(memory_kb(pid, "Private_Clean", "Private_Dirty") for pid in shims)
    yield Row(f"private memory of a shim, mean of {len(shims)}", f"{private:.0f} KB", "<= 256 KB", "")
    daemon.kill()
    began = time.perf_counter()
    daemon.start()
    with daemon.client() as client:
        client.version.version(VersionRequest())
        took = (time.perf_counter() - began) * 1000
        running = len(client.tasks.list(tasks.ListRequest()).tasks)
    yield Row(f"start to first answer, {running} running", f"{took:.0f} ms", "<= 400 ms", "")


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
