"""What journeys are made of: the stores of a namespace, threads, and what pulls and unpacks with them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from daemon.flows.crew import Crew
from daemon.flows.pull import Pull, Target
from daemon.flows.unpack import Unpacker
from daemon.kit.cancel import Token
from daemon.kit.keylock import Once
from daemon.kit.threads import Pool
from daemon.scoped.images import ScopedImages
from daemon.scoped.leases import ScopedLeases
from spec import edges, platforms
from spec.api import transfer as api
from spec.oci.image import Descriptor
from spec.ports import (
    Applier,
    Cancel,
    ContentStore,
    ImageArchive,
    ImageVerifier,
    LayerConverter,
    ProgressSink,
    Registries,
    Resolver,
    Snapshotter,
)
from spec.records import Labels


class House(Protocol):
    """What a journey needs of the assembly."""

    def default_snapshotter(self, namespace: str) -> str: ...

    def content(self, namespace: str) -> ContentStore: ...

    def images(self, namespace: str) -> ScopedImages: ...

    def snapshotter(self, namespace: str, name: str) -> Snapshotter: ...

    def applier(self, content: ContentStore) -> Applier: ...

    def converter(self, content: ContentStore) -> LayerConverter: ...

    def resolver(self, source: api.Registry) -> Registries: ...

    def leases(self, namespace: str) -> ScopedLeases: ...

    def room(self, blobs: Sequence[Descriptor], doing: str) -> None: ...

    def verifiers(self) -> Sequence[ImageVerifier]: ...

    def archive(self, fd: int, cancel: Cancel, compress: bool) -> ImageArchive: ...


@dataclass(frozen=True)
class Tools:
    """`journeys` runs whole transfers, `downloads` and `uploads` their blobs, `crew` unpacks; with `sync` what it
    unpacked is durable before any record says so."""

    house: House
    journeys: Pool
    downloads: Pool
    uploads: Pool
    crew: Crew
    sync: bool = True
    once: "Once[None]" = field(default_factory=Once)

    def pull(
        self,
        namespace: str,
        ref: str,
        name: str,
        destination: api.ImageStore,
        resolver: Resolver,
        sink: ProgressSink,
        token: Token,
        origin: Labels,
    ) -> Pull:
        """Of what `resolver` finds under `ref`, into the image `name`; `origin` are labels of the blobs that come."""
        return Pull(
            reference=ref,
            name=name,
            resolver=resolver,
            content=self.house.content(namespace),
            images=self.house.images(namespace),
            targets=[self.target(namespace, unpack) for unpack in destination.unpacks],
            matchers=matchers(destination),
            wanted=" or ".join(wanted(destination)),
            pool=self.downloads.executor,
            once=self.once,
            scope=namespace,
            sink=sink,
            cancel=token,
            all_metadata=destination.all_metadata,
            metadata_only=destination.metadata_only,
            room=self.house.room,
            labels=destination.labels,
            origin=origin,
        )

    def target(self, namespace: str, unpack: api.Unpack) -> Target:
        """Where to unpack. InvalidArgument for a snapshotter or platform that is none."""
        name = unpack.snapshotter or self.house.default_snapshotter(namespace)
        applier = self.house.applier(self.house.content(namespace))
        snapshotter = self.house.snapshotter(namespace, name)
        keep = partial(self.house.leases(namespace).keep, edges.snapshot_kind(name))
        parts = (name, snapshotter, applier, self.once, namespace, self.crew, self.sync, keep, unpack.labels)
        unpacker = Unpacker(*parts)
        platform = platforms.parse(unpack.platform) if unpack.platform else platforms.default()
        return Target(unpacker=unpacker, matcher=platforms.only(platform))


def wanted(given: api.ImageStore | api.Archive) -> Sequence[str]:
    """The platforms that are, as text; none when all are."""
    if given.all_platforms:
        return ()
    return given.platforms or (platforms.format(platforms.default()),)


def matchers(given: api.ImageStore | api.Archive) -> Sequence[platforms.Matcher]:
    return [platforms.only(platforms.parse(text)) for text in wanted(given)]
