"""Leases: what is made under one, or added to one, stays while it lives."""

from collections.abc import Sequence

from spec.api.service import Service, server_stream, unary
from spec.base import Empty, Reply, Request
from spec.records import Labels, Lease, LeaseResource


class CreateRequest(Request, frozen=True):
    """An empty id is made up. The label containerd.io/gc.expire (RFC 3339) bounds its life; containerd.io/gc.flat keeps
    what it lists without what that refers to."""

    id: str = ""
    labels: Labels = {}


class DeleteRequest(Request, frozen=True):
    """`sync` waits until what it alone kept has been collected."""

    id: str
    sync: bool = False


class ListRequest(Request, frozen=True):
    """Filter fields: id, labels.KEY."""

    filters: Sequence[str] = ()


class ListReply(Reply, frozen=True):
    """All, or in a stream a block of up to 100."""

    leases: Sequence[Lease] = ()


class AddResourceRequest(Request, frozen=True):
    id: str
    resource: LeaseResource


class DeleteResourceRequest(Request, frozen=True):
    id: str
    resource: LeaseResource


class ListResourcesRequest(Request, frozen=True):
    id: str


class ListResourcesReply(Reply, frozen=True):
    """A block of up to 100."""

    resources: Sequence[LeaseResource] = ()


class HoldRequest(Request, frozen=True):
    """Hold a lease for as long as the stream is open: nobody can delete it, and it does not expire. With `delete` it
    goes with the stream, so that a client that dies leaves nothing behind."""

    id: str
    delete: bool = False


class HoldersRequest(Request, frozen=True):
    """Why a resource stays. Types besides those of a lease's resources: containers, leases."""

    resource: LeaseResource


class HoldersReply(Reply, frozen=True):
    """For each root that keeps it a shortest way: the root first, the resource last. None: the next collection takes
    it. A resource that is not there is NotFound."""

    ways: Sequence[Sequence[LeaseResource]] = ()


class Leases(Service):
    NAME = "holdd.services.leases.v1.Leases"

    create = unary(CreateRequest, Lease)
    delete = unary(DeleteRequest, Empty)
    list = unary(ListRequest, ListReply)
    list_stream = server_stream(ListRequest, ListReply)
    add_resource = unary(AddResourceRequest, Empty)
    delete_resource = unary(DeleteResourceRequest, Empty)
    list_resources = server_stream(ListResourcesRequest, ListResourcesReply)
    holders = unary(HoldersRequest, HoldersReply)
    hold = server_stream(HoldRequest, Lease)
