"""A runtime with real shims over a private state directory, and containers of one busybox for it."""

import asyncio
import json
import os
import shutil
import tempfile
import time
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import msgspec

from daemon.kit import mounting
from daemon.runtime.nursery import Nursery
from daemon.runtime.tasks import Tasks
from pyx import mount as mounts
from spec.base import pack
from spec.events import Envelope
from spec.records import RuntimeRef
from spec.types import Mount, Stdio
from tests import cgroups

NAMESPACE = "test"
MS_BIND, MS_PRIVATE, MNT_DETACH = 4096, 1 << 18, 2
APPLETS = ("sh", "true", "sleep", "echo", "cat", "id", "kill", "stty", "ls", "dd", "tail")
CAPS = ["CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_NET_BIND_SERVICE"]
NAMESPACES = ("pid", "ipc", "uts", "mount", "network")


class Published(list):
    """A Publisher that keeps (topic, event)."""

    def publish(self, namespace, topic, event):
        assert namespace == NAMESPACE
        self.append((topic, event))

    def topics(self, id=None):
        return [topic for topic, event in self if id is None or event.container_id == id]

    def of(self, topic):
        return [event for at, event in self if at == topic]

    def envelopes(self):
        return [
            Envelope(timestamp_ns=0, topic=topic, namespace=NAMESPACE, event=msgspec.Raw(pack(event)))
            for topic, event in self
        ]


@contextmanager
def private_state():
    """A directory that is a private mount, as the daemon's state directory is."""
    state = tempfile.mkdtemp(prefix="holdd-test-", dir="/run")
    mounts.mount(state, state, "", MS_BIND)
    mounts.mount("", state, "", MS_PRIVATE)
    try:
        yield state
    finally:
        mounts.umount2(state, MNT_DETACH)
        shutil.rmtree(state)


def busybox(directory):
    """A root filesystem with the usual users; the mount that shows it."""
    root = Path(directory, "rootfs")
    for name in ("bin", "proc", "dev", "sys", "etc", "tmp"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for name in APPLETS:
        (root / "bin" / name).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nguest:x:405:100:guest:/:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nwheel:x:10:root\nusers:x:100:games\naudio:x:18:guest\n")
    return root


def bind(root):
    return Mount(type="bind", source=str(root), options=("rbind", "rw"))


def process(*args, terminal=False, user=""):
    capabilities = dict.fromkeys(("bounding", "effective", "permitted"), CAPS)
    return {
        "terminal": terminal,
        "user": {"username": user} if user else {"uid": 0, "gid": 0},
        "args": list(args),
        "env": ["PATH=/bin"],
        "cwd": "/",
        "capabilities": capabilities,
        "noNewPrivileges": True,
    }


def spec(id, *args, terminal=False, user="", namespaces=NAMESPACES, **more):
    document = {
        "ociVersion": "1.0.2",
        "process": process(*args, terminal=terminal, user=user),
        "root": {"path": "rootfs"},
        "hostname": "box",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {
                "destination": "/dev",
                "type": "tmpfs",
                "source": "tmpfs",
                "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
            },
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
            },
        ],
        "linux": {
            "cgroupsPath": f"/holdd-test/{id}",
            "namespaces": [{"type": kind} for kind in namespaces],
            **more,
        },
    }
    return json.dumps(document).encode()


class Rig:
    """One daemon's worth of runtime over `state`."""

    def __init__(self, state, nursery, root, runtimes=None, cgroup_parent=""):
        self.state = state
        self.nursery = nursery
        self.root = root
        self.published = Published()
        self.runtimes = runtimes or {}
        self.cgroup_parent = cgroup_parent
        self.tasks = self.made()

    def made(self, recent=()):
        return Tasks(
            self.state,
            self.nursery,
            self.runtimes,
            self.published,
            mounting.detached,
            cgroup_parent=self.cgroup_parent,
            recent=lambda: recent,
        )

    async def restarted(self):
        """Another daemon in place of this one."""
        await self.tasks.close()
        recent = self.published.envelopes()
        self.published.clear()
        self.tasks = self.made(recent)
        await self.tasks.recover()

    async def create(self, id, *args, stdio=Stdio(), fds=(), runtime="", rootfs=None, **options):
        return await self.tasks.create(
            NAMESPACE,
            id,
            spec(id, *args, terminal=stdio.terminal, **options),
            (bind(self.root),) if rootfs is None else rootfs,
            stdio,
            RuntimeRef(name=runtime),
            fds,
        )

    async def run(self, id, *args, **options):
        task = await self.create(id, *args, **options)
        await task.start()
        return task

    async def delete(self, id):
        return await self.tasks.delete(NAMESPACE, id)

    async def end(self, id):
        task = self.tasks.get(NAMESPACE, id)
        await task.kill(9)
        await asyncio.wait_for(task.wait(), 10)
        return await self.delete(id)

    def remains(self):
        """What is left below the state directory."""
        return [str(path) for path in Path(self.state).rglob("*") if not path.is_dir() or path.name.startswith(".")]


@asynccontextmanager
async def rigged(nursery, **options):
    with private_state() as state, tempfile.TemporaryDirectory(prefix="holdd-test-") as directory:
        rig = Rig(state, nursery, busybox(directory), **options)
        try:
            yield rig
            left = rig.remains()
        finally:
            for task in list(rig.tasks.tasks()):
                try:
                    await rig.end(task.id)
                except Exception as exc:  # the test's own failure is what counts
                    print("cleaning up", task.id, exc)
            await rig.tasks.close()
            cgroups.remove("holdd-test")
        assert left == []


def lived(story, **options):
    """Run `story(rig)` over a nursery of its own."""

    async def whole():
        async with rigged(nursery, **options) as rig:
            await story(rig)

    nursery = Nursery.fork()
    try:
        asyncio.run(whole())
    finally:
        nursery.close()


def json_process(*args, **options):
    return json.dumps(process(*args, **options)).encode()


def exists(path):
    return Path(path).exists()


def text(path):
    return Path(path).read_text()


async def until(condition, seconds=10.0):
    """Poll for what another process brings about."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        await asyncio.sleep(0.005)


def read_all(fd):
    """Everything up to the end of a pipe; closes it."""
    with os.fdopen(fd, "rb") as file:
        return file.read()
