"""How benchmarks run and print: clients as processes, a journaled filesystem to run on, one table."""

import contextlib
import json
import os
import statistics
import subprocess
import tempfile
import time
import traceback
from pathlib import Path
from typing import NamedTuple

INODES = "600000"  # both sides' trees of 50,000 files, several of each


class Row(NamedTuple):
    """One figure beside its bar and its peer's, all as text."""

    what: str
    ours: str
    bar: str
    peer: str


def show(rows):
    """Print rows as a table."""
    rows = [Row("what", "holdd", "bar", "peer, same run"), *rows]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@contextlib.contextmanager
def journaled(size="3G", below=None):
    """A directory on a fresh journaled ext4 in a loop device: what a host's disk behaves like. Its image is in a
    directory `below` another, and has its space and its tables from the start: nothing is made ready meanwhile. It
    takes as much in one request as it can, as a disk does: some kernels have loop devices begin at 4 KiB."""
    with tempfile.TemporaryDirectory(prefix="holdd-bench-", dir=below) as directory:
        image, where = Path(directory, "image"), Path(directory, "fs")
        where.mkdir()
        subprocess.run(["fallocate", "-l", size, image], check=True)
        now = "lazy_itable_init=0,lazy_journal_init=0,nodiscard"
        subprocess.run(["mkfs.ext4", "-q", "-F", "-N", INODES, "-E", now, image], check=True)
        subprocess.run(["mount", "-o", "loop", image, where], check=True)
        try:
            _take_large_requests(where)
            yield where
        finally:
            subprocess.run(["umount", where], check=True)


def _take_large_requests(where):
    device = os.stat(where).st_dev
    queue = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/queue")
    (queue / "max_sectors_kb").write_text((queue / "max_hw_sectors_kb").read_text())


def at_once(clients, work):
    """Run `work(n)`, which returns how many operations it did, in `clients` processes at once; operations a second."""
    took, counts = _together(clients, work)
    return sum(counts) / took


def times_at_once(clients, work):
    """As `at_once`, of `work` that returns what each operation took: operations a second, and all those times."""
    took, found = _together(clients, work)
    times = [time for times in found for time in times]
    return len(times) / took, times


def _together(clients, work):
    """From when all are ready until all have ended, in seconds; and what each returned, by way of JSON."""
    ready_r, ready_w = os.pipe()
    go_r, go_w = os.pipe()
    results = []
    pids = []
    for number in range(clients):
        result_r, result_w = os.pipe()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.close(go_w)
                os.write(ready_w, b".")
                os.read(go_r, 1)
                with os.fdopen(result_w, "w") as file:
                    json.dump(work(number), file)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(result_w)
        results.append(result_r)
        pids.append(pid)
    for _ in range(clients):
        os.read(ready_r, 1)
    began = time.perf_counter()
    os.close(go_w)
    texts = []
    for fd in results:
        with os.fdopen(fd) as file:
            texts.append(file.read())
    failed = [pid for pid in pids if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])]
    took = time.perf_counter() - began
    for fd in (ready_r, ready_w, go_r):
        os.close(fd)
    if failed:
        raise RuntimeError(f"{len(failed)} of {clients} clients failed")
    return took, [json.loads(text) for text in texts]


def median_ms(runs, work):
    """Median of `runs` calls of `work`, in milliseconds, after one that does not count."""
    work()
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        work()
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


def cpu_s(pid):
    """CPU seconds that a process and the children it waited for have had (proc_pid_stat(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def memory_kb(pid, *fields):
    """Sum of fields of /proc/PID/smaps_rollup, in KB (proc_pid_smaps(5))."""
    total = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in fields:
            total += int(rest.split()[0])
    return total
