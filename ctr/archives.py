"""ctr images: what goes into archives and comes out of them."""

import argparse
import contextlib
import os
import stat
import sys
from collections.abc import Iterator

from ctr import image, output, progress
from ctr.output import Out
from daemon.client.client import Client
from spec import errors
from spec.api import transfer


def register(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    _register_import(verbs.add_parser("import", help="bring in the images of an archive, and unpack them"))
    _register_export(verbs.add_parser("export", help="write images to an archive"))


def _register_import(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base-name", default="", metavar="NAME", help="before mere tags; others stay out")
    parser.add_argument("--index-name", default="", metavar="NAME", help="of the whole: the only image, or the index")
    parser.add_argument("--digests", action="store_true", help="name each image by its digest, too")
    parser.add_argument("--skip-digest-for-named", action="store_true", help="only those that have no name")
    parser.add_argument("--platform", action="append", default=[], help="instead of the host's; may be repeated")
    parser.add_argument("--all-platforms", action="store_true", help="content of every platform")
    parser.add_argument("--no-unpack", action="store_true", help="content only")
    parser.add_argument("--compress-blobs", action="store_true", help="store layers that are not compressed as gzip")
    parser.add_argument("--snapshotter", default=os.environ.get("HOLDD_SNAPSHOTTER", ""), help="unpack into this one")
    parser.add_argument("--label", action="append", default=[], metavar="KEY=VALUE", help="of the images")
    progress.register(parser)
    output.accept(parser, "--local", "--sync-fs")
    parser.add_argument("file", help="an OCI layout or docker's, a tar, packed or not, or a directory; - for stdin")
    parser.set_defaults(do=_import)


def _import(args: argparse.Namespace, client: Client, out: Out) -> None:
    destination = transfer.ImageStore(
        name=args.index_name,
        labels=output.parse_labels(args.label),
        platforms=args.platform,
        all_platforms=args.all_platforms,
        all_metadata=True,
        unpacks=() if args.no_unpack else image.into(args.snapshotter, args.platform),
    )
    source = transfer.Archive(
        base_name=args.base_name,
        add_digest=args.digests,
        skip_named_digest=args.skip_digest_for_named,
        force_compress=args.compress_blobs,
    )
    fd = 0 if args.file == "-" else _opened(args.file, os.O_RDONLY)
    try:
        request = transfer.TransferRequest(source=source, destination=destination)
        progress.show(client.transfer.transfer(request, [fd]), args)
    finally:
        if fd:
            os.close(fd)


def _register_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--platform", action="append", default=[], help="instead of the host's; may be repeated")
    parser.add_argument("--all-platforms", action="store_true", help="every platform")
    parser.add_argument("--skip-manifest-json", action="store_true", help="without what docker reads")
    parser.add_argument(
        "--skip-non-distributable", action="store_true", help="without layers that may not be redistributed"
    )
    progress.register(parser)
    output.accept(parser, "--local")
    parser.add_argument("file", help="the archive, written anew; - for stdout")
    parser.add_argument("refs", nargs="+", metavar="ref")
    parser.set_defaults(do=_export)


def _export(args: argparse.Namespace, client: Client, out: Out) -> None:
    source = transfer.ImageStore(name=args.refs[0], extra_references=args.refs[1:])
    destination = transfer.Archive(
        platforms=args.platform,
        all_platforms=args.all_platforms,
        skip_compatibility_manifest=args.skip_manifest_json,
        skip_non_distributable=args.skip_non_distributable,
    )
    request = transfer.TransferRequest(source=source, destination=destination)
    if args.file == "-":
        sys.stdout.flush()
        progress.show(client.transfer.transfer(request, [sys.stdout.fileno()]), args, sys.stderr)
        return
    with _replacing(args.file) as fd:
        progress.show(client.transfer.transfer(request, [fd]), args)


@contextlib.contextmanager
def _replacing(path: str) -> Iterator[int]:
    """A descriptor of what becomes the file `path` when all went well; until then, what was there stays. What is no
    file, such as a FIFO, is written to."""
    try:
        is_file = stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        is_file = True
    where = os.path.realpath(path)
    partial = f"{where}.{os.getpid()}.partial" if is_file else where
    fd = _opened(partial, os.O_WRONLY | (os.O_CREAT | os.O_EXCL if is_file else 0))
    try:
        yield fd
        if is_file:
            os.rename(partial, where)
    except BaseException:
        if is_file:
            os.unlink(partial)
        raise
    finally:
        os.close(fd)


def _opened(path: str, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_CLOEXEC, 0o666)
    except OSError as exc:
        raise errors.from_os(exc, f"opening {path}") from exc
