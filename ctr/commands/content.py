"""ctr content."""

import argparse
import os
import sys

from ctr import output
from ctr.output import Out
from daemon.client.client import Client
from spec.api import content as api

CHUNK = 1 << 20


def register(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    ls = verbs.add_parser("ls", aliases=["list"], help="list blobs")
    output.register_list(ls)
    ls.add_argument("filters", nargs="*")
    ls.set_defaults(do=_ls)
    get = verbs.add_parser("get", help="write blobs to standard output")
    get.add_argument("digests", nargs="+", metavar="digest")
    get.set_defaults(do=_get)
    rm = verbs.add_parser("rm", aliases=["remove", "delete", "del"], help="remove blobs")
    rm.add_argument("digests", nargs="+", metavar="digest")
    rm.set_defaults(do=_rm)


def run(args: argparse.Namespace, client: Client, out: Out) -> int:
    return args.do(args, client, out) or 0


def _ls(args: argparse.Namespace, client: Client, out: Out) -> None:
    found = [info for block in client.content.list(api.ListRequest(filters=args.filters)) for info in block.info]
    rows = [
        (info.digest, output.size(info.size), output.age(info.created_at_ns), output.labels(info.labels))
        for info in found
    ]
    out.table(("DIGEST", "SIZE", "AGE", "LABELS"), rows, found, [info.digest for info in found])


def _get(args: argparse.Namespace, client: Client, out: Out) -> None:
    sys.stdout.flush()
    for digest in args.digests:
        _, fds = client.content.open(api.OpenRequest(digest=digest))
        with os.fdopen(fds[0], "rb") as blob:
            while chunk := blob.read(CHUNK):
                sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()


def _rm(args: argparse.Namespace, client: Client, out: Out) -> int:
    def remove(digest: str) -> None:
        client.content.delete(api.DeleteRequest(digest=digest))
        out.line(digest)

    return output.each(args.digests, remove)
