"""ctr plugins."""

import argparse

import msgspec

from ctr import runtimes
from ctr.output import Out, register_list
from daemon.client.client import Client
from spec.api.introspection import PluginInfoRequest, PluginsRequest
from spec.base import pack
from spec.records import RuntimeInfo, RuntimeRequest

RUNTIME = "io.holdd.runtime.v1"


def register(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    ls = verbs.add_parser("ls", aliases=["list"], help="list the daemon's components")
    register_list(ls)
    ls.add_argument("--detailed", "-d", action="store_true", help="show what each requires and offers")
    ls.add_argument("filters", nargs="*")
    ls.set_defaults(do=_ls)
    inspect = verbs.add_parser("inspect-runtime", help="show what an OCI runtime tells of itself, as JSON")
    runtimes.register(inspect)
    inspect.set_defaults(do=_inspect_runtime)


def run(args: argparse.Namespace, client: Client, out: Out) -> int:
    return args.do(args, client, out) or 0


def _ls(args: argparse.Namespace, client: Client, out: Out) -> None:
    plugins = client.introspection.plugins(PluginsRequest(filters=args.filters)).plugins
    if args.detailed:
        for plugin in plugins:
            out.line(f"Type:          {plugin.type}\nID:            {plugin.id}\nStatus:        {plugin.status}")
            out.line(f"Requires:      {', '.join(plugin.requires) or '-'}")
            out.line(f"Capabilities:  {', '.join(plugin.capabilities) or '-'}")
            out.line(f"Exports:       {', '.join(f'{k}={v}' for k, v in plugin.exports.items()) or '-'}")
            out.line(f"Error:         {plugin.init_error}\n" if plugin.init_error else "")
        return
    out.table(
        ("TYPE", "ID", "PLATFORMS", "STATUS"),
        [(plugin.type, plugin.id, ",".join(plugin.platforms) or "-", plugin.status) for plugin in plugins],
        plugins,
        [plugin.id for plugin in plugins],
    )


def _inspect_runtime(args: argparse.Namespace, client: Client, out: Out) -> None:
    reference = runtimes.reference(args)
    options = RuntimeRequest(runtime_path=reference.name, options=reference.options)
    request = PluginInfoRequest(type=RUNTIME, id="tasks", options=msgspec.Raw(pack(options)))
    info = msgspec.msgpack.decode(client.introspection.plugin_info(request).extra, type=RuntimeInfo)
    out.json(
        {
            "name": info.name,
            "path": info.path,
            "version": {"version": info.version.version, "revision": info.version.revision},
            "options": msgspec.msgpack.decode(info.options),
            "features": msgspec.Raw(info.features or b"null"),
            "annotations": info.annotations,
            "warnings": info.warnings,
        }
    )
