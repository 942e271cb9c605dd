"""From an image's name to its documents: the walk through index and manifest, over the API."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from daemon.client.client import Client
from spec import digest as digests
from spec import errors, platforms
from spec.api import content, images, snapshots, transfer
from spec.oci import graph
from spec.oci.image import Descriptor, ImageConfig, Manifest
from spec.records import Image
from spec.types import Progress


class Resolved(NamedTuple):
    """An image as one platform sees it."""

    image: Image
    descriptor: Descriptor
    manifest: Manifest
    config: ImageConfig

    @property
    def chain_id(self) -> str:
        return digests.chain_id(self.config.rootfs.diff_ids)

    @property
    def chain_ids(self) -> list[str]:
        return digests.chain_ids(self.config.rootfs.diff_ids)


class Measured(NamedTuple):
    """Bytes of an image's content for this host's platform, and the platforms it has, as text."""

    size: int
    offered: Sequence[str]


def every(client: Client, filters: Sequence[str] = ()) -> Iterator[Image]:
    """All that match, as they come."""
    for block in client.images.list_stream(images.ListRequest(filters=filters)):
        yield from block.images


def resolve(client: Client, name: str, platform: str = "") -> Resolved:
    """NotFound for an image that is not there, or has nothing for the platform."""
    return look(client, client.images.get(images.GetRequest(name=name)), platform)


def look(client: Client, image: Image, platform: str = "") -> Resolved:
    """As `resolve`, of what a record says, whether or not it is stored."""
    name, descriptor = image.name, image.target
    if graph.is_index(descriptor.media_type):
        index = graph.index(descriptor, read(client, descriptor.digest))
        chosen = graph.choose(index, matcher(platform))
        if not chosen:
            raise errors.NotFound(
                f"image {name} has nothing for platform {platform or platforms.format(platforms.default())};"
                f" it has {', '.join(graph.offered(index)) or 'none'}"
            )
        descriptor = chosen[0]
    manifest = graph.manifest(descriptor, read(client, descriptor.digest))
    config = graph.config(manifest.config, read(client, manifest.config.digest))
    return Resolved(image, descriptor, manifest, config)


def matcher(platform: str = "") -> platforms.Matcher:
    """Of a platform as text, "" for the host's."""
    return platforms.only(platforms.parse(platform) if platform else platforms.default())


def read(client: Client, digest: str) -> bytes:
    """A small blob, whole."""
    return b"".join(part.data for part in client.content.read(content.ReadRequest(digest=digest)))


def has(client: Client, digest: str) -> bool:
    try:
        client.content.info(content.InfoRequest(digest=digest))
    except errors.NotFound:
        return False
    return True


def measure(client: Client, target: Descriptor) -> Measured:
    """Each document is read once."""
    if graph.is_index(target.media_type):
        index = graph.index(target, read(client, target.digest))
        chosen = graph.choose(index, matcher())
        below = measure(client, chosen[0]).size if chosen else 0
        return Measured(target.size + below, graph.offered(index))
    manifest = graph.manifest(target, read(client, target.digest))
    size = target.size + manifest.config.size + sum(layer.size for layer in manifest.layers)
    config = graph.config(manifest.config, read(client, manifest.config.digest))
    return Measured(size, [platforms.format(graph.platform_of(config))])


def needed(client: Client, target: Descriptor, platform: str = "") -> Iterator[tuple[Descriptor, bool]]:
    """What an image must have for a platform, top down, and whether it is here; what is below a document that is not
    here, nobody knows."""
    here = has(client, target.digest)
    yield target, here
    if not here:
        return
    if graph.is_index(target.media_type):
        for chosen in graph.choose(graph.index(target, read(client, target.digest)), matcher(platform))[:1]:
            yield from needed(client, chosen, platform)
    elif graph.is_manifest(target.media_type):
        for child in graph.children(target, read(client, target.digest)):
            yield child, has(client, child.digest)


def is_unpacked(client: Client, snapshotter: str, chain_id: str) -> bool:
    if not chain_id:
        return True
    try:
        client.snapshots.stat(snapshots.StatRequest(snapshotter=snapshotter, key=chain_id))
    except errors.NotFound:
        return False
    return True


def into(
    snapshotter: str, wanted: Sequence[str] = (), labels: Mapping[str, str] = {}
) -> Sequence[transfer.Unpack]:
    """What asks for each of the platforms that are wanted, or the host's, to be unpacked; snapshots get `labels`."""
    return [
        transfer.Unpack(platform=platform, snapshotter=snapshotter, labels=dict(labels)) for platform in wanted or [""]
    ]


def unpack(client: Client, name: str, snapshotter: str, wanted: Sequence[str] = ()) -> Iterator[Progress]:
    """Make an image's snapshots of what the content store has, for the platforms `wanted`; none is the host's."""
    unpacks = into(snapshotter, wanted)
    request = transfer.TransferRequest(
        source=transfer.ImageStore(name=name), destination=transfer.ImageStore(name=name, unpacks=unpacks)
    )
    return client.transfer.transfer(request)
