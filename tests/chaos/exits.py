"""kill -9 of the daemon every few seconds while containers come and go: every process that ended has exactly one exit
event, with its true code, and whoever waits is told the same.

    python -m tests.chaos.exits --containers 10000 [--seed N] [--workers N] [--directory DIR]

Of ten containers eight end by themselves, one has a process exec'd into it, and of one the shim is killed. Meanwhile
the shim of another is stopped and goes on, again and again, and nobody minds.
"""

import contextlib
import json
import os
import random
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import msgspec

from spec import errors
from spec.api import containers as records
from spec.api import events, tasks
from spec.events import TOPICS, EventsLagged, topic_of
from spec.records import Status
from tests import containers as making
from tests.chaos import command
from tests.daemon import Daemon

AWAY = (errors.Unavailable, errors.Canceled, EOFError)
EXIT, END = "/tasks/exit", "/chaos/end"
KILLED = 128 + signal.SIGKILL
NEVER_STARTED = 255  # an exec that a restart has given up
STOPPED = "stopped"
SECONDS = 120.0  # for the last events to come


class Wrong(Exception):
    """An invariant does not hold."""


class Seen(NamedTuple):
    """What a worker was told of one process."""

    id: str
    pid: int
    status: int


class Numbers:
    """0 to `count`, each for one of many threads."""

    def __init__(self, count):
        self._lock = threading.Lock()
        self._next, self._end = 0, count

    def __iter__(self):
        return self

    def __next__(self):
        with self._lock:
            if self._next >= self._end:
                raise StopIteration
            self._next += 1
            return self._next - 1

    def stop(self):
        self._end = 0


class Listener(threading.Thread):
    """Every event of some topics there is, in order, whatever becomes of the daemon meanwhile."""

    def __init__(self, daemon, *topics):
        super().__init__(name="listener")
        self.daemon_ = daemon
        self.topics = topics
        self.heard = []
        self.failure = None
        self._sequence = 0

    def run(self):
        try:
            while True:
                with contextlib.suppress(*AWAY), self.daemon_.client() as client:
                    self._listen(client)
                    return
                time.sleep(0.02)
        except Exception as exc:  # told by the main thread
            self.failure = exc

    def _listen(self, client):
        filters = [f'topic=="{topic}"' for topic in (*self.topics, END)]
        request = events.SubscribeRequest(filters=filters, since=self._sequence)
        for envelope in client.events.subscribe(request):
            self._sequence = envelope.sequence
            if envelope.topic == END:
                return
            if envelope.topic == topic_of(EventsLagged(missed=0)):
                raise Wrong("the ring was too small for the events of one restart")
            self.heard.append(msgspec.msgpack.decode(envelope.event, type=TOPICS[envelope.topic]))

    def end(self, client):
        """When it has heard all that has happened until now."""
        client.events.publish(events.PublishRequest(topic=END, event=msgspec.Raw(b"\x80")))
        self.join(SECONDS)


class Worker(threading.Thread):
    """Takes the next container and leads it through its life, over as many daemons as that needs."""

    def __init__(self, number, daemon, chance, numbers, rootfs):
        super().__init__(name=f"worker {number}")
        self.daemon_ = daemon
        self.chance = chance
        self.numbers = numbers
        self.rootfs = rootfs
        self.seen = []
        self.maybe = set()
        self.shims = 0
        self.failure = None

    def run(self):
        try:
            for number in self.numbers:
                self.live(f"c{number}")
        except Exception as exc:  # told by the main thread
            self.failure = exc

    def live(self, id):
        self.chance.choices((self.brief, self.execing, self.shimless), (8, 1, 1))[0](id)

    def brief(self, id):
        """It ends by itself, now or soon."""
        code, pause = self.chance.randrange(100), self.chance.choice(("", "sleep 0.3; ", "sleep 1; "))
        self.started(id, "/bin/sh", "-c", f"{pause}exit {code}")
        self.ended(id, code)

    def execing(self, id):
        code = self.chance.randrange(100)
        self.started(id, "/bin/sleep", "1000")
        self.insist(lambda client: self._exec(client, id, code))
        self.insist(lambda client: _kill(client, id))
        self.ended(id, KILLED)

    def shimless(self, id):
        pid = self.started(id, "/bin/sleep", "1000")
        os.kill(parent(pid), signal.SIGKILL)
        self.shims += 1
        self.ended(id, KILLED)

    def started(self, id, *args, memory=0):
        """Its pid."""
        self.insist(lambda client: making.container(client, id, *args, memory=memory), errors.AlreadyExists)
        return self.insist(lambda client: self._start(client, id))

    def ended(self, id, code):
        """Wait for it, and remove all of it; what Wait said."""
        done = self.insist(lambda client: client.tasks.wait(tasks.WaitRequest(container_id=id)))
        process = self.insist(lambda client: client.tasks.get(tasks.GetRequest(container_id=id)))
        if not done.exit_status == process.exit_status == code:
            raise Wrong(f"{id} ended with {code}, and Wait said {done.exit_status}, Get {process.exit_status}")
        self.seen.append(Seen(id, process.pid, code))
        self.insist(lambda client: client.tasks.delete(tasks.DeleteRequest(container_id=id)), errors.NotFound)
        request = records.DeleteRequest(id=id)
        self.insist(lambda client: client.containers.delete(request), errors.NotFound)
        return done

    def insist(self, call, *fine):
        """Until a daemon answers. What one answered before it died is not known, so `fine` may come of it."""
        while True:
            try:
                with self.daemon_.client() as client:
                    return call(client)
            except fine:
                return None
            except AWAY:
                time.sleep(0.02)

    def _start(self, client, id):
        """A task that does not exist was never started: what a daemon left half made its successor undoes."""
        with contextlib.suppress(errors.AlreadyExists):
            client.tasks.create(tasks.CreateRequest(container_id=id, rootfs=(self.rootfs,)))
        process = client.tasks.get(tasks.GetRequest(container_id=id))
        if process.status == Status.CREATED:
            client.tasks.start(tasks.StartRequest(container_id=id))
        return process.pid

    def _exec(self, client, id, code):
        document = {"args": ["/bin/sh", "-c", f"exit {code}"], "cwd": "/", "env": ["PATH=/bin"]}
        document["user"] = {"uid": 0, "gid": 0}
        exec_id = f"{id}-e"
        with contextlib.suppress(errors.AlreadyExists):
            client.tasks.exec(
                tasks.ExecRequest(container_id=id, exec_id=exec_id, spec=json.dumps(document).encode())
            )
        request = tasks.GetRequest(container_id=id, exec_id=exec_id)
        if client.tasks.get(request).status == Status.CREATED:
            self.maybe.add(exec_id)
            client.tasks.start(tasks.StartRequest(container_id=id, exec_id=exec_id))
            self.maybe.discard(exec_id)
        client.tasks.wait(tasks.WaitRequest(container_id=id, exec_id=exec_id))
        process = client.tasks.get(request)
        if exec_id in self.maybe and process.exit_status == NEVER_STARTED:
            return
        if process.exit_status != code:
            raise Wrong(f"{exec_id} ended with {code}, and {process.exit_status} was told")
        self.seen.append(Seen(exec_id, process.pid, code))


class Stopper(threading.Thread):
    """Stops the shim of one container and lets it go on, in turn."""

    def __init__(self, shim, chance):
        super().__init__(name="stopper")
        self.shim = shim
        self.chance = chance
        self.over = threading.Event()

    def run(self):
        while not self.over.wait(self.chance.uniform(0.1, 1)):
            os.kill(self.shim, signal.SIGSTOP)
            self.over.wait(self.chance.uniform(0.5, 4))
            os.kill(self.shim, signal.SIGCONT)


def _kill(client, id):
    with contextlib.suppress(errors.NotFound):  # that one has done it
        client.tasks.kill(tasks.KillRequest(container_id=id, signal=signal.SIGKILL))


def parent(pid):
    """proc_pid_stat(5), field 4."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def compare(seen, exits):
    """Everyone who ended has exactly one event, with the same pid and code, and nobody else has one."""
    told = Counter(Seen(event.id, event.pid, event.exit_status) for event in exits)
    wanted = Counter(seen)
    if lost := wanted - told:
        raise Wrong(f"{len(lost)} exits lost: {sorted(lost)[:5]}")
    if more := told - wanted:
        raise Wrong(f"{len(more)} exits doubled or made up: {sorted(more)[:5]}")


def chaos(directory, containers, seed, workers=4, pause_s=(2.0, 5.0), say=lambda line: None):
    """Wrong when anything is; what was done."""
    chance = random.Random(seed)
    rootfs = making.busybox(directory)
    numbers = Numbers(containers)
    kills, began = 0, time.monotonic()
    with Daemon(directory) as daemon:
        with daemon.client() as client:
            pid = making.started(client, STOPPED, rootfs, "/bin/sleep", "100000")
        stopper = Stopper(parent(pid), random.Random(chance.random()))
        listener = Listener(daemon, EXIT)
        crew = [Worker(n, daemon, random.Random(chance.random()), numbers, rootfs) for n in range(workers)]
        stopper.start()
        try:
            for kills in killed(daemon, crew, numbers, listener, chance, pause_s):
                say(f"kill {kills}: {len(listener.heard)} exits told, {time.monotonic() - began:.0f} s")
        finally:
            stopper.over.set()
            stopper.join()
            with daemon.client() as client:
                _kill(client, STOPPED)
                making.ended(client, STOPPED)
                listener.end(client)
        check(*crew, listener)
        seen = [one for worker in crew for one in worker.seen]
        compare([*seen, Seen(STOPPED, pid, KILLED)], listener.heard)
        _nothing_left(daemon)
    return {
        "containers": containers,
        "seed": seed,
        "kills of the daemon": kills,
        "kills of shims": sum(worker.shims for worker in crew),
        "exits, each told once": len(listener.heard),
        "seconds": round(time.monotonic() - began),
    }


def killed(daemon, crew, numbers, listener, chance, pause_s):
    """All at work; the daemon is killed and started again at random times until the crew is done. How often by then."""
    for thread in (listener, *crew):
        thread.start()
    kills = 0
    try:
        while any(worker.is_alive() for worker in crew) and not any(worker.failure for worker in crew):
            time.sleep(chance.uniform(*pause_s))
            daemon.kill()
            daemon.start()
            kills += 1
            yield kills
    finally:
        numbers.stop()
        for worker in crew:
            worker.join()


def check(*threads):
    for thread in threads:
        if thread.failure is not None:
            raise Wrong(f"{thread.name}: {thread.failure!r}") from thread.failure


def _nothing_left(daemon):
    left = [str(path) for path in Path(daemon.state, "tasks").glob("*/*")]
    if left:
        raise Wrong(f"left: {left}")


if __name__ == "__main__":
    command.run(__doc__, chaos, containers=10_000, workers=4)
