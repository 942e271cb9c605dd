"""Transfer: whole journeys as one call, with progress as its stream. Pull (registry to image store), push (image store
to registry), import (archive to image store), export (image store to archive), single objects (registry to a
descriptor); tag, convert and unpack (image store to image store)."""

from collections.abc import Sequence

from spec.api.service import Service, server_stream
from spec.base import Record, Reply, Request
from spec.oci.image import Descriptor
from spec.types import Progress

HTTP = "http"  # the event of what goes over HTTP


class Registry(Record, frozen=True, tag="registry"):
    """An image in a registry.

    `username` with an empty `secret` is none; an empty `username` with a `secret` is a refresh token. The credentials
    are for the host of `reference` and its token server only, and so are `headers`. `hosts_dir` overrides the
    configured one. `authorities`, `certificate` and `key` are PEM: whom to trust there, and what to show. `concurrency`
    bounds the blobs that are sent or fetched at once below what the daemon allows (0: that).

    With `http_dump` the heads of all requests and answers are told, without secrets; with `http_trace` what connections
    do, and how long it took: as progress of the event "http", whose name is the text, some lines at a time.
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
    http_dump: bool = False
    http_trace: bool = False


class Archive(Record, frozen=True, tag="archive"):
    """Images in the descriptor that comes with the request.

    As a source: an OCI layout or what `docker save` writes, as a tar (a file or a pipe; gzip and zstd are undone) or a
    directory. Its images are named as it says, docker's in full (docker.io/library/NAME:TAG). `base_name` is put before
    names that are but a tag, and images of another whole name are left out then; "" is import-DATE. An image without a
    name, and with `add_digest` every one, is named by its digest as well; with `skip_named_digest` only those without.
    With `force_compress` layers that are not compressed are stored as gzip.

    As a destination: a tar, an OCI layout with docker's manifest.json, unless `skip_compatibility_manifest`. Of an
    index goes what `platforms` choose, none means the host's; layers that may not be redistributed are left out with
    `skip_non_distributable`. NotFound, before anything is written, when something of it is not here.
    """

    base_name: str = ""
    add_digest: bool = False
    skip_named_digest: bool = False
    force_compress: bool = False
    platforms: Sequence[str] = ()
    all_platforms: bool = False
    skip_compatibility_manifest: bool = False
    skip_non_distributable: bool = False


class Conversion(Record, frozen=True):
    """Another form of the same image. `compression` of its layers: gzip, zstd or uncompressed, "" as they are; `oci`
    makes Docker's media types OCI's. Layers that may not be redistributed keep their bytes."""

    compression: str = ""
    oci: bool = False


class Unpack(Record, frozen=True):
    """Unpack what `platform` selects ("" is the host's) into `snapshotter` ("" is the namespace's default). Snapshots
    that are made get `labels` besides their own; those that are there keep theirs."""

    platform: str = ""
    snapshotter: str = ""
    labels: dict[str, str] = {}


class ImageStore(Record, frozen=True, tag="image_store"):
    """A name among the images. `platforms` chooses what is kept of an index; none means the host's. With
    `all_metadata` an index keeps the manifests and configs of its other platforms too, without their layers, so that it
    can be pushed again to the registry it is from; with `metadata_only` no layers come at all, and nothing is unpacked.
    From an archive `name` is one more name: of its only image, or of the index of all.

    From one image store to another, a name that is taken is AlreadyExists, unless `force` points it elsewhere; to the
    same name, with `unpacks`, nothing but snapshots are made. With `conversion` what is chosen is converted, and the
    name points at what became of it; where nothing changes, that is what it was.

    To an archive go `name` and `extra_references`.

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
    extra_references: Sequence[str] = ()
    conversion: Conversion | None = None


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


class ReferrersRequest(Request, frozen=True):
    """What refers to `digest`, "" for what the reference names, in the repository of `source`: manifests of these
    `artifact_types`, none for all."""

    source: Registry
    digest: str = ""
    artifact_types: Sequence[str] = ()


class ReferrersReply(Reply, frozen=True):
    """A block of up to 100; none when nothing does. `http` is what went over HTTP meanwhile, if that was asked for."""

    referrers: Sequence[Descriptor] = ()
    http: str = ""


class Transfer(Service):
    NAME = "holdd.services.transfer.v1.Transfer"

    transfer = server_stream(TransferRequest, Progress, takes=True)
    referrers = server_stream(ReferrersRequest, ReferrersReply)
