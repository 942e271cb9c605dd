"""Many starts at once: how many a second and how even, beside runc alone driven by as many clients."""

import itertools
import json
import subprocess
import time
from pathlib import Path

from spec.api import containers, tasks
from spec.oci import build
from spec.types import Mount
from tests.bench.figures import Row, times_at_once
from tests.bench.tasks import create, rootfs, spec

STARTS = 96  # in all, by however many clients
ROUNDS = 3
QUIET = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "check": True}

_names = itertools.count()


def measure(daemon, directory):
    root = rootfs(directory)
    for clients in (4, 16):
        ours, bare, times = [], [], []
        for _ in range(ROUNDS):
            rate, took = _ours(daemon, root, clients)
            ours.append(rate)
            times += took
            bare.append(_bare(Path(directory), root, clients))
        mine, theirs = max(ours), max(bare)
        yield Row(
            f"starts (create + start), {clients} at once",
            f"{mine:.1f}/s = {mine / theirs:.2f} x bare",
            ">= 0.8 x bare runc",
            f"{theirs:.1f}/s runc create + start",
        )
        times.sort()
        p50, p99 = (times[len(times) * percent // 100] * 1000 for percent in (50, 99))
        bar = "p99 <= 3 x p50" if clients == 16 else ""
        yield Row("  one of them, p50 / p99", f"{p50:.0f} / {p99:.0f} ms = {p99 / p50:.1f}", bar, "")


def _ours(daemon, root, clients):
    """Starts a second, and what each took."""
    each = STARTS // clients
    mount = Mount(type="bind", source=str(root), options=("rbind", "rw"))
    name = f"s{next(_names)}"
    ids = [[f"{name}-{client}-{number}" for number in range(each)] for client in range(clients)]
    with daemon.client() as client:
        for id in itertools.chain.from_iterable(ids):
            create(client, id, "/bin/sleep", "1000")

    def work(number):
        took = []
        with daemon.client() as client:
            for id in ids[number]:
                began = time.perf_counter()
                client.tasks.create(tasks.CreateRequest(container_id=id, rootfs=(mount,)))
                client.tasks.start(tasks.StartRequest(container_id=id))
                took.append(time.perf_counter() - began)
        return took

    rate, times = times_at_once(clients, work)
    with daemon.client() as client:
        for id in itertools.chain.from_iterable(ids):
            client.tasks.kill(tasks.KillRequest(container_id=id, signal=9))
            client.tasks.wait(tasks.WaitRequest(container_id=id))
            client.tasks.delete(tasks.DeleteRequest(container_id=id))
            client.containers.delete(containers.DeleteRequest(id=id))
    return rate, times


def _bare(directory, root, clients):
    """Starts a second by runc itself, each with a bundle of its own."""
    runc = ["runc", "--root", str(directory / "runc")]
    name = f"b{next(_names)}"
    ids = [[f"{name}-{client}-{number}" for number in range(STARTS // clients)] for client in range(clients)]
    for id in itertools.chain.from_iterable(ids):
        document = json.loads(build.encode(spec(id, "/bin/sleep", "1000")))
        document["root"]["path"] = str(root)
        (directory / id).mkdir()
        (directory / id / "config.json").write_text(json.dumps(document))

    def work(number):
        took = []
        for id in ids[number]:
            began = time.perf_counter()
            subprocess.run([*runc, "create", "--bundle", directory / id, id], **QUIET)
            subprocess.run([*runc, "start", id], **QUIET)
            took.append(time.perf_counter() - began)
        return took

    rate, _ = times_at_once(clients, work)
    for id in itertools.chain.from_iterable(ids):
        subprocess.run([*runc, "delete", "--force", id], **QUIET)
    return rate
