"""Run a program of a pulled image, with a pipe for its output: python run.py ADDRESS REFERENCE ID PROGRAM ..."""

import contextlib
import os
import sys

from daemon.client import connect
from daemon.client.client import Client
from spec import digest, errors, platforms
from spec.api import containers, content, images, snapshots, tasks
from spec.oci import build, graph
from spec.oci.image import ImageConfig
from spec.records import Container, RuntimeRef
from spec.types import Stdio


def config_of(client: Client, name: str) -> ImageConfig:
    """The image's configuration for this host."""

    def read(digest: str) -> bytes:
        return b"".join(part.data for part in client.content.read(content.ReadRequest(digest=digest)))

    target = client.images.get(images.GetRequest(name=name)).target
    if graph.is_index(target.media_type):
        (target, *_) = graph.choose(graph.index(target, read(target.digest)), platforms.only(platforms.default()))
    config = graph.manifest(target, read(target.digest)).config
    return graph.config(config, read(config.digest))


def main(address: str, reference: str, id: str, *args: str) -> int:
    with connect(address, namespace="default") as client, contextlib.ExitStack() as undo:
        config = config_of(client, reference)
        spec = build.with_image(build.default_spec("default", id), config, args)
        record = Container(
            id=id,
            image=reference,
            runtime=RuntimeRef(name="runc"),
            spec=build.encode(spec),
            snapshotter="overlayfs",
            snapshot_key=id,
        )
        # The record first: it keeps the snapshot from being collected.
        client.containers.create(containers.CreateRequest(container=record))
        undo.callback(client.containers.delete, containers.DeleteRequest(id=id))
        parent = digest.chain_id(config.rootfs.diff_ids)
        client.snapshots.prepare(snapshots.PrepareRequest(snapshotter="overlayfs", key=id, parent=parent))
        undo.callback(client.snapshots.remove, snapshots.RemoveRequest(snapshotter="overlayfs", key=id))

        reading, writing = os.pipe()
        with open(reading, "rb") as output:
            try:  # fd://0 is the first descriptor that goes with the request; nobody copies what is written to it
                request = tasks.CreateRequest(container_id=id, stdio=Stdio(stdout="fd://0", stderr="fd://0"))
                client.tasks.create(request, fds=[writing])
            finally:
                os.close(writing)
            undo.callback(ended, client, id)
            client.tasks.start(tasks.StartRequest(container_id=id))
            for line in output:
                print(f"{id}: {line.decode().rstrip()}")
        return client.tasks.wait(tasks.WaitRequest(container_id=id)).exit_status


def ended(client: Client, id: str) -> None:
    """Delete the task, which may still run if we come here by an error."""
    with contextlib.suppress(errors.NotFound, errors.FailedPrecondition):
        client.tasks.kill(tasks.KillRequest(container_id=id, signal=9))
    client.tasks.wait(tasks.WaitRequest(container_id=id))
    client.tasks.delete(tasks.DeleteRequest(container_id=id))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
