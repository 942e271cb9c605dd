"""A KV in memory: for a component that is used alone, and for tests."""

import threading
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from spec.ports import KVTxn

T = TypeVar("T")


class DictKV:
    """Satisfies ports.KV. Durable means: as long as the object lives."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._rows: dict[bytes, bytes] = {}

    @contextmanager
    def view(self) -> Iterator[KVTxn]:
        with self._lock:
            yield _Txn(dict(self._rows))

    def update(self, change: Callable[[KVTxn], T]) -> T:
        with self._lock:
            rows = dict(self._rows)
            result = change(_Txn(rows))
            self._rows = rows
            return result


class _Txn:
    def __init__(self, rows: dict[bytes, bytes]) -> None:
        self._rows = rows
        self._keys = sorted(rows)

    def get(self, key: bytes) -> bytes | None:
        return self._rows.get(key)

    def put(self, key: bytes, value: bytes) -> None:
        if key not in self._rows:
            insort(self._keys, key)
        self._rows[key] = value

    def delete(self, key: bytes) -> bool:
        if key not in self._rows:
            return False
        del self._rows[key]
        del self._keys[bisect_left(self._keys, key)]
        return True

    def items(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        for key in self._keys[bisect_left(self._keys, prefix) :]:
            if not key.startswith(prefix):
                return
            yield key, self._rows[key]
