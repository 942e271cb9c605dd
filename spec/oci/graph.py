"""The graph of an image: an index points at manifests, a manifest at its config and layers. Pure: bytes in, values out.

A document is read as the kind its descriptor says, and refused when it could be read as another kind too
(CVE-2021-41190): two readers must never see two images in the same bytes. For the same reason a key may come once only,
and in no other spelling: some readers take the first of two, some the last, and some pass over the case of letters.
A null is as good as nothing there, which is how Go writes an empty list.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import msgspec

from spec import digest as digests
from spec import errors, platforms
from spec.names import GC_REF_CONTENT
from spec.oci import image
from spec.oci.image import Descriptor, ImageConfig, Index, Manifest, Platform

MAX_DOCUMENT = 4 << 20  # bytes of a manifest, index or config that will be read
MAX_SIZE = 1 << 50  # bytes a descriptor may claim
MAX_DEPTH = 16  # documents between the root of a walk and what it finds

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


def _spellings(*kinds: type[msgspec.Struct]) -> dict[str, str]:
    """The right spelling of each key, by what it folds to."""
    return {field.encode_name.casefold(): field.encode_name for kind in kinds for field in msgspec.structs.fields(kind)}


_DOCUMENT_KEYS = {**_spellings(Manifest, Index), "fslayers": "fsLayers"}
_DESCRIPTOR_KEYS = _spellings(Descriptor)
_PLATFORM_KEYS = _spellings(Platform)


def is_index(media_type: str) -> bool:
    return media_type in image.INDEX_TYPES


def is_manifest(media_type: str) -> bool:
    return media_type in image.MANIFEST_TYPES


def opens(media_type: str) -> bool:
    """Whether it points at others: a manifest or an index."""
    return is_manifest(media_type) or is_index(media_type)


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
    tree = _document(descriptor, body, image.INDEX_TYPES)
    if "layers" in tree or "config" in tree:
        raise _bad(descriptor, "it says it is an index and has a manifest's layers or config")
    document = _convert(descriptor, tree, Index)
    for child in (*document.manifests, *_subject(document)):
        _check(descriptor, child)
    return document


def manifest(descriptor: Descriptor, body: bytes) -> Manifest:
    """The manifest in `body`; InvalidArgument names the descriptor's digest."""
    tree = _document(descriptor, body, image.MANIFEST_TYPES)
    if "manifests" in tree:
        raise _bad(descriptor, "it says it is a manifest and has an index's manifests")
    document = _convert(descriptor, tree, Manifest)
    for child in (document.config, *document.layers, *_subject(document)):
        _check(descriptor, child)
    return document


def config(descriptor: Descriptor, body: bytes) -> ImageConfig:
    """The image config in `body`; InvalidArgument names the descriptor's digest."""
    document = _convert(descriptor, _parse(descriptor, body), ImageConfig)
    for diff_id in document.rootfs.diff_ids:
        try:
            digests.check(diff_id)
        except errors.InvalidArgument as exc:
            raise _bad(descriptor, exc.message) from exc
    return document


def children(descriptor: Descriptor, body: bytes) -> list[Descriptor]:
    """What a document points at, in order: an index's manifests, or a manifest's config and then its layers."""
    if is_index(descriptor.media_type):
        return list(index(descriptor, body).manifests)
    if is_manifest(descriptor.media_type):
        document = manifest(descriptor, body)
        return [document.config, *document.layers]
    return []


def walk(root: Descriptor, below: Callable[[Descriptor], Sequence[Descriptor]]) -> Iterator[Descriptor]:
    """`root` and all below it, each digest once: parents before children, depth first, in the order of the documents.

    `below` gives the children to follow, as `children` does, or fewer of them. InvalidArgument past MAX_DEPTH.
    """
    seen: set[str] = set()
    ahead = [(root, 0)]
    while ahead:
        descriptor, depth = ahead.pop()
        if descriptor.digest in seen:
            continue
        if depth > MAX_DEPTH:
            raise _bad(descriptor, f"it lies more than {MAX_DEPTH} documents below {root.digest}")
        seen.add(descriptor.digest)
        yield descriptor
        ahead += [(child, depth + 1) for child in reversed(below(descriptor))]


def choose(document: Index, matcher: platforms.Matcher) -> list[Descriptor]:
    """Manifests that `matcher` takes, best first; ones that name no platform come last.

    Between equals the one that uses more of the system's features is better, then the earlier one.
    """
    ranked = []
    for position, child in enumerate(document.manifests):
        if not opens(child.media_type):
            continue
        if child.platform is None:
            ranked.append(((1, 0, 0, position), child))
        elif (rank := matcher.rank(child.platform)) is not None:
            ranked.append(((0, rank, -len(child.platform.os_features), position), child))
    return [child for _, child in sorted(ranked, key=lambda entry: entry[0])]


def select(document: Index, matchers: Sequence[platforms.Matcher], wanted: str, doing: str) -> dict[str, Descriptor]:
    """The best for each of `matchers`, by digest. NotFound when one finds nothing: `wanted` names the platforms,
    `doing` what is being done to which image."""
    chosen = {}
    for matcher in matchers:
        best = choose(document, matcher)
        if not best:
            raise errors.NotFound(
                f"{doing}: it has nothing for {wanted}; it has {', '.join(offered(document)) or 'nothing'}"
            )
        chosen[best[0].digest] = best[0]
    return chosen


def offered(document: Index) -> list[str]:
    """Platforms of an index, as text."""
    return [platforms.format(child.platform) for child in document.manifests if child.platform is not None]


def platform_of(document: ImageConfig) -> Platform:
    """The platform that an image's config states."""
    return platforms.normalize(
        Platform(
            os=document.os,
            architecture=document.architecture,
            variant=document.variant,
            os_version=document.os_version,
            os_features=document.os_features,
        )
    )


def child_labels(parent: Descriptor, descriptors: Sequence[Descriptor]) -> dict[str, str]:
    """Labels that keep `descriptors` for as long as `parent` is kept."""
    labels: dict[str, str] = {}
    counts: dict[str, int] = {}
    for child in descriptors:
        first = is_manifest(parent.media_type) and child is descriptors[0] and not is_layer(child.media_type)
        if is_config(child.media_type) or first:
            labels[f"{GC_REF_CONTENT}.config"] = child.digest
            continue
        letter = "m." if opens(child.media_type) else "l."
        prefix = letter if letter == "m." or is_layer(child.media_type) else ""
        number = counts.get(prefix, 0)
        counts[prefix] = number + 1
        labels[f"{GC_REF_CONTENT}.{prefix}{number}"] = child.digest
    return labels


def _document(descriptor: Descriptor, body: bytes, types: frozenset[str]) -> dict[str, Any]:
    """A manifest or an index, as a tree of which no two readers can think differently."""
    tree = _parse(descriptor, body)
    _check_keys(descriptor, tree, _DOCUMENT_KEYS)
    if "fsLayers" in tree:
        raise _bad(descriptor, "it is a schema 1 manifest, which is not supported")
    stated = tree.get("mediaType", "")
    if stated and stated not in types:
        raise _bad(descriptor, f"it says it is {str(stated)[:200]!r}, its descriptor {descriptor.media_type!r}")
    for name in ("config", "subject", "layers", "manifests"):
        value = tree.get(name)
        for child in value if isinstance(value, list) else (value,):
            if isinstance(child, dict):
                _check_keys(descriptor, child, _DESCRIPTOR_KEYS)
                if isinstance(child.get("platform"), dict):
                    _check_keys(descriptor, child["platform"], _PLATFORM_KEYS)
    return tree


def _parse(descriptor: Descriptor, body: bytes) -> dict[str, Any]:
    """JSON of unique keys, without the nulls."""
    if len(body) > MAX_DOCUMENT:
        raise _bad(descriptor, f"it is longer than {MAX_DOCUMENT} bytes")
    try:
        tree = json.loads(body.decode(), object_pairs_hook=_object, parse_constant=_no_constant)
    except (ValueError, RecursionError) as exc:  # the decoders' errors are ValueErrors
        raise _bad(descriptor, str(exc)) from exc
    if not isinstance(tree, dict):
        raise _bad(descriptor, "it is not a JSON object")
    return tree


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a key comes twice in one object")
    return {key: value for key, value in pairs if value is not None}


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _check_keys(descriptor: Descriptor, tree: Mapping[str, Any], spellings: Mapping[str, str]) -> None:
    for key in tree:
        if spellings.get(key.casefold(), key) != key:
            raise _bad(descriptor, f"its key {key[:100]!r} can be taken for {spellings[key.casefold()]!r}")


def _convert(descriptor: Descriptor, tree: dict[str, Any], kind: type[D]) -> D:
    try:
        return msgspec.convert(tree, kind)
    except (msgspec.ValidationError, RecursionError) as exc:
        raise _bad(descriptor, str(exc)) from exc


def _subject(document: Index | Manifest) -> tuple[Descriptor, ...]:
    return () if document.subject is None else (document.subject,)


def _check(parent: Descriptor, child: Descriptor) -> None:
    try:
        digests.check(child.digest)
    except errors.InvalidArgument as exc:
        raise _bad(parent, exc.message) from exc
    if not 0 <= child.size <= MAX_SIZE:
        raise _bad(parent, f"{child.digest} has the size {child.size}")


def _bad(descriptor: Descriptor, why: str) -> errors.InvalidArgument:
    return errors.InvalidArgument(f"reading {descriptor.media_type or 'document'} {descriptor.digest}: {why}")
