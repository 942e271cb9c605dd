"""Introspection: the components, and the daemon itself."""

import os
from collections.abc import Callable, Sequence
from typing import Protocol

from daemon.kit import context
from spec import filters
from spec.api import introspection as api
from spec.records import PluginInfo


class House(Protocol):
    """What is needed of the assembly."""

    def default_snapshotter(self, namespace: str) -> str: ...

    def default_runtime(self, namespace: str) -> str: ...


class Introspection:
    """`plugins` gives the components as they are now; `uuid` is the root directory's; `deprecations` what was noticed
    at the start."""

    def __init__(
        self,
        uuid: str,
        plugins: Callable[[], Sequence[PluginInfo]],
        house: House | None = None,
        deprecations: Sequence[api.Deprecation] = (),
    ) -> None:
        self._uuid = uuid
        self._plugins = plugins
        self._house = house
        self._deprecations = deprecations

    def plugins(self, request: api.PluginsRequest) -> api.PluginsReply:
        matches = filters.matcher(request.filters, _FIELDS)
        return api.PluginsReply(plugins=[plugin for plugin in self._plugins() if matches(plugin)])

    def server(self, request: api.ServerRequest) -> api.ServerReply:
        namespace, house = context.namespace_or_empty(), self._house
        return api.ServerReply(
            uuid=self._uuid,
            pid=os.getpid(),
            pidns=os.stat("/proc/self/ns/pid").st_ino,
            default_snapshotter=house.default_snapshotter(namespace) if house else "",
            default_runtime=house.default_runtime(namespace) if house else "",
            deprecations=self._deprecations,
        )


_FIELDS = filters.fields_of({"type": lambda plugin: plugin.type, "id": lambda plugin: plugin.id})
