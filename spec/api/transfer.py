"""Transfer: whole journeys as one call, with progress as its stream. Now: pull (registry to image store), import
(archive to image store), push (image store to registry), single objects (registry to a descriptor), tag and unpack
(image store to image store)."""

from collections.abc import Sequence

from spec.api.service import Service, server_stream
from spec.base import Record, Request
from spec.oci.image import Descriptor
from spec.types import Progress


class Registry(Record, frozen=True, tag="registry"):
    """An image in a registry.

    `username` with an empty `secret` is none; an empty `username` with a `secret` is a refresh token. The credentials
    are for the host of `reference` and its token server only, and so are `headers`. `hosts_dir` overrides the
    configured one. `authorities`, `certificate` and `key` are PEM: whom to trust there, and what to show. `concurrency`
    bounds what is sent at once below what the daemon allows (0: that).
    """

    reference: str
    username: str = ""
    secret: str = ""
    headers: dict[str, str] = {}
    hosts_dir: str = ""
    plain_http: bool = False
    skip_verify: bool = False
    authorities: str = ""
    certificate: str = ""
    key: str = ""
    concurrency: int = 0


class Archive(Record, frozen=True, tag="archive"):
    """Images in the descriptor that comes with the request: an OCI layout, as a tar (a file or a pipe) or a directory.

    They are named as its index says; `base_name` is put before names that are but a tag.
    """

    base_name: str = ""


class Unpack(Record, frozen=True):
    """Unpack what `platform` selects ("" is the host's) into `snapshotter` ("" is the namespace's default)."""

    platform: str = ""
    snapshotter: str = ""


class ImageStore(Record, frozen=True, tag="image_store"):
    """A name among the images. `platforms` chooses what is kept of an index; none means the host's. With
    `all_metadata` an index keeps the manifests and configs of its other platforms too, without their layers, so that it
    can be pushed again to the registry it is from; with `metadata_only` no layers come at all, and nothing is unpacked.
    From an archive `name` may be empty for all of its images, or names the only one.

    From one image store to another, a name that is taken is AlreadyExists, unless `force` points it elsewhere; to the
    same name, with `unpacks`, nothing but snapshots are made.

    To a registry all of it goes, or of an index the one manifest that `platforms` choose; `target` instead of what the
    image points at; layers that may not be redistributed with `non_distributable` only.
    """

    name: str = ""
    labels: dict[str, str] = {}
    platforms: Sequence[str] = ()
    all_platforms: bool = False
    unpacks: Sequence[Unpack] = ()
    force: bool = False
    target: Descriptor | None = None
    non_distributable: bool = False
    all_metadata: bool = False
    metadata_only: bool = False


class Raw(Record, frozen=True, tag="raw"):
    """The descriptor that comes with the request: a file or a pipe, to be written.

    From a registry: the bytes of `digest`, or of what the reference names; `media_type` says whether they are a
    manifest's, else they are looked for among blobs first.
    """

    digest: str = ""
    media_type: str = ""


class TransferRequest(Request, frozen=True):
    """Unimplemented when no flow goes from this kind of source to this kind of destination."""

    source: Registry | ImageStore | Archive
    destination: Registry | ImageStore | Archive | Raw


class Transfer(Service):
    NAME = "holdd.services.transfer.v1.Transfer"

    transfer = server_stream(TransferRequest, Progress, takes=True)
