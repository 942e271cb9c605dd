"""A layer's blob, once all of it is written."""

import contextlib

from msgspec.structs import replace

from spec import errors, names
from spec.oci.image import Descriptor
from spec.ports import BlobWriter, ContentStore
from spec.records import Labels


def commit(content: ContentStore, writer: BlobWriter, media_type: str, diff_id: str, labels: Labels) -> Descriptor:
    """A blob that is there already is as good; it is told its diff id."""
    digest, size = writer.digest(), writer.status().offset
    try:
        writer.commit(size, digest, {**labels, names.UNCOMPRESSED: diff_id})
    except errors.AlreadyExists:
        tell(content, digest, diff_id)
    return Descriptor(media_type=media_type, digest=digest, size=size)


def tell(content: ContentStore, digest: str, diff_id: str) -> None:
    """A blob its diff id, if it does not know."""
    with contextlib.suppress(errors.Unimplemented):  # a store that keeps no labels
        info = content.info(digest)
        if names.UNCOMPRESSED not in info.labels:
            told = {**info.labels, names.UNCOMPRESSED: diff_id}
            content.update(replace(info, labels=told), [f"labels.{names.UNCOMPRESSED}"])
