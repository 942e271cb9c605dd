"""ctr images referrers."""

import argparse
import sys

from ctr import output, registry
from ctr.output import Out
from daemon.client.client import Client
from spec.api import transfer
from spec.oci.image import Descriptor


def register(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = verbs.add_parser("referrers", help="list what refers to an image in its registry: signatures and the like")
    registry.register(parser)
    output.register_list(parser)
    parser.add_argument("--artifact-type", action="append", default=[], metavar="TYPE", help="only of this; repeatable")
    parser.add_argument("ref", help="with a digest, of that manifest; one of another platform has another digest")
    parser.set_defaults(do=_referrers)


def _referrers(args: argparse.Namespace, client: Client, out: Out) -> None:
    request = transfer.ReferrersRequest(source=registry.source(args, args.ref), artifact_types=args.artifact_type)
    found: list[Descriptor] = []
    for block in client.transfer.referrers(request):
        found += block.referrers
        if block.http:
            sys.stderr.write(f"{block.http}\n")
    header = ("DIGEST", "ARTIFACT TYPE", "SIZE", "ANNOTATIONS")
    rows = [
        (one.digest, one.artifact_type or "-", output.size(one.size), output.labels(one.annotations)) for one in found
    ]
    out.table(header, rows, found, [one.digest for one in found])
