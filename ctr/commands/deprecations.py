"""ctr deprecations."""

import argparse

from ctr import output
from ctr.output import Out, register_list
from daemon.client.client import Client
from spec.api.introspection import ServerRequest


def register(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    register_list(verbs.add_parser("ls", aliases=["list"], help="list what is used here and should not be"))


def run(args: argparse.Namespace, client: Client, out: Out) -> int:
    found = client.introspection.server(ServerRequest()).deprecations
    out.table(
        ("ID", "LAST OCCURRENCE", "MESSAGE"),
        [(notice.id, output.moment(notice.last_occurrence_ns), notice.message) for notice in found],
        found,
        [notice.id for notice in found],
    )
    return 0
