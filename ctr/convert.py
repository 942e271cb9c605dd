"""ctr images convert."""

import argparse

from ctr import output, progress
from ctr.output import Out
from daemon.client.client import Client
from spec.api import transfer


def register(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = verbs.add_parser("convert", help="make another form of an image")
    parser.add_argument("--oci", action="store_true", help="OCI's media types in place of Docker's")
    layers = parser.add_mutually_exclusive_group()
    layers.add_argument("--uncompress", action="store_const", dest="compression", const="uncompressed", default="",
                        help="store layers as plain tars")  # fmt: skip
    layers.add_argument("--gzip", action="store_const", dest="compression", const="gzip", help="as gzip")
    layers.add_argument("--zstd", action="store_const", dest="compression", const="zstd", help="as zstd")
    parser.add_argument("--platform", action="append", default=[], help="instead of the host's; may be repeated")
    parser.add_argument("--all-platforms", action="store_true", help="every platform")
    parser.add_argument("--label", action="append", default=[], metavar="KEY=VALUE", help="of the new image")
    progress.register(parser)
    parser.add_argument("source")
    parser.add_argument("target", help="its name; one that it has already is taken")
    parser.set_defaults(do=_convert)


def _convert(args: argparse.Namespace, client: Client, out: Out) -> None:
    destination = transfer.ImageStore(
        name=args.target,
        labels=output.parse_labels(args.label),
        platforms=args.platform,
        all_platforms=args.all_platforms,
        conversion=transfer.Conversion(compression=args.compression, oci=args.oci),
        force=True,
    )
    request = transfer.TransferRequest(source=transfer.ImageStore(name=args.source), destination=destination)
    progress.show(client.transfer.transfer(request), args)
