"""Diff: layers applied to mounts, and differences of mounts made into layers. Differs are asked in the configured
order; the first answer that is not Unimplemented counts."""

from collections.abc import Sequence

from spec.api.service import Service, unary
from spec.base import Reply, Request
from spec.oci.image import Descriptor
from spec.types import Mount, Usage


class ApplyRequest(Request, frozen=True):
    """Apply the layer `diff`, a blob, to what `mounts` show. With `sync_fs` what was written is on disk afterwards.

    A layer that cannot be unpacked apart from those below is FailedPrecondition, and then what was written counts for
    nothing. `payloads` are for stream processors, by their ids: what one reads at its descriptor 3.
    """

    diff: Descriptor
    mounts: Sequence[Mount] = ()
    payloads: dict[str, bytes] = {}
    sync_fs: bool = False


class ApplyReply(Reply, frozen=True):
    """`applied` describes the plain tar: its digest is the layer's diff id. `usage` is what was made of it."""

    applied: Descriptor
    usage: Usage = Usage()


class DiffRequest(Request, frozen=True):
    """Make what `right` has other than `left` a layer blob; all of `right` without a `left`.

    `media_type` is an OCI layer's, "" for gzip; `ref` the ingest to write to, "" for one of its own, `labels` the
    blob's. No time in the layer is later than `source_date_epoch_s`, in seconds, when that is given.
    """

    left: Sequence[Mount] = ()
    right: Sequence[Mount] = ()
    media_type: str = ""
    ref: str = ""
    labels: dict[str, str] = {}
    source_date_epoch_s: int | None = None


class DiffReply(Reply, frozen=True):
    diff: Descriptor


class Diff(Service):
    NAME = "holdd.services.diff.v1.Diff"

    apply = unary(ApplyRequest, ApplyReply)
    diff = unary(DiffRequest, DiffReply)
