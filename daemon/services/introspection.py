"""Introspection: the components, and the daemon itself."""

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from daemon.kit import context
from spec import errors, filters
from spec.api import introspection as api
from spec.base import Record, pack
from spec.ports import Runtime
from spec.records import PluginInfo, RuntimeInfo, RuntimeRef, RuntimeRequest
from spec.wire import UNREADABLE

Info = Callable[[msgspec.Raw], Awaitable[Record]]


class House(Protocol):
    """What is needed of the assembly."""

    def default_snapshotter(self, namespace: str) -> str: ...

    def default_runtime(self, namespace: str) -> str: ...


class Introspection:
    """`plugins` gives the components as they are now, `infos` asks one of them, by its type and id, for more; `uuid` is
    the root directory's; `deprecations` is what has been noticed."""

    def __init__(
        self,
        uuid: str,
        plugins: Callable[[], Sequence[PluginInfo]],
        house: House | None = None,
        deprecations: Callable[[], Sequence[api.Deprecation]] = tuple,
        infos: Mapping[tuple[str, str], Info] | None = None,
    ) -> None:
        self._uuid = uuid
        self._plugins = plugins
        self._house = house
        self._deprecations = deprecations
        self._infos = infos or {}

    def plugins(self, request: api.PluginsRequest) -> api.PluginsReply:
        matches = filters.matcher(request.filters, _FIELDS)
        return api.PluginsReply(plugins=[plugin for plugin in self._plugins() if matches(plugin)])

    async def plugin_info(self, request: api.PluginInfoRequest) -> api.PluginInfoReply:
        key = (request.type, request.id)
        plugin = next((plugin for plugin in self._plugins() if (plugin.type, plugin.id) == key), None)
        doing = f"plugin {request.type}.{request.id}"
        if plugin is None:
            raise errors.NotFound(f"{doing} not found")
        if plugin.status != "ok":
            raise errors.FailedPrecondition(f"{doing} does not work: {plugin.init_error}")
        if key not in self._infos:
            raise errors.Unimplemented(f"{doing} has no more to tell")
        return api.PluginInfoReply(plugin=plugin, extra=msgspec.Raw(pack(await self._infos[key](request.options))))

    def server(self, request: api.ServerRequest) -> api.ServerReply:
        namespace, house = context.namespace_or_empty(), self._house
        return api.ServerReply(
            uuid=self._uuid,
            pid=os.getpid(),
            pidns=os.stat("/proc/self/ns/pid").st_ino,
            default_snapshotter=house.default_snapshotter(namespace) if house else "",
            default_runtime=house.default_runtime(namespace) if house else "",
            deprecations=self._deprecations(),
        )


def about_runtimes(runtime: Runtime, house: House) -> Info:
    """Answers a RuntimeRequest in the call's namespace."""

    async def answer(options: msgspec.Raw) -> RuntimeInfo:
        try:
            request = msgspec.msgpack.decode(options, type=RuntimeRequest | None) or RuntimeRequest()
        except UNREADABLE as exc:
            raise errors.InvalidArgument(f"ask for a runtime: read the options: {exc}") from exc
        namespace = context.namespace_or_empty()
        name = request.runtime_path or house.default_runtime(namespace)
        return await runtime.info(namespace, RuntimeRef(name=name, options=request.options))

    return answer


_FIELDS = filters.fields_of({"type": lambda plugin: plugin.type, "id": lambda plugin: plugin.id})
