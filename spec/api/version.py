"""Version: what answers on this socket."""

from spec.api.service import Service, unary
from spec.base import Reply, Request


class VersionRequest(Request, frozen=True):
    pass


class VersionReply(Reply, frozen=True):
    version: str
    revision: str = ""


class Version(Service):
    NAME = "holdd.services.version.v1.Version"
    NAMESPACED = False

    version = unary(VersionRequest, VersionReply)
