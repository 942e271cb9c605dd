"""Introspection: the components, and the daemon itself."""

import os
from collections.abc import Callable, Sequence

from spec import filters
from spec.api import introspection as api
from spec.records import PluginInfo


class Introspection:
    """`plugins` gives the components as they are now; `uuid` is the root directory's."""

    def __init__(self, uuid: str, plugins: Callable[[], Sequence[PluginInfo]]) -> None:
        self._uuid = uuid
        self._plugins = plugins

    def plugins(self, request: api.PluginsRequest) -> api.PluginsReply:
        matches = filters.matcher(request.filters, _FIELDS)
        return api.PluginsReply(plugins=[plugin for plugin in self._plugins() if matches(plugin)])

    def server(self, request: api.ServerRequest) -> api.ServerReply:
        return api.ServerReply(uuid=self._uuid, pid=os.getpid(), pidns=os.stat("/proc/self/ns/pid").st_ino)


_FIELDS = filters.fields_of({"type": lambda plugin: plugin.type, "id": lambda plugin: plugin.id})
