"""Transfer: whole journeys as one call, with progress as its stream. Now: pull (registry to image store), import
(archive to image store), tag and unpack (image store to image store)."""

from collections.abc import Sequence

from spec.api.service import Service, server_stream
from spec.base import Record, Request
from spec.types import Progress


class Registry(Record, frozen=True, tag="registry"):
    """An image in a registry.

    `username` with an empty `secret` is none; an empty `username` with a `secret` is a refresh token. The credentials
    are for the host of `reference` and its token server only. `hosts_dir` overrides the configured one.
    """

    reference: str
    username: str = ""
    secret: str = ""
    headers: dict[str, str] = {}
    hosts_dir: str = ""
    plain_http: bool = False
    skip_verify: bool = False


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
    """A name among the images. `platforms` chooses what is kept of an index; none means the host's. From an archive
    `name` may be empty for all of its images, or names the only one.

    From one image store to another, a name that is taken is AlreadyExists, unless `force` points it elsewhere; to the
    same name, with `unpacks`, nothing but snapshots are made.
    """

    name: str = ""
    labels: dict[str, str] = {}
    platforms: Sequence[str] = ()
    all_platforms: bool = False
    unpacks: Sequence[Unpack] = ()
    force: bool = False


class TransferRequest(Request, frozen=True):
    """Unimplemented when no flow goes from this kind of source to this kind of destination."""

    source: Registry | ImageStore | Archive
    destination: Registry | ImageStore | Archive


class Transfer(Service):
    NAME = "holdd.services.transfer.v1.Transfer"

    transfer = server_stream(TransferRequest, Progress, takes=True)
