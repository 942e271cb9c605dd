"""`ctr images check`: what of each image is here, and with --verify whether it is what it should be."""

import argparse
import os
import sys
from collections.abc import Iterator

from ctr import image, output, progress
from ctr.output import Out
from daemon.client.client import Client
from spec import errors
from spec.api import images as api
from spec.records import Image
from spec.types import Finding, Progress

HEADER = ("REF", "TYPE", "DIGEST", "STATUS", "SIZE", "UNPACKED")


def register(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    check = verbs.add_parser("check", help="show which images are complete and unpacked")
    check.add_argument("--snapshotter", default=os.environ.get("HOLDD_SNAPSHOTTER", ""))
    check.add_argument("--quiet", "-q", action="store_true", help="print the names of complete and unpacked ones only")
    check.add_argument(
        "--verify", action="store_true", help="hash every blob again and compare each snapshot with its layer"
    )
    check.add_argument(
        "--repair",
        action="store_true",
        help="verify, and put snapshots right in place; start anew what runs on them",
    )
    check.add_argument("filters", nargs="*")
    check.set_defaults(do=_check)


def _check(args: argparse.Namespace, client: Client, out: Out) -> int:
    """1 when verifying found something that is not right, nor was put right."""
    rows, findings, good = [], [], []
    for record in image.every(client, args.filters):
        row = _row(args, client, record)
        rows.append(row)
        found = _verified(args, client, record) if args.verify or args.repair else []
        findings += [(record.name, finding) for finding in found]
        if row[3].startswith("complete") and row[5] == "true" and all(finding.repaired for finding in found):
            good.append(record.name)
    if args.quiet:
        for name in good:
            out.line(name)
    else:
        out.columns([HEADER, *rows])
        if findings:
            out.line("")
            told = [_told(name, finding) for name, finding in findings]
            out.columns([("REF", "OBJECT", "PATH", "WHAT", "REPAIRED", "DETAIL"), *told])
    return int(not all(finding.repaired for _, finding in findings))


def _row(args: argparse.Namespace, client: Client, record: Image) -> tuple[str, ...]:
    parts = list(image.needed(client, record.target))
    here = [descriptor for descriptor, is_here in parts if is_here]
    size = sum(descriptor.size for descriptor in here)
    if not here:
        status, amount = "unavailable (0/?)", f"{output.size(0)}/?"
    else:
        status = f"{'complete' if len(here) == len(parts) else 'incomplete'} ({len(here)}/{len(parts)})"
        amount = f"{output.size(size)}/{output.size(sum(descriptor.size for descriptor, _ in parts))}"
    unpacked = str(_unpacked(args, client, record)).lower()
    return record.name, record.target.media_type, record.target.digest, status, amount, unpacked


def _unpacked(args: argparse.Namespace, client: Client, record: Image) -> bool:
    try:
        chain_id = image.resolve(client, record.name).chain_id
    except (errors.NotFound, errors.InvalidArgument):
        return False
    return image.is_unpacked(client, args.snapshotter, chain_id)


def _verified(args: argparse.Namespace, client: Client, record: Image) -> list[Finding]:
    found = []

    def told() -> Iterator[Progress]:
        request = api.CheckRequest(name=record.name, snapshotter=args.snapshotter, repair=args.repair)
        for reply in client.images.check(request):
            if reply.finding is not None:
                found.append(reply.finding)
            elif reply.progress is not None:
                yield reply.progress

    if sys.stdout.isatty():
        progress.draw(told(), sys.stdout)
    else:
        progress.finish(told())
    return found


def _told(name: str, finding: Finding) -> tuple[str, ...]:
    path = finding.path.decode(errors="backslashreplace") or "-"
    repaired = str(finding.repaired).lower()
    return name, finding.object, path, ",".join(finding.what), repaired, finding.detail or "-"
