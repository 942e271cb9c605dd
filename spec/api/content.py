"""Content: blobs by digest, and the ingests that become blobs."""

from collections.abc import Sequence

from spec.api.service import Service, duplex, giving, server_stream, unary
from spec.base import Empty, Reply, Request
from spec.records import ContentInfo, IngestStatus


class InfoRequest(Request, frozen=True):
    digest: str


class UpdateRequest(Request, frozen=True):
    """`fields`: labels, labels.KEY; none replaces all labels."""

    info: ContentInfo
    fields: Sequence[str] = ()


class ListRequest(Request, frozen=True):
    """Filter fields: digest, labels.KEY."""

    filters: Sequence[str] = ()


class ListReply(Reply, frozen=True):
    """A block of up to 100."""

    info: Sequence[ContentInfo] = ()


class DeleteRequest(Request, frozen=True):
    digest: str


class ReadRequest(Request, frozen=True):
    """`size` 0 reads to the end; an `offset` past it is OutOfRange."""

    digest: str
    offset: int = 0
    size: int = 0


class ReadReply(Reply, frozen=True):
    offset: int = 0
    data: bytes = b""


class OpenRequest(Request, frozen=True):
    digest: str


class OpenReply(Reply, frozen=True):
    """Comes with one descriptor of the blob's file, open for reading."""

    size: int = 0


class StatusRequest(Request, frozen=True):
    ref: str


class ListStatusesRequest(Request, frozen=True):
    """Filter field: ref."""

    filters: Sequence[str] = ()


class ListStatusesReply(Reply, frozen=True):
    statuses: Sequence[IngestStatus] = ()


class WriteRequest(Request, frozen=True):
    """`action` is stat, write or commit. The first message names `ref`, and its `total` and `expected` open the writer.

    An `offset` above 0 must be the current one (OutOfRange); offset 0 with data, while data is there, starts again.
    """

    action: str = "stat"
    ref: str = ""
    total: int = 0
    expected: str = ""
    offset: int = 0
    data: bytes = b""
    labels: dict[str, str] = {}


class WriteReply(Reply, frozen=True):
    action: str = "stat"
    started_at_ns: int = 0
    updated_at_ns: int = 0
    offset: int = 0
    total: int = 0
    digest: str = ""


class AbortRequest(Request, frozen=True):
    ref: str


class VerifyRequest(Request, frozen=True):
    """Hash a blob again. DataLoss, which says what was found, when it is not what its digest says.

    With `discard` a damaged blob's bytes are taken away: whoever writes it next, by a pull say, makes it whole for all
    namespaces that have it.
    """

    digest: str
    discard: bool = False


class Content(Service):
    NAME = "holdd.services.content.v1.Content"

    info = unary(InfoRequest, ContentInfo)
    update = unary(UpdateRequest, ContentInfo)
    list = server_stream(ListRequest, ListReply)
    delete = unary(DeleteRequest, Empty)
    read = server_stream(ReadRequest, ReadReply)
    open = giving(OpenRequest, OpenReply)
    status = unary(StatusRequest, IngestStatus)
    list_statuses = unary(ListStatusesRequest, ListStatusesReply)
    write = duplex(WriteRequest, WriteReply)
    abort = unary(AbortRequest, Empty)
    verify = unary(VerifyRequest, ContentInfo)
