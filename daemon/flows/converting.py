"""Conversion: the same image in another form. Its configs stay, so diff ids and snapshots do. Over ports only.

Documents are edited, not made anew: what is not known here stays as it is. Where nothing changes, nothing is written.
"""

import json
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from msgspec.structs import replace

from daemon.flows import together
from daemon.flows.progress import Report
from daemon.flows.stored import document, keep
from daemon.kit.cancel import Token
from spec import digest as digests
from spec import errors, platforms
from spec.oci import conversion, graph
from spec.oci.image import Descriptor, Manifest
from spec.ports import ContentStore, LayerConverter, ProgressSink

OF_ANOTHER = "vnd.docker.reference.digest"  # annotation of an attestation: the manifest that it is about
# Annotations that say how one blob is compressed, not what is in it.
OF_BYTES = ("containerd.io/snapshot/stargz/", "io.containers.zstd-chunked.", "io.github.containers.zstd-chunked.")


@dataclass(frozen=True)
class Convert:
    """What `target`, the image `name`, becomes.

    Of an index stays what `matchers` choose, each one's best (none: all); `wanted` names the platforms in errors.
    `compression` is gzip, zstd, uncompressed, or "" for leaving it; `oci` makes Docker's media types OCI's. `pool`
    converts layers side by side. Layers that may not be redistributed keep their bytes; attestations of a manifest that
    changes are left out.
    """

    name: str
    target: Descriptor
    content: ContentStore
    converter: LayerConverter
    matchers: Sequence[platforms.Matcher]
    wanted: str
    compression: str
    oci: bool
    pool: Executor
    sink: ProgressSink
    cancel: Token
    _known: dict[str, Descriptor] = field(default_factory=dict)

    def run(self) -> Descriptor:
        if self.compression not in ("", "gzip", "zstd", "uncompressed"):
            raise errors.InvalidArgument(
                f"converting {self.name}: {self.compression[:50]!r} is not gzip, zstd or uncompressed"
            )
        report = Report(self.sink, self.name)
        report.tell("Converting", self.target.digest)
        made = self._converted(self.target, report, 0)
        report.tell("Completed conversion", made.digest)
        return made

    def _converted(self, descriptor: Descriptor, report: Report, depth: int) -> Descriptor:
        self.cancel.check()
        if depth > graph.MAX_DEPTH:
            raise errors.InvalidArgument(f"converting {self.name}: it is more than {graph.MAX_DEPTH} documents deep")
        if descriptor.digest not in self._known:
            made = descriptor
            if graph.is_index(descriptor.media_type):
                made = self._index(descriptor, report, depth)
            elif graph.is_manifest(descriptor.media_type):
                made = self._manifest(descriptor, report)
            self._known[descriptor.digest] = made
        made = self._known[descriptor.digest]
        return replace(descriptor, media_type=made.media_type, digest=made.digest, size=made.size)

    def _index(self, descriptor: Descriptor, report: Report, depth: int) -> Descriptor:
        body = self._document(descriptor)
        index = graph.index(descriptor, body)
        kept = {one.digest for one in index.manifests}
        if self.matchers:
            kept = set(graph.select(index, self.matchers, self.wanted, f"converting {self.name}"))
        made = [self._converted(one, report, depth + 1) if one.digest in kept else one for one in index.manifests]
        changed = {old.digest for old, new in zip(index.manifests, made, strict=True) if new.digest != old.digest}
        kept -= {one.digest for one in index.manifests if one.annotations.get(OF_ANOTHER) in changed}
        tree = json.loads(body)
        entries = tree.get("manifests") or ()
        left = [one for one in zip(entries, index.manifests, made, strict=True) if one[1].digest in kept]
        tree["manifests"] = [_edited(entry, old, new) for entry, old, new in left]
        return self._kept(descriptor, body, tree, [new for _, _, new in left])

    def _manifest(self, descriptor: Descriptor, report: Report) -> Descriptor:
        body = self._document(descriptor)
        manifest = graph.manifest(descriptor, body)
        if not graph.is_config(manifest.config.media_type):
            return descriptor  # no image: its layers may be anything
        config = replace(
            manifest.config, media_type=conversion.document_type(manifest.config.media_type, self.oci)
        )
        layers = self._layers(descriptor, manifest, report)
        tree = json.loads(body)
        tree["config"] = _edited(tree["config"], manifest.config, config)
        if layers:
            changes = zip(tree["layers"], manifest.layers, layers, strict=True)
            tree["layers"] = [_edited(entry, old, new) for entry, old, new in changes]
        return self._kept(descriptor, body, tree, [config, *layers])

    def _layers(self, descriptor: Descriptor, manifest: Manifest, report: Report) -> Sequence[Descriptor]:
        diff_ids = graph.config(manifest.config, self._document(manifest.config)).rootfs.diff_ids
        if len(diff_ids) != len(manifest.layers):
            raise errors.InvalidArgument(
                f"manifest {descriptor.digest} has {len(manifest.layers)} layers, its config {len(diff_ids)} diff ids"
            )
        cancel = self.cancel.child()
        parts = [
            partial(self._layer, layer, diff_id, report, cancel)
            for layer, diff_id in zip(manifest.layers, diff_ids, strict=True)
        ]
        return together.run(self.pool, parts, cancel, lambda: None, "conversion")

    def _layer(self, layer: Descriptor, diff_id: str, report: Report, cancel: Token) -> Descriptor:
        if not graph.is_layer(layer.media_type) or not (self.compression or self.oci):
            return layer
        now = graph.compression(layer.media_type)
        if now == "unknown":
            now = self.converter.compression(layer)
        wanted = now
        if self.compression and graph.is_distributable(layer.media_type):
            wanted = "" if self.compression == "uncompressed" else self.compression
        media_type = conversion.layer_type(layer.media_type, wanted, self.oci)
        if wanted == now:
            return replace(layer, media_type=media_type)
        report.tell_part("converting", layer.digest, 0, layer.size)
        made = self.converter.convert(layer, wanted, diff_id, cancel)
        report.tell_part("converted", layer.digest, made.size, made.size, made.digest)
        annotations = {key: value for key, value in layer.annotations.items() if not key.startswith(OF_BYTES)}
        return Descriptor(media_type=media_type, digest=made.digest, size=made.size, annotations=annotations)

    def _kept(
        self, descriptor: Descriptor, body: bytes, tree: dict[str, Any], children: Sequence[Descriptor]
    ) -> Descriptor:
        """The document in its new form; as it was where that says the same."""
        media_type = conversion.document_type(descriptor.media_type, self.oci)
        if "mediaType" in tree:
            tree["mediaType"] = media_type
        if tree == json.loads(body):
            return replace(descriptor, media_type=media_type)
        made = json.dumps(tree, separators=(",", ":"), ensure_ascii=False).encode()
        new = Descriptor(media_type=media_type, digest=digests.of(made), size=len(made))
        keep(self.content, new, made, graph.child_labels(new, children))
        return new

    def _document(self, descriptor: Descriptor) -> bytes:
        try:
            return document(self.content, descriptor)
        except errors.NotFound as exc:
            raise errors.NotFound(
                f"converting {self.name}: {descriptor.digest} is not here; pull all platforms, or convert one of them"
            ) from exc


def _edited(entry: dict[str, Any], old: Descriptor, new: Descriptor) -> dict[str, Any]:
    """A descriptor as it stands in a document, in its new form."""
    if old == new:
        return entry
    edited = {**entry, "mediaType": new.media_type, "digest": new.digest, "size": new.size}
    if old.digest != new.digest:
        for name in ("data", "urls"):
            edited.pop(name, None)
        if "annotations" in edited:
            edited["annotations"] = new.annotations
    return edited
