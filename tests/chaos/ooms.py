"""Containers that the kernel kills for memory, many at once, while the daemon is killed every few seconds: each has its
verdict, and exactly one event of it, which comes before the one of its exit.

    python -m tests.chaos.ooms --containers 500 [--seed N] [--workers N] [--directory DIR]
"""

import random
import time
from collections import Counter

from spec.events import TaskExit, TaskOOM
from tests import containers as making
from tests.chaos import command
from tests.chaos.exits import EXIT, KILLED, Listener, Numbers, Worker, Wrong, check, compare, killed
from tests.daemon import Daemon

OOM = "/tasks/oom"
LIMIT = 16 << 20  # bytes
HOG = ("/bin/busybox", "tail", "/dev/zero")  # which waits for an end of the first line


class Victims(Worker):
    """A worker whose containers all want too much."""

    def live(self, id):
        self.started(id, *HOG, memory=LIMIT)
        done = self.ended(id, KILLED)
        if (done.oom_killed, done.oom_kills, done.oom_ancestor) != (True, 1, False):
            raise Wrong(f"{id} was killed for memory, and Wait said {done}")


def ordered(heard):
    """Each exit's container was said to be out of memory once, and before."""
    told = Counter()
    for event in heard:
        if isinstance(event, TaskOOM):
            told[event.container_id] += 1
        elif told[event.container_id] != 1:
            raise Wrong(f"{event.container_id} was told {told[event.container_id]} times before its exit")
    if late := [id for id, times in told.items() if times != 1]:
        raise Wrong(f"told again after the exit: {late[:5]}")


def chaos(directory, containers, seed, workers=8, pause_s=(2.0, 5.0), say=lambda line: None):
    """Wrong when anything is; what was done."""
    chance = random.Random(seed)
    rootfs = making.busybox(directory)
    numbers = Numbers(containers)
    kills, began = 0, time.monotonic()
    with Daemon(directory) as daemon:
        listener = Listener(daemon, OOM, EXIT)
        crew = [Victims(n, daemon, random.Random(chance.random()), numbers, rootfs) for n in range(workers)]
        try:
            for kills in killed(daemon, crew, numbers, listener, chance, pause_s):
                say(f"kill {kills}: {len(listener.heard)} events, {time.monotonic() - began:.0f} s")
        finally:
            with daemon.client() as client:
                listener.end(client)
        check(*crew, listener)
        exits = [event for event in listener.heard if isinstance(event, TaskExit)]
        compare([one for worker in crew for one in worker.seen], exits)
        ordered(listener.heard)
    return {
        "containers": containers,
        "seed": seed,
        "kills of the daemon": kills,
        "verdicts": len(exits),
        "events before the exit's": len(listener.heard) - len(exits),
        "seconds": round(time.monotonic() - began),
    }


if __name__ == "__main__":
    command.run(__doc__, chaos, containers=500, workers=8)
