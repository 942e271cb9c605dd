"""Introspection: which components there are, and who the daemon is."""

from collections.abc import Sequence

import msgspec

from spec.api.service import Service, unary
from spec.base import Reply, Request
from spec.records import PluginInfo
from spec.wire import NIL


class PluginsRequest(Request, frozen=True):
    """Filter fields: type, id."""

    filters: Sequence[str] = ()


class PluginsReply(Reply, frozen=True):
    plugins: Sequence[PluginInfo] = ()


class PluginInfoRequest(Request, frozen=True):
    """`options` is what the plugin takes: a RuntimeRequest for io.holdd.runtime.v1 tasks."""

    type: str
    id: str
    options: msgspec.Raw = NIL


class PluginInfoReply(Reply, frozen=True):
    """`extra` is what the plugin tells beyond `plugin`: a RuntimeInfo from io.holdd.runtime.v1 tasks."""

    plugin: PluginInfo
    extra: msgspec.Raw = NIL


class ServerRequest(Request, frozen=True):
    pass


class Deprecation(Reply, frozen=True):
    """Something that is used and should not be: `id` is io.holdd.deprecation/NAME of what will not be for ever, and
    io.holdd.warning/NAME of what is known to be vulnerable."""

    id: str
    message: str = ""
    last_occurrence_ns: int = 0


class ServerReply(Reply, frozen=True):
    """`uuid` lives as long as the root directory; `pidns` is the inode of the daemon's pid namespace. The defaults are
    those of the call's namespace, whose labels containerd.io/defaults/snapshotter and /runtime go before the
    configuration."""

    uuid: str
    pid: int = 0
    pidns: int = 0
    default_snapshotter: str = ""
    default_runtime: str = ""
    deprecations: Sequence[Deprecation] = ()


class Introspection(Service):
    NAME = "holdd.services.introspection.v1.Introspection"
    NAMESPACED = False

    plugins = unary(PluginsRequest, PluginsReply)
    plugin_info = unary(PluginInfoRequest, PluginInfoReply)
    server = unary(ServerRequest, ServerReply)
