"""Whether what is stored holds together: records, blobs and snapshots, each by itself and between them.

Beside a running daemon it looks at a consistent copy of the records, and more than once while there is something to
tell: what changes meanwhile is no fault.
"""

import os
import tempfile
from collections.abc import Iterator

from daemon.config import Config
from daemon.content import fsck as content
from daemon.metadata import fsck as metadata
from daemon.metadata import held, store
from daemon.metadata.held import Held
from daemon.metadata.kv import BucketView
from daemon.metadata.tables import CONTENT, in_use
from daemon.snapshots import fsck as snapshots
from spec import errors
from spec.records import Fault

PASSES = 3


def check(config: Config, hashed: bool = False) -> list[Fault]:
    """All that is wrong. With `hashed` every blob is read. NotFound when there is no store."""
    directory = os.path.join(config.root, "metadata")
    if not os.path.isdir(directory):
        raise errors.NotFound(f"checking {config.root}: no holdd keeps anything there")
    try:
        lock = store.lock(directory)
    except errors.FailedPrecondition:
        found = _check_copy(config, directory, hashed)
        for _ in range(PASSES - 1):
            again = set(_check_copy(config, directory, hashed)) if found else set()
            found = [fault for fault in found if fault in again]
        return found
    try:
        return list(_check(config, os.path.join(directory, store.DATA), directory, hashed))
    finally:
        os.close(lock)


def _check_copy(config: Config, directory: str, hashed: bool) -> list[Fault]:
    """Of the records as a daemon has them now."""
    with tempfile.TemporaryFile(dir=directory) as file:
        held.copy(directory, file.fileno(), compact=False)
        return list(_check(config, file.fileno(), "", hashed))


def _check(config: Config, data: str | int, directory: str, hashed: bool) -> Iterator[Fault]:
    try:
        rows, faults, _ = held.load(data)
    except FileNotFoundError:
        rows, faults = {}, ["data.mdb is not there"]
    if directory and not faults:
        try:  # what the pages and the journal say of one another
            store.check(directory, config.metadata.sync)
        except errors.DataLoss as exc:
            faults = [exc.message]
    for what in faults:
        yield Fault(place="metadata", subject=store.DATA, what=what)
    if faults:
        return  # what is missing would show as faults everywhere else
    misfits = metadata.misfits(Held(rows))
    yield from metadata.faults(misfits)
    view = Held({key: value for key, value in rows.items() if key not in misfits})
    yield from content.check(os.path.join(config.root, "content"), recorded(view), hashed)
    for name, root in trees(config, view).items():
        yield from snapshots.check(name, root, BucketView.of(view, "snapshots", name), running=not directory)


def recorded(view: Held) -> dict[str, list[tuple[str, int]]]:
    """Namespace and size of each record of a blob, by digest."""
    found: dict[str, list[tuple[str, int]]] = {}
    for namespace in in_use(view):
        for info in CONTENT.scan(view, namespace):
            found.setdefault(info.digest, []).append((namespace, info.size))
    return found


def trees(config: Config, view: Held) -> dict[str, str]:
    """Where each of our snapshotters keeps its directories, of those that keep any."""
    roots = {}
    for name in type(config.snapshotter).__struct_fields__:
        root = getattr(config.snapshotter, name).root_path or os.path.join(config.root, "snapshots", name)
        if os.path.isdir(root) or any(BucketView.of(view, "snapshots", name).items(b"s")):
            roots[name] = root
    return roots
