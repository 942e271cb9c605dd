"""A KV in memory: for a component that is used alone, and for tests."""

import threading
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from spec.ports import KVTxn

T = TypeVar("T")


class DictKV:
    """Satisfies ports.KV. Durable means: as long as the object lives. An update replaces the rows, so a view that
    began before it still sees the old ones."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows = _Rows({}, [])

    @contextmanager
    def view(self) -> Iterator[KVTxn]:
        yield self._rows

    def update(self, change: Callable[[KVTxn], T]) -> T:
        with self._lock:
            txn = _Txn(dict(self._rows.values), list(self._rows.keys))
            result = change(txn)
            self._rows = _Rows(txn.values, txn.keys)
            return result


class _Rows:
    """`keys` are those of `values`, in order."""

    def __init__(self, values: dict[bytes, bytes], keys: list[bytes]) -> None:
        self.values = values
        self.keys = keys

    def get(self, key: bytes) -> bytes | None:
        return self.values.get(key)

    def items(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        for index in range(bisect_left(self.keys, prefix), len(self.keys)):
            key = self.keys[index]
            if not key.startswith(prefix):
                return
            yield key, self.values[key]

    def put(self, key: bytes, value: bytes) -> None:
        raise TypeError("a view cannot write")

    def delete(self, key: bytes) -> bool:
        raise TypeError("a view cannot write")


class _Txn(_Rows):
    def put(self, key: bytes, value: bytes) -> None:
        if key not in self.values:
            insort(self.keys, key)
        self.values[key] = value

    def delete(self, key: bytes) -> bool:
        if key not in self.values:
            return False
        del self.values[key]
        del self.keys[bisect_left(self.keys, key)]
        return True
