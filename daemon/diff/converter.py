"""Layers in another compression: inflate, hash and compress in one pass, in bounded memory."""

import contextlib
import secrets

from daemon.diff import compression, processors, storing
from daemon.diff.bounds import Bounds
from spec import digest as digests
from spec import errors
from spec.oci.image import OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, Descriptor
from spec.ports import BlobReader, BlobWriter, Cancel, ContentStore

CHUNK = 1 << 20
HEAD = 4  # bytes that tell compressions apart
_WRITTEN = {"": OCI_LAYER, "gzip": OCI_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD}


class Converter:
    """A ports.LayerConverter in `content`."""

    def __init__(self, content: ContentStore, bounds: Bounds = Bounds()) -> None:
        self._content = content
        self._bounds = bounds

    def compression(self, layer: Descriptor) -> str:
        with self._content.reader(layer.digest) as reader:
            return processors.sniffed(reader.pread(HEAD, 0))

    def convert(self, layer: Descriptor, wanted: str, diff_id: str, cancel: Cancel) -> Descriptor:
        if not wanted and (there := self._found(diff_id)) is not None:
            return there
        ref = f"convert-{wanted}-{layer.digest}-{secrets.token_hex(8)}"
        try:
            with self._content.reader(layer.digest) as reader, self._content.writer(ref) as writer:
                source = processors.opened(_Reading(reader, cancel), layer.media_type, self._bounds)
                found = _pour(source, writer, wanted, digests.split(diff_id)[0])
                if found != diff_id:
                    raise errors.FailedPrecondition(f"converting {layer.digest}: it is {found}, not {diff_id}")
                return storing.commit(self._content, writer, "", diff_id, {})
        except BaseException:
            with contextlib.suppress(errors.Error):
                self._content.abort(ref)
            raise

    def _found(self, diff_id: str) -> Descriptor | None:
        """The plain layer, whose digest is its diff id, if it is here already."""
        try:
            size = self._content.info(diff_id).size
        except errors.NotFound:
            return None
        storing.tell(self._content, diff_id, diff_id)
        return Descriptor(digest=diff_id, size=size)


class _Reading:
    """A ports.Source over a blob, as long as it is wanted."""

    def __init__(self, reader: BlobReader, cancel: Cancel) -> None:
        self._reader = reader
        self._cancel = cancel

    def read(self, size: int, /) -> bytes:
        self._cancel.check()
        return self._reader.read(size)

    def close(self) -> None: ...


def _pour(source: processors.Filling, writer: BlobWriter, wanted: str, algorithm: str) -> str:
    """The diff id."""
    running = digests.hasher(algorithm)
    packing = compression.compressor(_WRITTEN[wanted])
    buffer = memoryview(bytearray(CHUNK))
    while size := source.readinto(buffer):
        data = buffer[:size]
        running.update(data)
        if packed := packing.compress(data):
            writer.write(packed)
    if packed := packing.flush():
        writer.write(packed)
    return f"{algorithm}:{running.hexdigest()}"
