"""kill -9 of the daemon at random instants while many clients write: what was acknowledged is there, the rest is there
whole or not at all, and everything holds together.

    python -m tests.chaos.records --rounds 200 [--seed N] [--directory DIR]

Each round: clients write images, leases, containers, snapshots, content, and pull, and garbage is collected meanwhile;
the daemon is killed; `holdd fsck` checks what is on disk; the daemon starts again, and what it says is compared with
what the clients were told; fsck checks again beside it.
"""

import contextlib
import os
import random
import subprocess
import threading
import time

from spec import digest as digests
from spec import errors
from spec.api import containers, content, images, leases, snapshots, transfer
from spec.oci.image import Descriptor
from spec.records import Container, Image, RuntimeRef
from tests.chaos import command
from tests.daemon import BIN, Daemon
from tests.fake import MANIFEST, Fake

CONFIG = """
[gc]
deletion_threshold = 1
mutation_threshold = 5
startup_delay_s = 0
pause_threshold = 0.5
"""
SNAPSHOTTER = "overlayfs"
WORKERS = 6
OBJECTS = 6
ABSENT = None
TARGET = Descriptor(media_type=MANIFEST, digest=digests.of(b"none"), size=4)


class Wrong(Exception):
    """An invariant does not hold."""


class Model:
    """What each object may be: one state when its last change was acknowledged, two while one is under way."""

    def __init__(self):
        self._lock = threading.Lock()
        self._window = None
        self.states = {}
        self.acknowledged = 0

    def state(self, key):
        (state,) = self.states.get(key, {ABSENT})
        return state

    @contextlib.contextmanager
    def change(self, *changes):
        """`changes` are (key, new state)."""
        with self._lock:
            for key, new in changes:
                self.states[key] = {self.state(key), new}
                if self._window is not None:
                    self._window[key] = self._window.get(key, {ABSENT}) | self.states[key]
        yield
        with self._lock:
            for key, new in changes:
                self.states[key] = {new}
            self.acknowledged += 1

    @contextlib.contextmanager
    def during(self):
        """The model of some instant while the block runs."""
        then = Model()
        with self._lock:
            then.states = self._window = {key: set(states) for key, states in self.states.items()}
        yield then
        with self._lock:
            self._window = None

    def compare(self, found):
        """Every object is in a state that it may be in; from now on it is in that one."""
        for key in self.states.keys() | found.keys():
            allowed, is_ = self.states.get(key, {ABSENT}), found.get(key, ABSENT)
            if is_ not in allowed:
                raise Wrong(f"{key} is {is_}, and should be one of {allowed}")
            self.states[key] = {is_}


class Worker:
    """A client with objects of its own, so that it knows what they are."""

    def __init__(self, number, model, client, chance, host):
        self.own = f"w{number}"
        self.model = model
        self.client = client
        self.chance = chance
        self.host = host

    def run(self):
        """Until the daemon is gone."""
        with contextlib.suppress(errors.Unavailable, errors.Canceled, EOFError):
            self.begin()
            while True:
                act = self.chance.choice((self.image, self.lease, self.container, self.snapshot, self.blob, self.pull))
                act(self.chance.randrange(OBJECTS))

    def begin(self):
        """What keeps this worker's snapshots and content from collection."""
        key = ("lease", self.own)
        if self.model.state(key) is ABSENT:
            with self.model.change((key, "")):
                self.client.leases.create(leases.CreateRequest(id=self.own))
        self.kept = self.client.using(lease=self.own)

    def image(self, number):
        key = ("image", f"{self.own}-{number}")
        value = str(self.chance.random())
        record = Image(name=key[1], target=TARGET, labels={"v": value})
        if self.model.state(key) is ABSENT:
            with self.model.change((key, value)):
                self.client.images.create(images.CreateRequest(image=record))
        elif self.chance.random() < 0.5:
            with self.model.change((key, value)):
                self.client.images.update(images.UpdateRequest(image=record))
        else:
            with self.model.change((key, ABSENT)):
                self.client.images.delete(images.DeleteRequest(name=key[1]))

    def lease(self, number):
        key = ("lease", f"{self.own}-{number}")
        if self.model.state(key) is ABSENT:
            with self.model.change((key, "")):
                self.client.leases.create(leases.CreateRequest(id=key[1]))
        else:
            with self.model.change((key, ABSENT)):
                self.client.leases.delete(leases.DeleteRequest(id=key[1], sync=self.chance.random() < 0.2))

    def container(self, number):
        key = ("container", f"{self.own}-{number}")
        if self.model.state(key) is ABSENT:
            record = Container(id=key[1], runtime=RuntimeRef(name="runc"), spec=b"{}" * 2000)
            with self.model.change((key, "")):
                self.client.containers.create(containers.CreateRequest(container=record))
        else:
            with self.model.change((key, ABSENT)):
                self.client.containers.delete(containers.DeleteRequest(id=key[1]))

    def snapshot(self, number):
        """Absent, active, committed, absent."""
        active, done = (("snapshot", f"{self.own}-{number}-{kind}") for kind in ("active", "done"))
        parent = f"{self.own}-{number - 1}-done"
        if self.model.state(done):
            with contextlib.suppress(errors.FailedPrecondition), self.model.change((done, ABSENT)):
                self.remove(done)
        elif self.model.state(active) is ABSENT:
            parent = parent if self.model.state(("snapshot", parent)) else ""
            request = snapshots.PrepareRequest(snapshotter=SNAPSHOTTER, key=active[1], parent=parent)
            with self.model.change((active, "ACTIVE")):
                self.kept.snapshots.prepare(request)
        else:
            request = snapshots.CommitRequest(snapshotter=SNAPSHOTTER, name=done[1], key=active[1])
            with self.model.change((active, ABSENT), (done, "COMMITTED")):
                self.kept.snapshots.commit(request)

    def remove(self, key):
        try:
            self.kept.snapshots.remove(snapshots.RemoveRequest(snapshotter=SNAPSHOTTER, key=key[1]))
        except errors.FailedPrecondition:  # it has children: it stays what it was
            self.model.states[key] = {"COMMITTED"}
            raise

    def blob(self, number):
        data = f"{self.own}-{number}".encode() * 500
        key = ("content", digests.of(data))
        if self.model.state(key) is ABSENT:
            with self.model.change((key, str(len(data)))), self.kept.content.write() as stream:
                stream.send(content.WriteRequest(action="commit", ref=f"{self.own}-{number}", data=data))
                stream.receive()
        else:
            with self.model.change((key, ABSENT)):
                self.client.content.delete(content.DeleteRequest(digest=key[1]))

    def pull(self, number):
        """Images that all workers share: only their being whole is asked for."""
        name = f"{self.host}/app:{number % 3}"
        request = transfer.TransferRequest(
            source=transfer.Registry(reference=name, plain_http=True),
            destination=transfer.ImageStore(name=name, unpacks=[transfer.Unpack()]),
        )
        with contextlib.suppress(errors.NotFound, errors.AlreadyExists):
            list(self.client.transfer.transfer(request))
            if self.chance.random() < 0.5:
                self.client.images.delete(images.DeleteRequest(name=name))


def found(client, host):
    """All objects of workers as the daemon tells them, by key; those of pulls are not told."""
    state = {}
    for image in client.images.list(images.ListRequest()).images:
        if not image.name.startswith(host):
            state["image", image.name] = image.labels["v"]
    for lease in client.leases.list(leases.ListRequest()).leases:
        if lease.id.startswith("w"):  # not a pull's own
            state["lease", lease.id] = ""
    for container in client.containers.list(containers.ListRequest()).containers:
        state["container", container.id] = ""
    for block in client.snapshots.list(snapshots.ListRequest(snapshotter=SNAPSHOTTER)):
        state |= {("snapshot", info.name): info.kind.name for info in block.info if info.name.startswith("w")}
    blobs = {digests.of(f"w{w}-{n}".encode() * 500) for w in range(WORKERS) for n in range(OBJECTS)}
    for block in client.content.list(content.ListRequest()):
        state |= {("content", info.digest): str(info.size) for info in block.info if info.digest in blobs}
    return state


def fsck(daemon):
    """No fault but rubbish."""
    argv = [BIN / "holdd", "fsck", "--hash", "--quiet", "--root", daemon.root, "--config", daemon.config]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Wrong(f"fsck: {done.returncode}\n{done.stdout}{done.stderr}")


def load(daemon, model, chance, host, seconds):
    """All workers at work for a random time, then the daemon is killed."""
    with working(daemon, model, chance, host):
        time.sleep(seconds)
        if chance.random() < 0.2:
            fsck(daemon)


@contextlib.contextmanager
def working(daemon, model, chance, host):
    """All workers at work while the block runs, then the daemon is killed."""
    failures = []
    with daemon.client() as client:
        workers = [Worker(n, model, client, random.Random(chance.random()), host) for n in range(WORKERS)]

        def work(worker):
            try:
                worker.run()
            except Exception as exc:  # told by the main thread
                failures.append(exc)

        threads = [threading.Thread(target=work, args=(worker,)) for worker in workers]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            daemon.kill()
            for thread in threads:
                thread.join()
    if failures:
        raise Wrong(f"a client failed: {failures[0]!r}") from failures[0]


def chaos(directory, rounds, seed, say=lambda line: None):
    """Wrong when anything does; what was done."""
    chance = random.Random(seed)
    model = Model()
    with Fake() as fake, Daemon(directory, CONFIG) as daemon:
        for tag in range(3):
            fake.image(str(tag), {f"f{n}": os.urandom(20_000) for n in range(10)})
        for number in range(rounds):
            load(daemon, model, chance, fake.host, chance.uniform(0.02, 0.6))
            fsck(daemon)
            daemon.start()
            with daemon.client() as client:
                model.compare(found(client, fake.host))
            fsck(daemon)
            say(f"round {number + 1}: {model.acknowledged} changes acknowledged")
        daemon.kill()
        daemon.start()
        with daemon.client() as client:
            model.compare(found(client, fake.host))
    return {"rounds": rounds, "seed": seed, "acknowledged": model.acknowledged, "objects": len(model.states)}


if __name__ == "__main__":
    command.run(__doc__, chaos, rounds=200)
