"""The pages of an LMDB file, read without LMDB, which trusts what it maps: a damaged one can end the process. A walk
over all takes 2.2 microseconds a row.

Layout (lmdb.h, mdb.c of 0.9, 64 bits, little-endian), pages of 4096 bytes, each with a header of 16:
    number u64, pad u16, flags u16, lower u16, upper u16    (of overflow pages: their count u32, not the last two)
    0, 1       meta: magic u32, version u32, address u64, map size u64, tree of free pages, tree of rows, last page u64,
               transaction u64; the one of the later transaction counts
    a tree     pad u32, flags u16, depth u16, branch pages u64, leaf pages u64, overflow pages u64, rows u64, root u64
    a node     at each u16 behind the header: low u16, high u16, flags u16, key size u16, key, data
               in a branch low, high, flags are a page's number; in a leaf low, high are the size of the data, and
               flags 1 says that the data is the number of an overflow page
"""

import mmap
import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

PAGE = 4096
NONE = (1 << 64) - 1
_HEAD = struct.Struct("<QHHHH")
_META = struct.Struct("<IIQQ")
_TREE = struct.Struct("<IHHQQQQQ")
_TAIL = struct.Struct("<QQ")
_NODE = struct.Struct("<HHHH")
_NUMBER = struct.Struct("<Q")
_MAGIC, _FORMAT = 0xBEEFC0DE, 1
_BRANCH, _LEAF, _OVERFLOW, _METAPAGE, _DIRTY = 1, 2, 4, 8, 16
_BIG = 1
MOST = 100  # faults that are told


class Tree(NamedTuple):
    depth: int
    branches: int
    leaves: int
    overflows: int
    entries: int
    root: int


class Meta(NamedTuple):
    free: Tree
    rows: Tree
    last: int
    txn: int


class Damaged(Exception):
    """Of one page; the walk goes on beside it."""


class Pages:
    """The file at `path`, or the one open at that descriptor. A context manager. `faults` grows while `rows` is read to
    its end."""

    def __init__(self, path: str | int) -> None:
        self.faults: list[str] = []
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC) if isinstance(path, str) else os.dup(path)
        try:
            self.size = os.fstat(fd).st_size
            self._map = mmap.mmap(fd, 0, prot=mmap.PROT_READ) if self.size else None
        finally:
            os.close(fd)
        self._bytes = memoryview(self._map) if self._map is not None else memoryview(b"")
        self._seen: set[int] = set()
        self.meta = self._newest()

    def close(self) -> None:
        self._bytes.release()
        if self._map is not None:
            self._map.close()

    def __enter__(self) -> "Pages":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def rows(self) -> Iterator[tuple[bytes, bytes]]:
        """All rows that can be reached, in order, as stored; then whether the pages tell one story is in `faults`."""
        meta = self.meta
        if meta is None:
            return
        counts = [0, 0, 0, 0]
        before = b""
        for key, value in self._walk(meta.rows, counts):
            if key <= before:
                self._fault(f"row {key!r} is out of order")
            before = key
            counts[3] += 1
            yield key, value
        told = (meta.rows.branches, meta.rows.leaves, meta.rows.overflows, meta.rows.entries)
        if tuple(counts) != told:
            self._fault(f"there are {counts} branches, leaves, overflow pages and rows, but should be {list(told)}")
        self._check_free(meta)

    def _check_free(self, meta: Meta) -> None:
        """A page that is both free and in use would be written over."""
        free: set[int] = set()
        for key, value in self._walk(meta.free, [0, 0, 0, 0]):
            count = _NUMBER.unpack_from(value)[0] if len(value) >= 8 else NONE
            if len(key) != 8 or len(value) < 8 * (count + 1):
                self._fault("the list of free pages is cut short")
                return
            numbers = struct.unpack_from(f"<{count}Q", value, 8)
            if not free.isdisjoint(numbers) or len(set(numbers)) != count:
                self._fault("a page is free twice")
            free.update(numbers)
        if not free.isdisjoint(self._seen):
            self._fault(f"page {min(free & self._seen)} is free and in use")
        if free and (min(free) < 2 or max(free) > meta.last):
            self._fault("a page is free that there is not")

    def _fault(self, what: str) -> None:
        if len(self.faults) < MOST:
            self.faults.append(what)

    def _newest(self) -> Meta | None:
        metas = []
        for number in (0, 1):
            try:
                metas.append(self._meta(number))
            except (Damaged, struct.error) as exc:
                self._fault(f"meta page {number}: {exc}")
        return max(metas, key=lambda meta: meta.txn, default=None)

    def _meta(self, number: int) -> Meta:
        at = number * PAGE
        if self.size < at + PAGE:
            raise Damaged("the file is cut short")
        own, _, flags, _, _ = _HEAD.unpack_from(self._bytes, at)
        magic, version, _, _ = _META.unpack_from(self._bytes, at + 16)
        if (own, flags & _METAPAGE, magic, version) != (number, _METAPAGE, _MAGIC, _FORMAT):
            raise Damaged("it is none")
        at += 16 + _META.size
        pad = _TREE.unpack_from(self._bytes, at)[0]
        free, rows = (Tree(*_TREE.unpack_from(self._bytes, at + n * _TREE.size)[2:]) for n in (0, 1))
        last, txn = _TAIL.unpack_from(self._bytes, at + 2 * _TREE.size)
        if pad != PAGE:
            raise Damaged(f"pages of {pad} bytes")
        if (last + 1) * PAGE > self.size and rows.root != NONE:
            raise Damaged(f"it tells of {last + 1} pages, there are {self.size // PAGE}")
        return Meta(free, rows, last, txn)

    def _walk(self, tree: Tree, counts: list[int]) -> Iterator[tuple[bytes, bytes]]:
        if tree.root != NONE:
            yield from self._page(tree.root, tree.depth, b"", None, counts)

    def _page(
        self, number: int, depth: int, low: bytes, high: bytes | None, counts: list[int]
    ) -> Iterator[tuple[bytes, bytes]]:
        """Rows below a page, whose keys must be in [low, high)."""
        try:
            leaf, nodes = self._nodes(number, depth)
        except Damaged as exc:
            self._fault(f"page {number}: {exc}")
            return
        counts[leaf] += 1
        if leaf:
            for start, key in nodes:
                if key < low or (high is not None and key >= high):
                    self._fault(f"page {number}: row {key!r} does not belong here")
                try:
                    value = self._value(start, len(key), counts)
                except Damaged as exc:
                    self._fault(f"page {number}: row {key!r}: {exc}")
                else:
                    yield key, value
            return
        for index, (start, key) in enumerate(nodes):
            first, second, third, _ = _NODE.unpack_from(self._bytes, start)
            ends = nodes[index + 1][1] if index + 1 < len(nodes) else high
            yield from self._page(
                first | second << 16 | third << 32, depth - 1, key if index else low, ends, counts
            )

    def _nodes(self, number: int, depth: int) -> tuple[bool, list[tuple[int, bytes]]]:
        """Whether it is a leaf, and where its nodes are, with their keys."""
        flags, lower, upper = self._head(number)
        leaf = flags & ~_DIRTY == _LEAF
        if flags & ~_DIRTY not in (_LEAF, _BRANCH) or leaf != (depth == 1) or depth < 1:
            raise Damaged(f"flags {flags:#x} at depth {depth}")
        if not 16 <= lower <= upper <= PAGE or lower % 2:
            raise Damaged(f"its bounds are {lower} and {upper}")
        at = number * PAGE
        view = self._bytes
        nodes = []
        for offset in struct.unpack_from(f"<{(lower - 16) // 2}H", view, at + 16):
            if offset < upper or offset > PAGE - 8:
                raise Damaged(f"a node at {offset}")
            size = _NODE.unpack_from(view, at + offset)[3]
            if offset + 8 + size > PAGE:
                raise Damaged(f"a key of {size} bytes at {offset}")
            nodes.append((at + offset, bytes(view[at + offset + 8 : at + offset + 8 + size])))
        return leaf, nodes

    def _value(self, start: int, key_size: int, counts: list[int]) -> bytes:
        low, high, flags, _ = _NODE.unpack_from(self._bytes, start)
        size = low | high << 16
        begin = start + 8 + key_size
        room = PAGE - begin % PAGE if begin % PAGE else 0
        if flags & ~_BIG:
            raise Damaged(f"its flags are {flags:#x}")
        if not flags:
            if size > room:
                raise Damaged(f"it has {size} bytes, and room for {room}")
            return bytes(self._bytes[begin : begin + size])
        if room < 8:
            raise Damaged("its page's number is cut short")
        number = _NUMBER.unpack_from(self._bytes, begin)[0]
        flags, low, high = self._head(number)
        count = low | high << 16
        if flags & ~_DIRTY != _OVERFLOW or not count or number + count > self._last() + 1 or size > count * PAGE - 16:
            raise Damaged(f"page {number} does not hold its {size} bytes")
        self._seen.update(range(number + 1, number + count))
        counts[2] += count
        return bytes(self._bytes[number * PAGE + 16 : number * PAGE + 16 + size])

    def _head(self, number: int) -> tuple[int, int, int]:
        """Flags and bounds of a page that was not seen before."""
        if not 2 <= number <= self._last():
            raise Damaged("there is no such page")
        if number in self._seen:
            raise Damaged("it is in use twice")
        self._seen.add(number)
        own, _, flags, lower, upper = _HEAD.unpack_from(self._bytes, number * PAGE)
        if own != number:
            raise Damaged(f"its number is {own}")
        return flags, lower, upper

    def _last(self) -> int:
        return self.meta.last if self.meta is not None else 0
