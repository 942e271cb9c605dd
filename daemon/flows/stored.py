"""Images that the content store has: their documents, and the journey from there to snapshots. Over ports only."""

import contextlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from daemon.flows.arrival import stored
from daemon.flows.progress import Report
from daemon.flows.pull import Target
from daemon.kit.cancel import Token
from spec import errors, names, platforms
from spec.oci import graph
from spec.oci.image import Descriptor, ImageConfig, Manifest
from spec.ports import ContentStore, ProgressSink
from spec.records import ContentInfo, Labels


@dataclass(frozen=True)
class Stored:
    """What one platform's image says of itself."""

    descriptor: Descriptor
    manifest: Manifest
    config: ImageConfig


def document(content: ContentStore, descriptor: Descriptor) -> bytes:
    """A small blob, whole. NotFound."""
    with content.reader(descriptor.digest) as reader:
        return reader.pread(graph.MAX_DOCUMENT + 1, 0)


def has(content: ContentStore, descriptor: Descriptor) -> bool:
    try:
        content.info(descriptor.digest)
    except errors.NotFound:
        return False
    return True


def keep(content: ContentStore, descriptor: Descriptor, body: bytes, labels: Labels) -> None:
    """Have a small blob there, with these labels besides those it may have."""
    with contextlib.suppress(errors.AlreadyExists):
        ref = f"document-{descriptor.digest}-{secrets.token_hex(4)}"
        with content.writer(ref, len(body), descriptor.digest) as writer:
            writer.write(body[writer.status().offset :])
            writer.commit(len(body), descriptor.digest, labels)
        return
    content.update(ContentInfo(digest=descriptor.digest, labels=labels), [f"labels.{key}" for key in labels])


def find(content: ContentStore, name: str, target: Descriptor, matcher: platforms.Matcher) -> Stored:
    """The image that `matcher` chooses of what `target` points at. NotFound when it has none, or a document is not
    here; `name` is the image's, for errors."""
    descriptor = target
    for _ in range(graph.MAX_DEPTH):
        body = document(content, descriptor)
        if not graph.is_index(descriptor.media_type):
            break
        index = graph.index(descriptor, body)
        chosen = graph.choose(index, matcher)
        if not chosen:
            raise errors.NotFound(
                f"image {name} has nothing for the platform; it has {', '.join(graph.offered(index)) or 'none'}"
            )
        descriptor = chosen[0]
    manifest = graph.manifest(descriptor, body)
    if not graph.is_config(manifest.config.media_type):
        raise errors.Unimplemented(f"image {name}: its config is {manifest.config.media_type!r}, it has no snapshots")
    config = graph.config(manifest.config, document(content, manifest.config))
    if len(manifest.layers) != len(config.rootfs.diff_ids):
        raise errors.InvalidArgument(
            f"manifest {descriptor.digest} has {len(manifest.layers)} layers, its config"
            f" {len(config.rootfs.diff_ids)} diff ids"
        )
    return Stored(descriptor, manifest, config)


@dataclass(frozen=True)
class Unpacking:
    """The snapshots of an image that is here already, for each of `targets`."""

    name: str
    target: Descriptor
    content: ContentStore
    targets: Sequence[Target]
    sink: ProgressSink
    cancel: Token

    def run(self) -> None:
        report = Report(self.sink, self.name)
        for target in self.targets:
            image = find(self.content, self.name, self.target, target.matcher)
            for layer in image.manifest.layers:
                if not graph.is_layer(layer.media_type):
                    raise errors.Unimplemented(
                        f"unpacking {self.name}: layer {layer.digest} is {layer.media_type!r}, which is not supported"
                    )
            arrivals = {layer.digest: stored(layer, self.content) for layer in image.manifest.layers}
            chain_id = target.unpacker.unpack(
                image.manifest.layers, image.config.rootfs.diff_ids, arrivals, report, self.cancel, self.name
            )
            label = f"{names.GC_REF_SNAPSHOT}.{target.unpacker.name}"
            config = ContentInfo(digest=image.manifest.config.digest, labels={label: chain_id})
            self.content.update(config, [f"labels.{label}"])
        report.tell("unpacked", self.target.digest)