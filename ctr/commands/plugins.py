"""ctr plugins."""

import argparse

from ctr.output import Out, register_list
from daemon.client.client import Client
from spec.api.introspection import PluginsRequest


def register(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    ls = verbs.add_parser("ls", aliases=["list"], help="list the daemon's components")
    register_list(ls)
    ls.add_argument("--detailed", "-d", action="store_true", help="show what each requires and offers")
    ls.add_argument("filters", nargs="*")


def run(args: argparse.Namespace, client: Client, out: Out) -> int:
    plugins = client.introspection.plugins(PluginsRequest(filters=args.filters)).plugins
    if args.detailed:
        for plugin in plugins:
            out.line(f"Type:          {plugin.type}\nID:            {plugin.id}\nStatus:        {plugin.status}")
            out.line(f"Requires:      {', '.join(plugin.requires) or '-'}")
            out.line(f"Capabilities:  {', '.join(plugin.capabilities) or '-'}")
            out.line(f"Exports:       {', '.join(f'{k}={v}' for k, v in plugin.exports.items()) or '-'}")
            out.line(f"Error:         {plugin.init_error}\n" if plugin.init_error else "")
        return 0
    out.table(
        ("TYPE", "ID", "PLATFORMS", "STATUS"),
        [(plugin.type, plugin.id, ",".join(plugin.platforms) or "-", plugin.status) for plugin in plugins],
        plugins,
        [plugin.id for plugin in plugins],
    )
    return 0
