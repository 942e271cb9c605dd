"""Typed rows in one bucket a namespace: get, create, put, delete, scan."""

from collections.abc import Iterator
from typing import Generic, TypeVar

import msgspec

from daemon.metadata import buckets
from daemon.metadata.store import Store, Txn, View
from spec import errors
from spec.base import Record, pack

R = TypeVar("R", bound=Record)
PAGE = 100


class Table(Generic[R]):
    """Rows of one kind. `noun` names a row in errors; a row's path is its namespace and its id, which may have parts
    (a snapshot's are its snapshotter and its key)."""

    def __init__(self, kind: str, noun: str, record: type[R]) -> None:
        self.kind = kind
        self.noun = noun
        self._decoder = msgspec.msgpack.Decoder(record)

    def decode(self, row: bytes) -> R:
        """msgspec.DecodeError."""
        return self._decoder.decode(row)

    def find(self, view: View, namespace: str, *id: str) -> R | None:
        row = view.get(self._key(namespace, *id))
        return None if row is None else self._decoder.decode(row)

    def get(self, view: View, namespace: str, *id: str) -> R:
        """NotFound names the row."""
        record = self.find(view, namespace, *id)
        if record is None:
            raise errors.NotFound(f"{self._name(namespace, id)} not found")
        return record

    def create(self, txn: Txn, record: R, namespace: str, *id: str) -> R:
        """AlreadyExists names the row."""
        key = self._key(namespace, *id)
        if txn.get(key) is not None:
            raise errors.AlreadyExists(f"{self._name(namespace, id)} already exists")
        txn.put(key, pack(record))
        return record

    def put(self, txn: Txn, record: R, namespace: str, *id: str) -> R:
        txn.put(self._key(namespace, *id), pack(record))
        return record

    def delete(self, txn: Txn, namespace: str, *id: str) -> R:
        """The row that was there; NotFound names it."""
        record = self.get(txn, namespace, *id)
        txn.delete(self._key(namespace, *id))
        return record

    def scan(self, view: View, namespace: str, *bucket: str) -> Iterator[R]:
        """All rows of a namespace, or of a bucket in it, in order of id."""
        for _, row in view.items(buckets.prefix(namespace, self.kind, *bucket)):
            yield self._decoder.decode(row)

    def each(self, store: Store, namespace: str, *bucket: str) -> Iterator[R]:
        """All rows of a namespace, or of a bucket in it, in order of id, a page at a time: so a long list never holds
        one read transaction, and sees what changes behind it."""
        mark = b""
        while True:
            with store.view() as view:
                rows, mark = self.page(view, mark, PAGE, namespace, *bucket)
            yield from rows
            if not mark:
                return

    def page(self, view: View, after: bytes, limit: int, namespace: str, *bucket: str) -> tuple[list[R], bytes]:
        """Up to `limit` rows behind the mark `after` (b"" at first), and the next page's mark (b"" at the end)."""
        prefix = buckets.prefix(namespace, self.kind, *bucket)
        records: list[R] = []
        mark = b""
        for key, row in view.items(prefix, after):
            if key[len(prefix) :] == after:
                continue
            records.append(self._decoder.decode(row))
            if len(records) == limit:
                mark = key[len(prefix) :]
                break
        return records, mark

    def _key(self, namespace: str, *id: str) -> bytes:
        return buckets.key(namespace, self.kind, *id)

    def _name(self, namespace: str, id: tuple[str, ...]) -> str:
        where = "" if namespace == GLOBAL else f" in namespace {namespace}"
        return f"{self.noun} {'/'.join(id)}{where}"


# The bucket of rows that belong to no namespace; no identifier can be named so.
GLOBAL = "*"
