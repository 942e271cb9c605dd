"""The ring: the last events, in one file of a fixed size. Knows bytes and sequence numbers, no event.

The file is mapped, so that to append is to copy: no call that could wait, and nothing in between that the daemon's
death could take. What a power loss may take is what the kernel has not written back yet.

    page 0    magic (8 bytes), size of a segment (u64), identity of the file's layout
    then SEGMENTS of them, each
        first sequence number (u64), crc32 of that (u32), 0 (u32)
        records: length (u32), crc32 of the rest (u32), sequence number (u64), the bytes; padded to 8

A segment ends where no record of the next sequence number is. When all are full the oldest is begun anew. Integers are
little-endian.
"""

import logging
import mmap
import os
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from spec import errors

SEGMENTS = 8
MAGIC = b"holddev1"

_PAGE = 4096
_FILE = struct.Struct("<8sQ")
_SEGMENT = struct.Struct("<QII")
_RECORD = struct.Struct("<IIQ")
_SEQUENCE = struct.Struct("<Q")

log = logging.getLogger(__name__)


class Segment(NamedTuple):
    """Where one begins in the file, and the first sequence number in it."""

    start: int
    first: int


class Ring:
    """The file at `path`, about `size` bytes. Not safe to use from two threads at once.

    A file of another size is begun anew, with its sequence going on; so is one that cannot be read, with a warning.
    """

    def __init__(self, path: str, size: int) -> None:
        self._segment_size = max(_PAGE, size // SEGMENTS // _PAGE * _PAGE)
        self._segments: list[Segment] = []
        self._at = 0  # where the next record goes
        self.last = 0
        """The sequence number of the last record; 0 when there never was one."""
        try:
            self._open(path)
        except OSError as exc:
            raise errors.from_os(exc, f"opening the ring of events {path}") from exc

    @property
    def oldest(self) -> int:
        """The sequence number of the oldest record that is left; one more than `last` when there is none."""
        return self._segments[0].first

    @property
    def largest(self) -> int:
        """The most bytes a record may have."""
        return self._segment_size - _SEGMENT.size - _RECORD.size

    def append(self, payload: bytes) -> int:
        """Keep `payload`; its sequence number, one more than the last. ValueError for more than `largest` bytes."""
        length = len(payload)
        if length > self.largest:
            raise ValueError(f"a record of {length} bytes is larger than {self.largest}")
        end = _padded(self._at + _RECORD.size + length)
        if end > self._segments[-1].start + self._segment_size:
            self._turn()
            end = _padded(self._at + _RECORD.size + length)
        number = self.last + 1
        self._map[self._at + _RECORD.size : self._at + _RECORD.size + length] = payload
        crc = zlib.crc32(payload, zlib.crc32(_SEQUENCE.pack(number)))
        _RECORD.pack_into(self._map, self._at, length, crc, number)
        self._at = end
        self.last = number
        return number

    def read(self, after: int, limit: int, at: int = 0) -> tuple[list[tuple[int, bytes]], int]:
        """Up to `limit` records with sequence numbers above `after`, and where the next is: `at` for the next call,
        which spares it a search. Those that the ring has no more are left out."""
        number = max(after + 1, self.oldest)
        if number > self.last:
            return [], at
        index = max(index for index, segment in enumerate(self._segments) if segment.first <= number)
        if not at or number != after + 1 or self._record(at, number) is None:
            at = self._find(self._segments[index], number)
        found: list[tuple[int, bytes]] = []
        while number <= self.last and len(found) < limit:
            payload = self._record(at, number)
            if payload is None:
                self._release(self._segments[index])
                index += 1
                at = self._segments[index].start + _SEGMENT.size
                continue
            found.append((number, payload))
            at = _padded(at + _RECORD.size + len(payload))
            number += 1
        return found, at

    def close(self) -> None:
        """Write back and close; nothing may be called afterwards."""
        self._map.flush()
        self._map.close()

    def _open(self, path: str) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(fd).st_size
            if size and self._fits(fd, size):
                self._map = mmap.mmap(fd, size)
                self._recover()
                return
            following = self._following(fd, size, path) if size else 1
            self._make(fd)
            self.last = following - 1
            self._segments = [Segment(_PAGE, following)]
            self._begin(self._segments[0])
        finally:
            os.close(fd)

    def _fits(self, fd: int, size: int) -> bool:
        head = os.pread(fd, _FILE.size, 0)
        return head == _FILE.pack(MAGIC, self._segment_size) and size == _PAGE + SEGMENTS * self._segment_size

    def _following(self, fd: int, size: int, path: str) -> int:
        """The next sequence number of a file that is to be made anew, read as the file itself says it is laid out."""
        head = os.pread(fd, _FILE.size, 0)
        magic, segment_size = _FILE.unpack(head) if len(head) == _FILE.size else (b"", 0)
        if magic != MAGIC or size != _PAGE + SEGMENTS * segment_size:
            log.warning("the ring of events %s cannot be read: it begins anew", path)
            return 1
        ours, self._segment_size = self._segment_size, segment_size
        try:
            with mmap.mmap(fd, size) as self._map:
                self._recover()
                return self.last + 1
        finally:
            self._segment_size = ours

    def _make(self, fd: int) -> None:
        """All of it at once, so that no write to the map can find the disk full."""
        os.ftruncate(fd, 0)
        os.posix_fallocate(fd, 0, _PAGE + SEGMENTS * self._segment_size)
        self._map = mmap.mmap(fd, _PAGE + SEGMENTS * self._segment_size)
        _FILE.pack_into(self._map, 0, MAGIC, self._segment_size)

    def _recover(self) -> None:
        """Find the segments, and the end of the last one's records."""
        found = []
        for index in range(SEGMENTS):
            start = _PAGE + index * self._segment_size
            first, crc, _ = _SEGMENT.unpack_from(self._map, start)
            if first and crc == zlib.crc32(_SEQUENCE.pack(first)):
                found.append(Segment(start, first))
        found.sort(key=lambda segment: segment.first)
        if not found:
            found = [Segment(_PAGE, 1)]
            self._begin(found[0])
        ends = [self._end(segment) for segment in found]
        # A gap, after a power loss: what is before it cannot be told to be all.
        whole = len(found) - 1
        while whole and ends[whole - 1][1] == found[whole].first:
            whole -= 1
        self._segments = found[whole:]
        self._at, following = ends[-1]
        self.last = following - 1

    def _end(self, segment: Segment) -> tuple[int, int]:
        """Where a segment's records end, and the sequence number that would be next."""
        at, number = segment.start + _SEGMENT.size, segment.first
        for number, payload in self._walk(segment):
            at = _padded(at + _RECORD.size + len(payload))
            number += 1
        return at, number

    def _walk(self, segment: Segment) -> Iterator[tuple[int, bytes]]:
        at, number = segment.start + _SEGMENT.size, segment.first
        while (payload := self._record(at, number)) is not None:
            yield number, payload
            at = _padded(at + _RECORD.size + len(payload))
            number += 1

    def _find(self, segment: Segment, number: int) -> int:
        """Where record `number`, which is in `segment`, begins."""
        at = segment.start + _SEGMENT.size
        for _ in range(number - segment.first):
            at = _padded(at + _RECORD.size + _RECORD.unpack_from(self._map, at)[0])
        return at

    def _record(self, at: int, number: int) -> bytes | None:
        """The record at `at` if it is whole and has that sequence number."""
        if at + _RECORD.size > len(self._map):
            return None
        length, crc, found = _RECORD.unpack_from(self._map, at)
        if found != number or at + _RECORD.size + length > len(self._map):
            return None
        payload = self._map[at + _RECORD.size : at + _RECORD.size + length]
        return payload if crc == zlib.crc32(payload, zlib.crc32(_SEQUENCE.pack(number))) else None

    def _turn(self) -> None:
        """Begin the next segment, in the place of the oldest once all are taken."""
        full = self._segments[-1]
        start = full.start + self._segment_size
        if start == len(self._map):
            start = _PAGE
        self._segments = [segment for segment in self._segments if segment.start != start]
        self._segments.append(Segment(start, self.last + 1))
        self._begin(self._segments[-1])
        self._release(full)

    def _begin(self, segment: Segment) -> None:
        """The old head goes first: never are two heads of one sequence, nor records of another under a new one."""
        _SEGMENT.pack_into(self._map, segment.start, 0, 0, 0)
        self._at = segment.start + _SEGMENT.size
        _SEGMENT.pack_into(self._map, segment.start, segment.first, zlib.crc32(_SEQUENCE.pack(segment.first)), 0)

    def _release(self, segment: Segment) -> None:
        """Its pages stay the kernel's, and need not be ours: madvise(2), MADV_DONTNEED of a shared map."""
        self._map.madvise(mmap.MADV_DONTNEED, segment.start, self._segment_size)


def _padded(at: int) -> int:
    return (at + 7) & ~7
