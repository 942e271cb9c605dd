"""Images: names for descriptors."""

from collections.abc import Sequence

from spec.api.service import Service, server_stream, unary
from spec.base import Empty, Reply, Request
from spec.oci.image import Descriptor
from spec.records import Image
from spec.types import Finding, Progress


class GetRequest(Request, frozen=True):
    name: str


class ListRequest(Request, frozen=True):
    """Filter fields: name, target.digest, target.mediatype, labels.KEY, annotations.KEY."""

    filters: Sequence[str] = ()


class ListReply(Reply, frozen=True):
    """All of them, which must fit into a frame, or a block of up to 100 of a stream."""

    images: Sequence[Image] = ()


class CreateRequest(Request, frozen=True):
    """`source_date_epoch_ns`, when not 0, is taken as the time of creation."""

    image: Image
    source_date_epoch_ns: int = 0


class UpdateRequest(Request, frozen=True):
    """`fields`: labels, labels.KEY, target, annotations, annotations.KEY; none replaces all of these."""

    image: Image
    fields: Sequence[str] = ()
    source_date_epoch_ns: int = 0


class DeleteRequest(Request, frozen=True):
    """With `target`, NotFound unless the image points at its digest. `sync` waits until the space is given back."""

    name: str
    sync: bool = False
    target: Descriptor | None = None


class CheckRequest(Request, frozen=True):
    """Hash an image's blobs again, and hold its snapshots in `snapshotter` ("" is the default) against what its layers
    give, as `platform` ("" is the host's) selects. With `repair` the paths that differ are put right in place, from a
    layer that is sound; a container that runs on them is best started anew."""

    name: str
    platform: str = ""
    snapshotter: str = ""
    repair: bool = False


class CheckReply(Reply, frozen=True):
    """One of the two: how far it is, or something that is not as it should be."""

    progress: Progress | None = None
    finding: Finding | None = None


class Images(Service):
    NAME = "holdd.services.images.v1.Images"

    get = unary(GetRequest, Image)
    list = unary(ListRequest, ListReply)
    list_stream = server_stream(ListRequest, ListReply)
    create = unary(CreateRequest, Image)
    update = unary(UpdateRequest, Image)
    delete = unary(DeleteRequest, Empty)
    check = server_stream(CheckRequest, CheckReply)
