"""Containers for tests: a busybox root filesystem, and tasks made through the API."""

from pathlib import Path

from spec.api import containers, tasks
from spec.oci import build
from spec.records import Container, RuntimeRef
from spec.types import Mount, Stdio

APPLETS = ("sh", "true", "false", "sleep", "echo", "cat", "ps", "id", "ls", "env", "kill", "seq", "touch", "stty")


def busybox(directory):
    """A root filesystem of one static busybox below `directory`, and the mount that shows it."""
    root = Path(directory, "rootfs")
    for name in ("bin", "proc", "dev", "sys", "etc", "tmp", "run"):
        (root / name).mkdir(parents=True, exist_ok=True)
    binary = root / "bin/busybox"
    if not binary.exists():
        binary.write_bytes(Path("/bin/busybox").read_bytes())
        binary.chmod(0o755)
        for name in APPLETS:
            (root / "bin" / name).symlink_to("busybox")
        (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/:/bin/false\n")
        (root / "etc/group").write_text("root:x:0:\ndaemon:x:1:\nwheel:x:10:root\n")
    return Mount(type="bind", source=str(root), options=("rbind", "rw"))


def container(client, id, *args, runtime="runc", namespace="default", memory=0):
    """A container record that runs `args`, in `memory` bytes if that is given."""
    spec = build.with_args(build.default_spec(namespace, id), args)
    if memory:
        spec = build.with_memory_limit(spec, memory)
    record = Container(id=id, runtime=RuntimeRef(name=runtime), spec=build.encode(spec))
    return client.containers.create(containers.CreateRequest(container=record))


def started(client, id, rootfs, *args, stdio=Stdio(), fds=(), namespace="default"):
    """A container with a task that runs `args`; the task's pid."""
    container(client, id, *args, namespace=namespace)
    pid = client.tasks.create(tasks.CreateRequest(container_id=id, rootfs=(rootfs,), stdio=stdio), fds=fds).pid
    client.tasks.start(tasks.StartRequest(container_id=id))
    return pid


def ended(client, id):
    """Wait for a task, delete it and its container; its exit status."""
    status = client.tasks.wait(tasks.WaitRequest(container_id=id)).exit_status
    assert client.tasks.delete(tasks.DeleteRequest(container_id=id)).exit_status == status
    client.containers.delete(containers.DeleteRequest(id=id))
    return status
