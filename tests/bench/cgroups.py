"""Reading all figures of a container's cgroups: the reader with its descriptors beside its plain Python twin."""

import os
import subprocess
import sys
import time

from daemon.metrics.cgroups import Meter, plan
from pyx.cgroup import Reader
from tests import cgroups, plaincgroup
from tests.bench.figures import Row

READS = 2000
WORK = "b = bytearray(8 << 20); [None for _ in range(10**6)]"


def measure():
    with cgroups.made("holdd-bench") as directories:
        subprocess.run([sys.executable, "-c", WORK], check=True, preexec_fn=lambda: cgroups.join(directories))
        made = plan(directories)
        files = [source.opened(directories) for source in made.sources]
        there = sum(any(os.path.exists(path) for path in paths) for paths, *_ in files)
        with Reader(files, made.values) as reader:
            ours = cpu_us(reader.read)
        theirs = cpu_us(lambda: plaincgroup.read(files, made.values))
        meter = Meter(directories)
        whole = cpu_us(meter.read)
        meter.close()
    yield Row(
        f"a container's figures, {there} files",
        f"{ours:.0f} us = 1/{theirs / ours:.1f}; {whole:.0f} us as Structs",
        ">= 10 x faster",
        f"{theirs:.0f} us plain Python",
    )


def cpu_us(work):
    """Processor time of one call, in microseconds."""
    work()
    began = time.process_time()
    for _ in range(READS):
        work()
    return (time.process_time() - began) / READS * 1e6
