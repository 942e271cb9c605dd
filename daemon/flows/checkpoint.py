"""A checkpoint into the content store, and out of it: a tar of CRIU's images, and the spec of the container. Knows no
task."""

import contextlib
import os
import secrets
import tarfile
import tempfile
from collections.abc import Callable, Sequence

from spec import errors
from spec.oci.checkpoint import CRIU, SPEC
from spec.oci.image import Descriptor
from spec.ports import BlobReader, BlobWriter, Checkpoint, ContentStore


def store_checkpoint(content: ContentStore, id: str, spec: bytes, directory: str) -> Sequence[Descriptor]:
    """Descriptors of the two, in this order."""

    def pack(writer: BlobWriter) -> None:
        with tarfile.open(fileobj=_Sink(writer), mode="w|") as archive:  # type: ignore[call-overload]
            archive.add(directory, arcname=".")

    return [_stored(content, id, CRIU, pack), _stored(content, id, SPEC, lambda writer: writer.write(spec))]


def open_checkpoint(content: ContentStore, descriptor: Descriptor) -> Checkpoint:
    """The tar of a checkpoint, for whoever takes over its descriptor. NotFound; InvalidArgument for what is none."""
    doing = f"restoring checkpoint {descriptor.digest}"
    if descriptor.media_type != CRIU:
        raise errors.InvalidArgument(f"{doing}: its media type is {descriptor.media_type!r}, not {CRIU}")
    with content.reader(descriptor.digest) as reader:
        if descriptor.size != reader.size:
            raise errors.InvalidArgument(f"{doing}: it has {reader.size} bytes, not {descriptor.size}")
        try:
            return Checkpoint(descriptor.digest, os.dup(reader.fileno()))
        except errors.Unimplemented:
            return Checkpoint(descriptor.digest, _copied(reader, doing))


def _copied(reader: BlobReader, doing: str) -> int:
    """A descriptor of the blob's bytes in a file without a name."""
    try:
        with tempfile.TemporaryFile() as file:
            while data := reader.read(1 << 20):
                file.write(data)
            file.flush()
            return os.dup(file.fileno())
    except OSError as exc:
        raise errors.from_os(exc, doing) from exc


class _Sink:
    """What tarfile writes to."""

    def __init__(self, writer: BlobWriter) -> None:
        self.write = writer.write


def _stored(content: ContentStore, id: str, media_type: str, write: Callable[[BlobWriter], object]) -> Descriptor:
    with content.writer(f"checkpoint-{id}-{secrets.token_hex(8)}") as writer:
        write(writer)
        descriptor = Descriptor(media_type=media_type, digest=writer.digest(), size=writer.status().offset)
        with contextlib.suppress(errors.AlreadyExists):
            writer.commit(descriptor.size, descriptor.digest)
    return descriptor
