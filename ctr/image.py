"""From an image's name to its config: the walk through index and manifest, over the API."""

from typing import NamedTuple

from daemon.client.client import Client
from spec import digest as digests
from spec import errors, platforms
from spec.api import content, images
from spec.oci import graph
from spec.oci.image import Descriptor, ImageConfig, Manifest
from spec.records import Image


class Resolved(NamedTuple):
    """An image as one platform sees it."""

    image: Image
    manifest: Manifest
    config: ImageConfig

    @property
    def chain_id(self) -> str:
        return digests.chain_id(self.config.rootfs.diff_ids)


def resolve(client: Client, name: str, platform: str = "") -> Resolved:
    """NotFound for an image that is not there, or has nothing for the platform."""
    image = client.images.get(images.GetRequest(name=name))
    matcher = platforms.only(platforms.parse(platform) if platform else platforms.default())
    descriptor = image.target
    if graph.is_index(descriptor.media_type):
        index = graph.index(descriptor, read(client, descriptor.digest))
        chosen = graph.choose(index, matcher)
        if not chosen:
            raise errors.NotFound(
                f"image {name} has nothing for platform {platform or platforms.format(platforms.default())};"
                f" it has {', '.join(graph.offered(index)) or 'none'}"
            )
        descriptor = chosen[0]
    manifest = graph.manifest(descriptor, read(client, descriptor.digest))
    return Resolved(image, manifest, graph.config(manifest.config, read(client, manifest.config.digest)))


def read(client: Client, digest: str) -> bytes:
    """A small blob, whole."""
    return b"".join(part.data for part in client.content.read(content.ReadRequest(digest=digest)))


def size(client: Client, target: Descriptor) -> int:
    """Bytes of an image's content for this host's platform."""
    total = target.size
    if graph.is_index(target.media_type):
        chosen = graph.choose(graph.index(target, read(client, target.digest)), platforms.only(platforms.default()))
        return total + (size(client, chosen[0]) if chosen else 0)
    manifest = graph.manifest(target, read(client, target.digest))
    return total + manifest.config.size + sum(layer.size for layer in manifest.layers)


def offered(client: Client, target: Descriptor) -> list[str]:
    """Platforms of an image, as text."""
    if graph.is_index(target.media_type):
        return graph.offered(graph.index(target, read(client, target.digest)))
    manifest = graph.manifest(target, read(client, target.digest))
    config = graph.config(manifest.config, read(client, manifest.config.digest))
    return [platforms.format(graph.platform_of(config))]
