"""A store's rows in memory, out of a file that LMDB shall not or cannot open."""

import contextlib
import os
from bisect import bisect_left
from collections.abc import Iterator, Mapping

import lmdb

from daemon.metadata import journal, sealed
from daemon.metadata.pages import Pages
from daemon.metadata.store import DATA, JOURNAL, UNSEALED, VERSION_KEY, View
from spec import errors


class Held(View):
    """A View of `rows`, by key, unsealed."""

    def __init__(self, rows: Mapping[bytes, bytes]) -> None:
        self.rows = dict(rows)
        self._keys = sorted(rows)

    def get(self, key: bytes) -> bytes | None:
        return self.rows.get(key)

    def items(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        for index in range(bisect_left(self._keys, prefix + start), len(self._keys)):
            key = self._keys[index]
            if not key.startswith(prefix):
                return
            yield key, self.rows[key]


def load(path: str | int) -> tuple[dict[bytes, bytes], list[str], int]:
    """Rows of a data.mdb that are sound, by key; what is wrong with it; its last transaction. Rows of before there were
    checksums are taken as they are."""
    with Pages(path) as pages:
        stored = dict(pages.rows())
        txn = pages.meta.txn if pages.meta is not None else 0
        faults = [*pages.faults]
    if not pages.size:
        faults = ["the file is empty"]
    if stored.get(VERSION_KEY) == UNSEALED:
        return stored, faults, txn
    bad = [key for key, row in stored.items() if not sealed.sound(key, row)]
    for key in bad:
        del stored[key]
        faults.append(f"row {sealed.name(key)}: its checksum differs")
    return {key: row[sealed.SIZE :] for key, row in stored.items()}, faults, txn


def salvage(directory: str) -> tuple[dict[bytes, bytes], list[str]]:
    """What is left of the store at `directory`, out of its pages and its journal, and what may be missing: nothing, if
    one of the two is whole and the later one."""
    try:
        rows, faults, txn = load(os.path.join(directory, DATA))
    except FileNotFoundError:
        rows, faults, txn = {}, ["data.mdb is not there"], 0
    logged: dict[bytes, bytes] = {}
    ends, _, tail = journal.read(os.path.join(directory, JOURNAL), logged)
    logged = {key: row[sealed.SIZE :] for key, row in logged.items() if sealed.sound(key, row)}
    if not faults and txn >= ends:
        return rows, []
    if ends >= txn and not tail and ends:
        return logged, []
    merged = {**rows, **logged} if ends >= txn else {**logged, **rows}
    return merged, [*faults, f"the journal ends with transaction {ends} of {txn}{tail and f': {tail}'}"]


def copy(directory: str, fd: int, compact: bool) -> None:
    """A consistent copy of the store at `directory` to an empty file, also while a daemon works on it. DataLoss."""
    try:
        size = os.stat(os.path.join(directory, DATA)).st_size
        with contextlib.closing(lmdb.open(directory, map_size=size, readonly=True, create=False)) as env:
            env.copyfd(fd, compact=compact)
    except FileNotFoundError as exc:
        raise errors.NotFound(f"copying metadata: there is none at {directory}") from exc
    except lmdb.Error as exc:
        raise errors.DataLoss(f"copying metadata at {directory}: {exc}") from exc
