"""The schema's version, and the steps from older ones.

A step is a function that runs in the one write transaction of the migration. A store that is new is stamped with the
current version; one that is newer than this daemon is refused, untouched.
"""

from collections.abc import Callable, Sequence

from daemon.metadata import buckets
from daemon.metadata.store import Store, Txn
from daemon.metadata.table import GLOBAL
from spec import errors

# STEPS[n] leads from version n + 1 to n + 2.
STEPS: Sequence[Callable[[Txn], None]] = ()

_VERSION = buckets.key(GLOBAL, "schema", "version")


def migrate(store: Store, steps: Sequence[Callable[[Txn], None]] = STEPS) -> int:
    """Bring the store to the current version, which is returned."""
    return store.update(lambda txn: _migrate(txn, steps)).result()


def _migrate(txn: Txn, steps: Sequence[Callable[[Txn], None]]) -> int:
    current = len(steps) + 1
    stored = txn.get(_VERSION)
    version = current if stored is None else int(stored)
    if version > current:
        raise errors.FailedPrecondition(
            f"opening metadata: its schema is version {version}, this daemon knows {current}: a newer holdd wrote it"
        )
    for step in steps[version - 1 :]:
        step(txn)
    if stored is None or version != current:
        txn.put(_VERSION, str(current).encode())
    return current
