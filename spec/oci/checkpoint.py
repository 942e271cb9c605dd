"""Images of checkpoints: an index of the parts of a container, as containerd's client makes it. Pure.

    index                                   annotations: the image's name, runtime and snapshotter
      the container's image                 manifest or index, with all that is below it
      ...criu.checkpoint.criu.tar           CRIU's images of its processes
      ...checkpoint.config.v1+json          its OCI runtime spec
      ...checkpoint.runtime.options+msgpack `spec.records.RuntimeOptions`
      an OCI layer                          what it wrote to its root filesystem
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from spec import errors
from spec.base import to_json
from spec.names import GC_REF_CONTENT, REF_NAME
from spec.oci import graph
from spec.oci.image import OCI_INDEX, Descriptor, Index

_PREFIX = "application/vnd.containerd.container."
CRIU = f"{_PREFIX}criu.checkpoint.criu.tar"
SPEC = f"{_PREFIX}checkpoint.config.v1+json"
RUNTIME_OPTIONS = f"{_PREFIX}checkpoint.runtime.options+msgpack"

LABEL = "containerd.io/checkpoint"  # "true" of an image of a checkpoint
IMAGE_NAME = "image.name"
RUNTIME_NAME = "io.containerd.checkpoint.runtime"
SNAPSHOTTER_NAME = "io.containerd.checkpoint.snapshotter"
DROPPED = ("cdi.k8s.io",)  # annotations that would ask for devices once more (GHSA-33vj-92qq-66hc)


class Parts(NamedTuple):
    """What there is of a checkpoint; a part that was not asked for is None. `image` and the other names are what
    whoever made it says."""

    image_name: str
    runtime: str
    snapshotter: str
    spec: Descriptor | None = None
    options: Descriptor | None = None
    image: Descriptor | None = None
    criu: Descriptor | None = None
    rw: Descriptor | None = None

    @property
    def given(self) -> Sequence[Descriptor]:
        return [part for part in self[3:] if isinstance(part, Descriptor)]


def index(parts: Parts, name: str) -> bytes:
    """The document."""
    said = {
        REF_NAME: name,
        IMAGE_NAME: parts.image_name,
        RUNTIME_NAME: parts.runtime,
        SNAPSHOTTER_NAME: parts.snapshotter,
    }
    annotations = {key: value for key, value in said.items() if value}
    return to_json(Index(schema_version=2, media_type=OCI_INDEX, manifests=parts.given, annotations=annotations))


def kept(parts: Parts) -> dict[str, str]:
    """Labels of the index's blob: it keeps all parts."""
    return {f"{GC_REF_CONTENT}.{number}": part.digest for number, part in enumerate(parts.given)}


def parts(target: Descriptor, document: bytes, name: str) -> Parts:
    """What the index of image `name` lists. InvalidArgument when it is no checkpoint, or has a part twice."""
    doing = f"reading checkpoint {name}"
    if not graph.is_index(target.media_type):
        raise errors.InvalidArgument(f"{doing}: it is no index")
    found = graph.index(target, document)
    given: dict[str, Descriptor] = {}
    for part in found.manifests:
        kind = _kind(part.media_type)
        if kind in given:
            raise errors.InvalidArgument(f"{doing}: it has two parts of media type {part.media_type}")
        if kind:
            given[kind] = part
    if "spec" not in given:
        raise errors.InvalidArgument(f"{doing}: it has no container's spec, and is no checkpoint")
    said = found.annotations.get
    return Parts(said(IMAGE_NAME, ""), said(RUNTIME_NAME, ""), said(SNAPSHOTTER_NAME, ""), **given)


def _kind(media_type: str) -> str:
    named = {CRIU: "criu", SPEC: "spec", RUNTIME_OPTIONS: "options"}.get(media_type, "")
    if named:
        return named
    if graph.is_index(media_type) or graph.is_manifest(media_type):
        return "image"
    return "rw" if graph.is_layer(media_type) else ""


def restored(spec: bytes, name: str, namespace: str, id: str) -> bytes:
    """The spec of checkpoint `name` for a container `id`: in a cgroup of that name, where it had one of its own, and
    without the annotations that ask for devices. InvalidArgument for what is no spec."""
    try:
        fields = msgspec.json.decode(spec, type=dict[str, msgspec.Raw])
        annotations = msgspec.json.decode(fields.get("annotations", b"null"), type=dict[str, str] | None) or {}
        linux = msgspec.json.decode(fields.get("linux", b"null"), type=dict[str, msgspec.Raw] | None) or {}
        path = msgspec.json.decode(linux.get("cgroupsPath", b'""'), type=str)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise errors.InvalidArgument(f"reading checkpoint {name}: its spec: {exc}") from exc
    changed: dict[str, object] = {**fields}
    if annotations:
        changed["annotations"] = _harmless(annotations)
    if re.fullmatch(r"/[^/]+/[^/]+", path):
        changed["linux"] = {**linux, "cgroupsPath": f"/{namespace}/{id}"}
    return to_json(changed)


def _harmless(annotations: Mapping[str, str]) -> dict[str, str]:
    return {
        key: value
        for key, value in annotations.items()
        if not any(key == prefix or key.startswith(f"{prefix}/") for prefix in DROPPED)
    }
