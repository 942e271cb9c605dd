"""Durable records under 16 clients: container create + delete, snapshot prepare + remove."""

from spec import names
from spec.api import containers, snapshots
from spec.records import Container, RuntimeRef
from tests.bench.figures import Row, at_once

CLIENTS = 16
ROUNDS = 150
KEPT = {names.GC_ROOT: "bench"}  # or garbage collection takes it at once


def measure(daemon, peer):
    def churn_containers(number):
        with daemon.client() as client:
            for turn in range(ROUNDS):
                id = f"bench-{number}-{turn}"
                container = Container(id=id, runtime=RuntimeRef(name="runc"), spec=b'{"ociVersion":"1.0.2"}')
                client.containers.create(containers.CreateRequest(container=container))
                client.containers.delete(containers.DeleteRequest(id=id))
        return ROUNDS

    def churn_snapshots(number):
        with daemon.client() as client:
            for turn in range(ROUNDS):
                key = f"bench-{number}-{turn}"
                client.snapshots.prepare(snapshots.PrepareRequest(snapshotter="overlayfs", key=key, labels=KEPT))
                client.snapshots.remove(snapshots.RemoveRequest(snapshotter="overlayfs", key=key))
        return ROUNDS

    yield Row(
        "snapshot prepare + remove, 16 clients",
        f"{at_once(CLIENTS, churn_snapshots):.0f}/s",
        ">= 1,000/s",
        f"{at_once(CLIENTS, peer.churn_snapshots):.0f}/s containerd",
    )
    yield Row(
        "container create + delete, 16 clients",
        f"{at_once(CLIENTS, churn_containers):.0f}/s",
        ">= 2,000/s",
        f"{at_once(CLIENTS, peer.churn_containers):.0f}/s containerd",
    )
