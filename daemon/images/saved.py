"""What `docker save` writes, read as an index of images: each of its manifests is made here, in Docker's form, of what
manifest.json says and the config and the layers are.

Two readings of one archive come to the same bytes. Paths are looked up among its members only.
"""

import hashlib
import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import Protocol

import msgspec
from msgspec.structs import replace

from daemon.images.folders import Folder, Part
from spec import digest as digests
from spec import errors, names, reference, wire
from spec.base import to_json
from spec.oci import graph, image, layout
from spec.oci.image import Descriptor, ImageConfig, Manifest
from spec.ports import Cancel

CHUNK = 1 << 20
DOING = "reading an archive"
_MAGIC = ((b"\x1f\x8b\x08", image.DOCKER_LAYER_GZIP), (b"\x28\xb5\x2f\xfd", image.DOCKER_LAYER_ZSTD))


class Compressor(Protocol):
    """To gzip."""

    def compress(self, data: bytes, /) -> bytes | memoryview: ...

    def flush(self) -> bytes: ...


class Saved:
    """`entries` are an index's, one for each name; `parts` opens what they mean, by digest.

    With `compressor` layers that are not compressed are, into files without a name below `directory`, which close with
    `held`.
    """

    def __init__(
        self,
        folder: Folder,
        body: bytes,
        directory: str,
        cancel: Cancel,
        held: ExitStack,
        compressor: Callable[[], Compressor] | None = None,
    ) -> None:
        self.entries: list[Descriptor] = []
        self.parts: dict[str, Callable[[], Part] | bytes] = {}
        self._folder = folder
        self._directory = directory
        self._cancel = cancel
        self._held = held
        self._compressor = compressor
        self._configs: dict[str, tuple[Descriptor, ImageConfig]] = {}
        self._layers: dict[tuple[str, str], Descriptor] = {}
        try:
            images = msgspec.json.decode(body, type=list[layout.Saved])
        except wire.UNREADABLE as exc:
            raise errors.InvalidArgument(f"{DOING}: its {layout.SAVED}: {exc}") from exc
        for one in images:
            self._add(one)

    def _add(self, one: layout.Saved) -> None:
        config, parsed = self._config(one.config)
        layers, diff_ids = one.layers or (), parsed.rootfs.diff_ids
        if len(layers) != len(diff_ids):
            raise errors.InvalidArgument(
                f"{DOING}: {one.config[:200]} has {len(diff_ids)} diff ids and, by {layout.SAVED}, {len(layers)} layers"
            )
        found = [self._layer(path, diff_id) for path, diff_id in zip(layers, diff_ids, strict=True)]
        manifest = Manifest(schema_version=2, media_type=image.DOCKER_MANIFEST, config=config, layers=found)
        body = to_json(manifest)
        digest = digests.of(body)
        self.parts[digest] = body
        platform = graph.platform_of(parsed)
        target = Descriptor(media_type=image.DOCKER_MANIFEST, digest=digest, size=len(body), platform=platform)
        tags = [str(reference.normalize(tag)) for tag in one.repo_tags or ()]
        self.entries += [_named(target, tag) for tag in tags] or [target]

    def _config(self, path: str) -> tuple[Descriptor, ImageConfig]:
        if path not in self._configs:
            body = document(self._folder, path)
            descriptor = Descriptor(media_type=image.DOCKER_CONFIG, digest=digests.of(body), size=len(body))
            parsed = graph.config(descriptor, body)
            if not parsed.os or not parsed.architecture:
                raise errors.InvalidArgument(f"{DOING}: {path[:200]} says no os or no architecture")
            self.parts[descriptor.digest] = body
            self._configs[path] = descriptor, parsed
        return self._configs[path]

    def _layer(self, path: str, diff_id: str) -> Descriptor:
        """What is not compressed is what its diff id says, or is found not to be when it is stored."""
        if (path, diff_id) not in self._layers:
            self._layers[path, diff_id] = self._read_layer(path, diff_id)
        return self._layers[path, diff_id]

    def _read_layer(self, path: str, diff_id: str) -> Descriptor:
        self._cancel.check()
        part = self._folder.open(path)
        try:
            head = part.read(4)
            part.rewind()
            media_type = next((kind for magic, kind in _MAGIC if head.startswith(magic)), image.DOCKER_LAYER)
            if media_type == image.DOCKER_LAYER and self._compressor is not None:
                return self._compressed(part, diff_id, self._compressor())
            digest = diff_id if media_type == image.DOCKER_LAYER else self._hashed(part)
        finally:
            part.close()
        self.parts[digest] = lambda: self._folder.open(path)
        return Descriptor(media_type=media_type, digest=digest, size=part.size)

    def _hashed(self, part: Part) -> str:
        running = digests.hasher()
        while data := part.read(CHUNK):
            self._cancel.check()
            running.update(data)
        return f"{digests.CANONICAL}:{running.hexdigest()}"

    def _compressed(self, part: Part, diff_id: str, compressor: Compressor) -> Descriptor:
        algorithm, value = digests.split(diff_id)
        plain, packed = digests.hasher(algorithm), digests.hasher()
        spool = unnamed(self._directory)
        self._held.callback(os.close, spool)
        size = 0
        while data := part.read(CHUNK):
            self._cancel.check()
            plain.update(data)
            size += _append(spool, packed, compressor.compress(data))
        size += _append(spool, packed, compressor.flush())
        if plain.hexdigest() != value:
            raise errors.FailedPrecondition(f"{DOING}: a layer is not {diff_id}, as its config says")
        digest = f"{digests.CANONICAL}:{packed.hexdigest()}"
        self.parts[digest] = lambda: Part(spool, 0, size)
        return Descriptor(media_type=image.DOCKER_LAYER_GZIP, digest=digest, size=size)


def document(folder: Folder, name: str) -> bytes:
    """A small file, whole."""
    part = folder.open(name)
    try:
        body = part.read(graph.MAX_DOCUMENT + 1)
    finally:
        part.close()
    if len(body) > graph.MAX_DOCUMENT:
        raise errors.InvalidArgument(f"{DOING}: {name[:200]} has more than {graph.MAX_DOCUMENT} bytes")
    return body


def unnamed(directory: str) -> int:
    """A file without a name, to write and read."""
    return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)


def append(fd: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _append(fd: int, running: "hashlib._Hash", data: bytes | memoryview) -> int:
    running.update(data)
    append(fd, data)
    return len(data)


def _named(target: Descriptor, name: str) -> Descriptor:
    return replace(target, annotations={names.IMAGE_NAME: name})
