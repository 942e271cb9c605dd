"""Namespaces: separate worlds of records on one daemon."""

from collections.abc import Sequence

from spec.api.service import Service, unary
from spec.base import Empty, Reply, Request
from spec.records import Namespace


class GetRequest(Request, frozen=True):
    name: str


class ListRequest(Request, frozen=True):
    filters: Sequence[str] = ()


class ListReply(Reply, frozen=True):
    namespaces: Sequence[Namespace] = ()


class CreateRequest(Request, frozen=True):
    namespace: Namespace


class UpdateRequest(Request, frozen=True):
    """`fields`: labels, labels.KEY; none replaces all labels."""

    namespace: Namespace
    fields: Sequence[str] = ()


class DeleteRequest(Request, frozen=True):
    name: str


class Namespaces(Service):
    NAME = "holdd.services.namespaces.v1.Namespaces"
    NAMESPACED = False

    get = unary(GetRequest, Namespace)
    list = unary(ListRequest, ListReply)
    create = unary(CreateRequest, Namespace)
    update = unary(UpdateRequest, Namespace)
    delete = unary(DeleteRequest, Empty)
