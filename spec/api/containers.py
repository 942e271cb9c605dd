"""Containers: the metadata that tasks are made from."""

from collections.abc import Sequence

from spec.api.service import Service, server_stream, unary
from spec.base import Empty, Reply, Request
from spec.records import Container


class GetRequest(Request, frozen=True):
    id: str


class ListRequest(Request, frozen=True):
    """Filter fields: id, runtime.name, image, labels.KEY."""

    filters: Sequence[str] = ()


class ListReply(Reply, frozen=True):
    """All of them, which must fit into a frame, or a block of up to 100 of a stream."""

    containers: Sequence[Container] = ()


class CreateRequest(Request, frozen=True):
    container: Container


class UpdateRequest(Request, frozen=True):
    """`fields`: labels, labels.KEY, spec, extensions, extensions.KEY, image, snapshot_key; none replaces them all."""

    container: Container
    fields: Sequence[str] = ()


class DeleteRequest(Request, frozen=True):
    id: str


class Containers(Service):
    NAME = "holdd.services.containers.v1.Containers"

    get = unary(GetRequest, Container)
    list = unary(ListRequest, ListReply)
    list_stream = server_stream(ListRequest, ListReply)
    create = unary(CreateRequest, Container)
    update = unary(UpdateRequest, Container)
    delete = unary(DeleteRequest, Empty)
