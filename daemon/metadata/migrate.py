"""The schema's version, and the steps from older ones.

A step is a function that runs in the one write transaction of the migration. A store that is new is stamped with the
current version; one that is newer than this daemon is refused, untouched.
"""

from collections.abc import Callable, Sequence

from daemon.metadata import buckets, sealed
from daemon.metadata.store import UNSEALED, Store, Txn
from daemon.metadata.table import GLOBAL
from spec import errors


def _seal(txn: Txn) -> None:
    """Rows have checksums from now on."""
    for key, value in list(txn.stored()):
        txn.put(key, value)


# STEPS[n] leads from version n + 1 to n + 2.
STEPS: Sequence[Callable[[Txn], None]] = (_seal,)

_VERSION = buckets.key(GLOBAL, "schema", "version")


def migrate(store: Store, steps: Sequence[Callable[[Txn], None]] = STEPS) -> int:
    """Bring the store to the current version, which is returned."""
    return store.update(lambda txn: _migrate(txn, steps)).result()


def version_of(told: bytes | None) -> bytes:
    """The schema's version of rows that are put into a store anew, and so have checksums; None: it is not known."""
    return b"%d" % (len(STEPS) + 1) if told is None else b"2" if told == UNSEALED else told


def _migrate(txn: Txn, steps: Sequence[Callable[[Txn], None]]) -> int:
    current = len(steps) + 1
    stored = next((value for key, value in txn.stored(_VERSION) if key == _VERSION), None)
    version = current if stored is None else _number(stored)
    if version > current:
        raise errors.FailedPrecondition(
            f"opening metadata: its schema is version {version}, this daemon knows {current}: a newer holdd wrote it"
        )
    if version < 1:
        raise errors.FailedPrecondition(f"opening metadata: its schema is version {version}, which there never was")
    for step in steps[version - 1 :]:
        step(txn)
    if stored is None or version != current:
        txn.put(_VERSION, str(current).encode())
    return current


def _number(stored: bytes) -> int:
    value = stored if stored == UNSEALED else sealed.unseal(_VERSION, stored)
    try:
        return int(value)
    except ValueError:
        raise errors.FailedPrecondition(f"opening metadata: its schema is version {value!r}, which is none") from None
