"""The components that come with holdd: a table, so that nothing is imported before it is wanted.

A new snapshotter is one file and one row here.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Row(NamedTuple):
    """One component: its plugin type and id, `module:Class`, and the types it is handed instances of."""

    type: str
    id: str
    target: str
    requires: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()

    @property
    def uri(self) -> str:
        """How configuration names it: `type.id`."""
        return f"{self.type}.{self.id}"


RING = "io.holdd.ring.v1"
EVENT = "io.holdd.event.v1"
METADATA = "io.holdd.metadata.v1"
CONTENT = "io.holdd.content.v1"
SNAPSHOTTER = "io.holdd.snapshotter.v1"
DIFFER = "io.holdd.differ.v1"
RUNTIME = "io.holdd.runtime.v1"
GC = "io.holdd.gc.v1"
RESTART = "io.holdd.restart.v1"
METRICS = "io.holdd.metrics.v1"
VERIFIER = "io.holdd.image-verifier.v1"
RESOLVER = "io.holdd.resolver.v1"
SERVICE = "io.holdd.service.v1"

ROWS = (
    Row(METADATA, "lmdb", "daemon.metadata.store:Store"),
    Row(RING, "local", "daemon.events.ring:Ring"),
    Row(EVENT, "exchange", "daemon.events.exchange:Exchange", (RING,)),
    Row(CONTENT, "local", "daemon.content.local:LocalContent"),
    Row(SNAPSHOTTER, "overlayfs", "daemon.snapshots.overlay:Overlay", (METADATA,)),
    Row(SNAPSHOTTER, "native", "daemon.snapshots.native:Native", (METADATA,)),
    Row(SNAPSHOTTER, "aufs", "daemon.snapshots.aufs:Aufs", (METADATA,)),
    Row(SNAPSHOTTER, "btrfs", "daemon.snapshots.btrfs:Btrfs", (METADATA,)),
    Row(DIFFER, "walking", "daemon.diff.walking:WalkingDiffer", (CONTENT,)),
    Row(RUNTIME, "tasks", "daemon.runtime.tasks:Tasks", (EVENT,)),
    Row(METRICS, "cgroups", "daemon.metrics.cgroups:Cgroups"),
    Row(METRICS, "containers", "daemon.metrics.catalog:Containers", (METRICS, RUNTIME)),
    Row(METRICS, "otlp", "daemon.metrics.otlp:Exporter"),
    Row(METRICS, "calls", "daemon.metrics.calls:Calls"),
    Row(RESOLVER, "registry", "daemon.images.resolver:RegistryResolver"),
    Row(VERIFIER, "bindir", "daemon.images.verifiers:BinDir"),
    Row(RESOLVER, "archive", "daemon.images.archive:Archive"),
    Row(GC, "scheduler", "daemon.gc.scheduler:Scheduler", (METADATA, CONTENT, SNAPSHOTTER)),
    Row(SERVICE, "version", "daemon.services.version:Version"),
    Row(SERVICE, "leases", "daemon.services.leases:Leases", (METADATA, GC)),
    Row(SERVICE, "namespaces", "daemon.services.namespaces:Namespaces", (METADATA, EVENT)),
    Row(SERVICE, "images", "daemon.services.images:Images", (METADATA, EVENT, CONTENT, SNAPSHOTTER, DIFFER)),
    Row(SERVICE, "containers", "daemon.services.containers:Containers", (METADATA, EVENT)),
    Row(SERVICE, "content", "daemon.services.content:Content", (METADATA, CONTENT)),
    Row(SERVICE, "snapshots", "daemon.services.snapshots:Snapshots", (METADATA, SNAPSHOTTER)),
    Row(SERVICE, "tasks", "daemon.services.tasks:Tasks", (METADATA, RUNTIME, SNAPSHOTTER, METRICS)),
    Row(SERVICE, "diff", "daemon.services.diff:Diff", (CONTENT, DIFFER)),
    Row(SERVICE, "events", "daemon.services.events:Events", (EVENT,)),
    Row(SERVICE, "introspection", "daemon.services.introspection:Introspection"),
    Row(SERVICE, "transfer", "daemon.services.transfer:Transfer", (CONTENT, SNAPSHOTTER, DIFFER, RESOLVER)),
    Row(RESTART, "monitor", "daemon.restart.monitor:Monitor", (SERVICE, EVENT)),
)

# What a proxy plugin of each type is made of: not imported where there is none.
_PROXIES = (
    Row(SNAPSHOTTER, "snapshot", "daemon.proxy:ProxySnapshotter"),
    Row(CONTENT, "content", "daemon.proxy:ProxyContent"),
    Row(DIFFER, "diff", "daemon.proxy:ProxyDiffer"),
)


def proxied(types: Mapping[str, str]) -> tuple[Row, ...]:
    """Rows of the proxy plugins that are configured, as if they came with holdd: by name, the type in short or in
    full."""
    made = {word: row for row in _PROXIES for word in (row.id, row.type)}
    return tuple(made[type]._replace(id=name) for name, type in types.items())
