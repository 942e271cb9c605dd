"""What was committed, once more, beside the store: a damaged one can be made anew from it.

Layout: MAGIC, then for each commit: size u32, CRC-32 u32, transaction u64, and `size` bytes of changes, each a key's
size u16, a value's size u32 (0xffffffff: deleted), key and row as stored. It begins with all rows as they were when it
was written anew. The CRC is of the transaction and the changes; what follows a commit that it does not fit is not read.

An append costs 5 of the 38 microseconds of CPU that a commit of one row takes, and is not synced: what a power loss
takes of it, the store has. So what may be lost are the seconds before a power loss that also damages the store.
"""

import contextlib
import errno
import os
import struct
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence

from daemon.kit import atomic

MAGIC = b"holdd journal 1\n"
SLACK = 4 << 20  # bytes that may follow before it is written anew, besides as many as it began with
RETRY_S = 10.0
CHUNK = 1 << 18
_HEAD = struct.Struct("<IIQ")
_CHANGE = struct.Struct("<HI")
_DELETED = 0xFFFFFFFF

Change = tuple[bytes, bytes | None]
"""A key and its row; None: deleted."""


class Journal:
    """The file at `path`, for one writer. Whatever befalls it costs no commit: a journal that cannot be written ends
    where it is, and is written anew when it can be."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.size = 0
        self._limit = 0
        self._fd = -1
        self._tried_s = -RETRY_S

    def resume(self, txn: int) -> bool:
        """Go on behind transaction `txn`, if it ends there."""
        ends, size, _ = read(self.path)
        if ends != txn or not size:
            return False
        self._open(size, size + SLACK)
        return True

    @property
    def ended(self) -> bool:
        """Whether it could not be written."""
        return self._fd < 0

    def stale(self) -> bool:
        """Whether it is to be written anew."""
        return (self.ended or self.size > self._limit) and time.monotonic() - self._tried_s >= RETRY_S

    def tried(self) -> None:
        """It is about to be, and if that fails not again for a while."""
        self._tried_s = time.monotonic()

    def append(self, txn: int, changes: Iterable[Change]) -> None:
        if self.ended:
            return
        data = memoryview(b"".join(_commit(txn, changes)))
        try:
            while data:
                written = os.pwrite(self._fd, data, self.size)
                self.size += written
                data = data[written:]
        except OSError:
            self.close()

    def rewrite(self, txn: int, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Begin anew with `rows` as of `txn`. OSError, and the old one stays."""
        self.close()
        self._tried_s = time.monotonic()
        size = draft(self.path, txn, rows)
        atomic.publish(_draft_of(self.path), self.path)
        self._open(size, 2 * size + SLACK)

    def replace(self, size: int, since: int) -> int:
        """Put a draft of `size` bytes, which has all that was appended here until `since`, in this one's place, with
        what was appended after; or stay. The old one's descriptor, or -1: the last close of a large file that has no
        name any more takes milliseconds, and is the caller's."""
        self._tried_s = time.monotonic()
        try:
            if self.ended:
                raise OSError(errno.EBADF, "it could not be written any more")
            catch_up(self.path, since, self.size)
            atomic.publish(_draft_of(self.path), self.path, durable=False)
        except OSError:
            forget(self.path)
            return -1
        old, self._fd = self._fd, -1
        with contextlib.suppress(OSError):  # then it ends here
            self._open(size + self.size - since, 2 * size + SLACK)
        return old

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self, size: int, limit: int) -> None:
        self._fd = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
        os.ftruncate(self._fd, size)
        self.size, self._limit = size, limit


def draft(path: str, txn: int, rows: Iterable[tuple[bytes, bytes]]) -> int:
    """A journal of `rows` as of `txn`, durable, beside the one at `path`; its size. OSError, and there is none.

    It is synced piece by piece: who syncs on the same disk meanwhile waits for one piece, and not for all."""
    try:
        with open(_draft_of(path), "wb", opener=private) as file:
            file.write(MAGIC)
            for part in _parts(rows):
                file.writelines(_commit(txn, part))
                file.flush()
                os.fdatasync(file.fileno())
            file.writelines(_commit(txn, ()))
            file.flush()
            os.fdatasync(file.fileno())
            return file.tell()
    except BaseException:
        forget(path)
        raise


def catch_up(path: str, since: int, until: int) -> None:
    """Append to the draft what the journal at `path` has from `since` to `until`. OSError."""
    with open(_draft_of(path), "ab") as file, open(path, "rb") as old:
        old.seek(since)
        while since < until:
            data = old.read(min(CHUNK, until - since))
            if not data:
                raise OSError(errno.EIO, f"{path} ends at {since}, before {until}")
            file.write(data)
            since += len(data)


def forget(path: str) -> None:
    """Remove the draft beside `path`, if there is one."""
    with contextlib.suppress(OSError):
        os.unlink(_draft_of(path))


def _draft_of(path: str) -> str:
    return f"{path}.new"


def read(path: str, rows: dict[bytes, bytes] | None = None) -> tuple[int, int, str]:
    """The transaction that it ends with (0: none), the bytes until there, and what is wrong behind; puts into `rows`
    what it comes to."""
    ends, good = 0, 0
    try:
        with open(path, "rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                return 0, 0, "it is none"
            good = len(MAGIC)
            while head := file.read(_HEAD.size):
                if len(head) < _HEAD.size:
                    return ends, good, "it is cut short"
                size, crc, txn = _HEAD.unpack(head)
                body = file.read(size)
                if len(body) < size or zlib.crc32(body, zlib.crc32(head[8:])) != crc:
                    return ends, good, "its checksum differs" if len(body) == size else "it is cut short"
                if rows is not None:
                    _apply(body, rows)
                ends, good = txn, good + len(head) + size
    except FileNotFoundError:
        return 0, 0, "there is none"
    except OSError as exc:
        if exc.errno != errno.EIO:
            raise
        return ends, good, "it cannot be read"
    return ends, good, ""


def _apply(body: bytes, rows: dict[bytes, bytes]) -> None:
    at = 0
    while at < len(body):
        key_size, size = _CHANGE.unpack_from(body, at)
        at += _CHANGE.size
        key = body[at : at + key_size]
        at += key_size
        if size == _DELETED:
            rows.pop(key, None)
        else:
            rows[key] = body[at : at + size]
            at += size


def _commit(txn: int, changes: Iterable[Change]) -> Sequence[bytes]:
    body = b"".join(
        _CHANGE.pack(len(key), _DELETED if row is None else len(row)) + key + (row or b"") for key, row in changes
    )
    crc = zlib.crc32(body, zlib.crc32(txn.to_bytes(8, "little")))
    return _HEAD.pack(len(body), crc, txn), body


def _parts(rows: Iterable[tuple[bytes, bytes]]) -> Iterator[list[Change]]:
    part: list[Change] = []
    size = 0
    for key, row in rows:
        part.append((key, row))
        size += len(key) + len(row)
        if size >= CHUNK:
            yield part
            part, size = [], 0
    if part:
        yield part


def private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
