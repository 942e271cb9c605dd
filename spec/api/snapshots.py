"""Snapshots: trees by key. Every request names its snapshotter; an empty or unknown one is InvalidArgument."""

from collections.abc import Sequence

from spec.api.service import Service, server_stream, unary
from spec.base import Empty, Reply, Request
from spec.records import SnapshotInfo
from spec.types import Mount, Usage


class PrepareRequest(Request, frozen=True):
    snapshotter: str
    key: str
    parent: str = ""
    labels: dict[str, str] = {}


class ViewRequest(PrepareRequest, frozen=True):
    pass


class MountsRequest(Request, frozen=True):
    snapshotter: str
    key: str


class MountsReply(Reply, frozen=True):
    mounts: Sequence[Mount] = ()


class CommitRequest(Request, frozen=True):
    """`parent` rebases what was prepared without one; the snapshotter needs the capability."""

    snapshotter: str
    name: str
    key: str
    labels: dict[str, str] = {}
    parent: str = ""


class RemoveRequest(Request, frozen=True):
    snapshotter: str
    key: str


class StatRequest(Request, frozen=True):
    snapshotter: str
    key: str


class UpdateRequest(Request, frozen=True):
    """`fields`: labels, labels.KEY; none replaces all labels."""

    snapshotter: str
    info: SnapshotInfo
    fields: Sequence[str] = ()


class ListRequest(Request, frozen=True):
    """Filter fields: kind (view, active, committed), name, parent, labels.KEY."""

    snapshotter: str
    filters: Sequence[str] = ()


class ListReply(Reply, frozen=True):
    """A block of up to 100."""

    info: Sequence[SnapshotInfo] = ()


class UsageRequest(Request, frozen=True):
    snapshotter: str
    key: str


class CleanupRequest(Request, frozen=True):
    snapshotter: str


class Snapshots(Service):
    NAME = "holdd.services.snapshots.v1.Snapshots"

    prepare = unary(PrepareRequest, MountsReply)
    view = unary(ViewRequest, MountsReply)
    mounts = unary(MountsRequest, MountsReply)
    commit = unary(CommitRequest, Empty)
    remove = unary(RemoveRequest, Empty)
    stat = unary(StatRequest, SnapshotInfo)
    update = unary(UpdateRequest, SnapshotInfo)
    list = server_stream(ListRequest, ListReply)
    usage = unary(UsageRequest, Usage)
    cleanup = unary(CleanupRequest, Empty)
