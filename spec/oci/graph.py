"""The graph of an image: an index points at manifests, a manifest at its config and layers. Pure: bytes in, values out.

A document is read as the kind its descriptor says, and refused when it could be read as another kind too
(CVE-2021-41190): two readers must never see two images in the same bytes.
"""

from collections.abc import Sequence
from typing import TypeVar

import msgspec

from spec import digest as digests
from spec import errors, platforms
from spec.names import GC_REF_CONTENT
from spec.oci import image
from spec.oci.image import Descriptor, ImageConfig, Index, Manifest, Platform

MAX_DOCUMENT = 4 << 20  # bytes of a manifest, index or config that will be read
MAX_SIZE = 1 << 50  # bytes a descriptor may claim

D = TypeVar("D", bound=msgspec.Struct)

_LAYERS = {
    image.OCI_LAYER: "",
    image.OCI_LAYER_GZIP: "gzip",
    image.OCI_LAYER_ZSTD: "zstd",
    image.DOCKER_LAYER: "unknown",
    image.DOCKER_LAYER_GZIP: "gzip",
    image.DOCKER_LAYER_ZSTD: "zstd",
    "application/vnd.oci.image.layer.nondistributable.v1.tar": "",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip": "gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd": "zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar": "unknown",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip": "gzip",
}


class _Kinds(msgspec.Struct, rename="camel"):
    """What tells the kinds of document apart."""

    media_type: str = ""
    manifests: msgspec.Raw | None = None
    layers: msgspec.Raw | None = None
    config: msgspec.Raw | None = None
    fs_layers: msgspec.Raw | None = None


def is_index(media_type: str) -> bool:
    return media_type in image.INDEX_TYPES


def is_manifest(media_type: str) -> bool:
    return media_type in image.MANIFEST_TYPES


def is_config(media_type: str) -> bool:
    return media_type in image.CONFIG_TYPES


def is_layer(media_type: str) -> bool:
    return media_type in _LAYERS


def is_distributable(media_type: str) -> bool:
    return ".nondistributable." not in media_type and ".foreign." not in media_type


def compression(media_type: str) -> str:
    """Of a layer: "gzip", "zstd", "" (none) or "unknown" (look at the bytes). Unimplemented for what is no layer."""
    if media_type not in _LAYERS:
        raise errors.Unimplemented(f"media type {media_type!r} is not a layer's")
    return _LAYERS[media_type]


def index(descriptor: Descriptor, body: bytes) -> Index:
    """The index in `body`; InvalidArgument names the descriptor's digest."""
    kinds = _kinds(descriptor, body, image.INDEX_TYPES)
    if kinds.layers is not None or kinds.config is not None:
        raise _bad(descriptor, "it says it is an index and has a manifest's layers or config")
    document = _decode(descriptor, body, Index)
    for child in document.manifests:
        _check(descriptor, child)
    return document


def manifest(descriptor: Descriptor, body: bytes) -> Manifest:
    """The manifest in `body`; InvalidArgument names the descriptor's digest."""
    kinds = _kinds(descriptor, body, image.MANIFEST_TYPES)
    if kinds.manifests is not None:
        raise _bad(descriptor, "it says it is a manifest and has an index's manifests")
    document = _decode(descriptor, body, Manifest)
    for child in (document.config, *document.layers):
        _check(descriptor, child)
    return document


def config(descriptor: Descriptor, body: bytes) -> ImageConfig:
    """The image config in `body`."""
    _bound(descriptor, body)
    document = _decode(descriptor, body, ImageConfig)
    for diff_id in document.rootfs.diff_ids:
        digests.check(diff_id)
    return document


def children(descriptor: Descriptor, body: bytes) -> list[Descriptor]:
    """What a document points at, in order: an index's manifests, or a manifest's config and then its layers."""
    if is_index(descriptor.media_type):
        return list(index(descriptor, body).manifests)
    if is_manifest(descriptor.media_type):
        document = manifest(descriptor, body)
        return [document.config, *document.layers]
    return []


def choose(document: Index, matcher: platforms.Matcher) -> list[Descriptor]:
    """Manifests that `matcher` takes, best first; ones that name no platform come last."""
    ranked = []
    for position, child in enumerate(document.manifests):
        if not (is_manifest(child.media_type) or is_index(child.media_type)):
            continue
        rank = len(document.manifests) + 1000 if child.platform is None else matcher.rank(child.platform)
        if rank is not None:
            ranked.append((rank, position, child))
    return [child for _, _, child in sorted(ranked, key=lambda entry: entry[:2])]


def offered(document: Index) -> list[str]:
    """Platforms of an index, as text."""
    return [platforms.format(child.platform) for child in document.manifests if child.platform is not None]


def platform_of(document: ImageConfig) -> Platform:
    """The platform that an image's config states."""
    return platforms.normalize(
        Platform(os=document.os, architecture=document.architecture, variant=document.variant)
    )


def child_labels(parent: Descriptor, descriptors: Sequence[Descriptor]) -> dict[str, str]:
    """Labels that keep `descriptors` for as long as `parent` is kept."""
    labels: dict[str, str] = {}
    counts: dict[str, int] = {}
    for child in descriptors:
        if is_config(child.media_type) or (is_manifest(parent.media_type) and child is descriptors[0]):
            labels[f"{GC_REF_CONTENT}.config"] = child.digest
            continue
        letter = "m." if is_manifest(child.media_type) or is_index(child.media_type) else "l."
        prefix = letter if letter == "m." or is_layer(child.media_type) else ""
        number = counts.get(prefix, 0)
        counts[prefix] = number + 1
        labels[f"{GC_REF_CONTENT}.{prefix}{number}"] = child.digest
    return labels


def _kinds(descriptor: Descriptor, body: bytes, types: frozenset[str]) -> _Kinds:
    _bound(descriptor, body)
    kinds = _decode(descriptor, body, _Kinds)
    if kinds.fs_layers is not None:
        raise _bad(descriptor, "it is a schema 1 manifest, which is not supported")
    if kinds.media_type and kinds.media_type not in types:
        raise _bad(descriptor, f"it says it is {kinds.media_type!r}, its descriptor {descriptor.media_type!r}")
    return kinds


def _bound(descriptor: Descriptor, body: bytes) -> None:
    if len(body) > MAX_DOCUMENT:
        raise _bad(descriptor, f"it is longer than {MAX_DOCUMENT} bytes")


def _decode(descriptor: Descriptor, body: bytes, kind: type[D]) -> D:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
        raise _bad(descriptor, str(exc)) from exc


def _check(parent: Descriptor, child: Descriptor) -> None:
    try:
        digests.check(child.digest)
    except errors.InvalidArgument as exc:
        raise _bad(parent, exc.message) from exc
    if not 0 <= child.size <= MAX_SIZE:
        raise _bad(parent, f"{child.digest} has the size {child.size}")


def _bad(descriptor: Descriptor, why: str) -> errors.InvalidArgument:
    return errors.InvalidArgument(f"reading {descriptor.media_type or 'document'} {descriptor.digest}: {why}")
