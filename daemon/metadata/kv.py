"""A bucket of the store as a KV: where a snapshotter keeps its own truth."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from daemon.metadata import buckets
from daemon.metadata.store import Store, Txn, View
from daemon.metadata.table import GLOBAL
from spec.ports import KVTxn

T = TypeVar("T")


class BucketKV:
    """`name` is the bucket's; two KVs of different names share nothing. Keys end at 400 bytes."""

    def __init__(self, store: Store, *name: str) -> None:
        self._store = store
        self._prefix = buckets.prefix(GLOBAL, "kv", *name)

    @contextmanager
    def view(self) -> Iterator[KVTxn]:
        with self._store.view() as view:
            yield BucketView(view, self._prefix)

    def update(self, change: Callable[[KVTxn], T]) -> T:
        prefix = self._prefix
        return self._store.update(lambda txn: change(_BucketTxn(txn, prefix))).result()


class BucketView:
    """A bucket in one transaction."""

    def __init__(self, view: View, prefix: bytes) -> None:
        self._view = view
        self._prefix = prefix

    @classmethod
    def of(cls, view: View, *name: str) -> "BucketView":
        """What the KV of that name has in `view`."""
        return cls(view, buckets.prefix(GLOBAL, "kv", *name))

    def get(self, key: bytes) -> bytes | None:
        return self._view.get(self._prefix + key)

    def items(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        skip = len(self._prefix)
        for key, value in self._view.items(self._prefix + prefix):
            yield key[skip:], value

    def put(self, key: bytes, value: bytes) -> None:
        raise TypeError("a view cannot write")

    def delete(self, key: bytes) -> bool:
        raise TypeError("a view cannot write")


class _BucketTxn(BucketView):
    def __init__(self, txn: Txn, prefix: bytes) -> None:
        super().__init__(txn, prefix)
        self._txn = txn

    def put(self, key: bytes, value: bytes) -> None:
        self._txn.put(self._prefix + key, value)

    def delete(self, key: bytes) -> bool:
        return self._txn.delete(self._prefix + key)
