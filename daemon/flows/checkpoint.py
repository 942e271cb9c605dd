"""A checkpoint into the content store: a tar of CRIU's images, and the spec of the container. Knows no task."""

import contextlib
import secrets
import tarfile
from collections.abc import Callable, Sequence

from spec import errors
from spec.oci.image import Descriptor
from spec.ports import BlobWriter, ContentStore

CRIU = "application/vnd.containerd.container.criu.checkpoint.criu.tar"
SPEC = "application/vnd.containerd.container.checkpoint.config.v1+json"


def store_checkpoint(content: ContentStore, id: str, spec: bytes, directory: str) -> Sequence[Descriptor]:
    """Descriptors of the two, in this order."""

    def pack(writer: BlobWriter) -> None:
        with tarfile.open(fileobj=_Sink(writer), mode="w|") as archive:  # type: ignore[call-overload]
            archive.add(directory, arcname=".")

    return [_stored(content, id, CRIU, pack), _stored(content, id, SPEC, lambda writer: writer.write(spec))]


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
