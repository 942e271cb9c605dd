"""ctr content."""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from typing import IO

from msgspec.structs import replace

from ctr import garbage, output, remote
from ctr.output import Out
from daemon.client.client import Client
from spec import errors, names
from spec.api import content as api

CHUNK = 1 << 20


def register(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    ls = verbs.add_parser("ls", aliases=["list"], help="list blobs")
    output.register_list(ls)
    ls.add_argument("filters", nargs="*")
    ls.set_defaults(do=_ls)
    active = verbs.add_parser("active", help="list what is being written")
    output.register_list(active)
    active.add_argument("--timeout", "-t", type=output.duration, default="0", metavar="DURATION", help="0: none")
    active.add_argument("pattern", nargs="?", default="", help="a regular expression of refs")
    active.set_defaults(do=_active)
    for name, aliases, do, text in (
        ("get", (), _get, "write blobs to standard output"),
        ("rm", ("remove", "delete", "del"), _rm, "remove blobs"),
    ):
        verb = verbs.add_parser(name, aliases=list(aliases), help=text)
        verb.add_argument("digests", nargs="+", metavar="digest")
        verb.set_defaults(do=do)
    verify = verbs.add_parser("verify", help="hash blobs again, all without a digest")
    verify.add_argument("--discard", action="store_true", help="take damaged ones away, to be pulled again")
    verify.add_argument("digests", nargs="*", metavar="digest")
    verify.set_defaults(do=_verify)
    label = verbs.add_parser("label", help="set labels; an empty value removes one")
    label.add_argument("digest")
    label.add_argument("labels", nargs="+", metavar="KEY=VALUE")
    label.set_defaults(do=_label)
    garbage.register(verbs)
    remote.register(verbs)
    _register_writes(verbs)


def _register_writes(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    ingest = verbs.add_parser("ingest", help="make a blob of standard input")
    ingest.add_argument("--expected-size", type=int, default=0, metavar="BYTES")
    ingest.add_argument("--expected-digest", default="", metavar="DIGEST")
    ingest.add_argument("ref", metavar="key")
    ingest.set_defaults(do=_ingest)
    edit = verbs.add_parser("edit", help="make a blob of an edited copy of another, and print its digest")
    edit.add_argument("--validate", choices=("json",), help="the form that the result must have")
    edit.add_argument("--editor", default=os.environ.get("EDITOR") or "vi", help="the command that edits a file")
    edit.add_argument("digest")
    edit.set_defaults(do=_edit)


def run(args: argparse.Namespace, client: Client, out: Out) -> int:
    return args.do(args, client, out) or 0


def _ls(args: argparse.Namespace, client: Client, out: Out) -> None:
    found = [info for block in client.content.list(api.ListRequest(filters=args.filters)) for info in block.info]
    rows = [
        (info.digest, output.size(info.size), output.age(info.created_at_ns), output.labels(info.labels))
        for info in found
    ]
    out.table(("DIGEST", "SIZE", "AGE", "LABELS"), rows, found, [info.digest for info in found])


def _active(args: argparse.Namespace, client: Client, out: Out) -> None:
    filters = [f"ref~={json.dumps(args.pattern)}"] if args.pattern else []
    bounded = client.using(timeout_s=args.timeout.total_seconds() or None)
    found = bounded.content.list_statuses(api.ListStatusesRequest(filters=filters)).statuses
    rows = [(status.ref, output.size(status.offset), output.age(status.started_at_ns)) for status in found]
    out.table(("REF", "SIZE", "AGE"), rows, found, [status.ref for status in found])


def _get(args: argparse.Namespace, client: Client, out: Out) -> None:
    sys.stdout.flush()
    for digest in args.digests:
        _copy(client, digest, sys.stdout.buffer)
    sys.stdout.buffer.flush()


def _copy(client: Client, digest: str, target: IO[bytes]) -> None:
    _, fds = client.content.open(api.OpenRequest(digest=digest))
    with os.fdopen(fds[0], "rb") as blob:
        while chunk := blob.read(CHUNK):
            target.write(chunk)


def _rm(args: argparse.Namespace, client: Client, out: Out) -> int:
    def remove(digest: str) -> None:
        client.content.delete(api.DeleteRequest(digest=digest))
        out.line(digest)

    return output.each(args.digests, remove)


def _verify(args: argparse.Namespace, client: Client, out: Out) -> int:
    """Prints those that are right; 1 when any is not."""

    def verify(digest: str) -> None:
        client.content.verify(api.VerifyRequest(digest=digest, discard=args.discard))
        out.line(digest)

    every = [info.digest for block in client.content.list(api.ListRequest()) for info in block.info]
    return output.each(args.digests or every, verify)


def _label(args: argparse.Namespace, client: Client, out: Out) -> None:
    labels = output.parse_labels(args.labels)
    info = replace(client.content.info(api.InfoRequest(digest=args.digest)), labels=labels)
    fields = [f"labels.{key}" for key in labels]
    out.line(output.labels(client.content.update(api.UpdateRequest(info=info, fields=fields)).labels))


def _ingest(args: argparse.Namespace, client: Client, out: Out) -> None:
    with contextlib.suppress(errors.AlreadyExists):  # what is wanted is there
        _write(client, args.ref, sys.stdin.buffer, args.expected_size, args.expected_digest)


def _write(client: Client, ref: str, source: IO[bytes], size: int = 0, expected: str = "") -> str:
    """A blob of all that `source` has, which stays until it is removed; its digest."""
    from daemon.client.proxies import RemoteContent

    with RemoteContent(client).writer(ref) as writer:
        if writer.status().offset:
            writer.truncate()  # of a stream that cannot be wound on
        while chunk := source.read(CHUNK):
            writer.write(chunk)
        return writer.commit(size, expected, {names.GC_ROOT: output.timestamp()})


def _edit(args: argparse.Namespace, client: Client, out: Out) -> None:
    with tempfile.NamedTemporaryFile(prefix="ctr-edit-") as copy:
        _copy(client, args.digest, copy)
        copy.flush()
        command = ["/bin/sh", "-c", f'{args.editor} "$1"', "sh", copy.name]
        if code := subprocess.run(command, check=False).returncode:
            raise errors.Aborted(f"editing {args.digest}: {args.editor} ended with {code}")
        with open(copy.name, "rb") as edited:  # by its name: an editor may put another file there
            if args.validate == "json":
                _check_json(args.digest, edited.read())
                edited.seek(0)
            ref = f"edit-{args.digest}"
            try:
                out.line(_write(client, ref, edited))
            except errors.AlreadyExists:
                edited.seek(0)
                out.line(_digest(edited))


def _check_json(digest: str, text: bytes) -> None:
    try:
        json.loads(text)
    except ValueError as exc:
        raise errors.InvalidArgument(f"editing {digest}: the result is no JSON: {exc}") from exc


def _digest(source: IO[bytes]) -> str:
    from spec import digest as digests

    running = digests.hasher()
    while chunk := source.read(CHUNK):
        running.update(chunk)
    return f"{digests.CANONICAL}:{running.hexdigest()}"
