"""Containers that the kernel kills for memory, many at once, while the daemon is killed every few seconds: each has its
verdict, and exactly one event of it, which comes before the one of its exit.

    python -m tests.chaos.ooms --containers 500 [--seed N] [--workers N] [--directory DIR]
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter

from spec.events import TaskExit, TaskOOM
from tests import containers as making
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


def chaos(directory, count, seed, workers=8, pause_s=(2.0, 5.0), say=lambda line: None):
    """Wrong when anything is; what was done."""
    chance = random.Random(seed)
    rootfs = making.busybox(directory)
    numbers = Numbers(count)
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
        "containers": count,
        "seed": seed,
        "kills of the daemon": kills,
        "verdicts": len(exits),
        "events before the exit's": len(listener.heard) - len(exits),
        "seconds": round(time.monotonic() - began),
    }


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--containers", type=int, default=500)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--directory")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=args.directory) as directory:
        done = chaos(
            directory, args.containers, args.seed, args.workers, say=lambda line: print(line, file=sys.stderr)
        )
        print(json.dumps(done))


if __name__ == "__main__":
    main()
