"""From a layer's bytes as stored to a plain tar: gzip and zstd, in process and in bounded memory.

A processor fills buffers from a Source. Damaged or cut-off input is DataLoss; what inflates beyond the bounds is
ResourceExhausted.
"""

from collections.abc import Callable
from gzip import BadGzipFile
from typing import Protocol

from isal import isal_zlib

from daemon.diff.bounds import Bounds
from daemon.diff.zstd import Unzstd, is_zstd
from spec import errors
from spec.oci import graph
from spec.ports import Source

CHUNK = 256 << 10  # bytes asked of the source at once; no gzip header is longer
GZIP_MAGIC = b"\x1f\x8b\x08"
FRUITLESS = 4 << 20  # bytes of gzip in a row that inflate to nothing: work without end that no bound on the output ends


class Filling(Protocol):
    """What fills buffers, which are used again."""

    def readinto(self, buffer: memoryview, /) -> int:
        """How many of its next bytes are in `buffer` now; 0 at the end."""


def opened(source: Source, media_type: str, bounds: Bounds = Bounds()) -> "Bounded":
    """`source` as a plain tar. Unimplemented for a media type that is no layer's."""
    kind = graph.compression(media_type)
    counted = Counted(source)
    plain: Filling = counted
    if kind:  # which compression the bytes say themselves
        plain = head = Peeked(counted)
        kind = sniffed(head.head)
        if kind == "gzip":
            plain = Gunzip(head)
        elif kind == "zstd":
            plain = Unzstd(head)
    return Bounded(plain, counted, bounds)


def sniffed(head: bytes) -> str:
    """gzip, zstd or nothing, by the first bytes."""
    if head.startswith(GZIP_MAGIC):
        return "gzip"
    return "zstd" if is_zstd(head) else ""


class Counted:
    """Counts what is read of a source."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._into = into(source)
        self.count = 0

    def read(self, size: int, /) -> bytes:
        data = self._source.read(size)
        self.count += len(data)
        return data

    def readinto(self, buffer: memoryview, /) -> int:
        got = self._into(buffer)
        self.count += got
        return got


class Peeked:
    """A source whose first bytes can be looked at."""

    def __init__(self, source: Counted) -> None:
        self._source = source
        self.head = b""
        while len(self.head) < 4 and (data := source.read(CHUNK)):
            self.head += data

    def read(self, size: int, /) -> bytes:
        if not self.head:
            return self._source.read(size)
        data, self.head = self.head[:size], self.head[size:]
        return data

    def readinto(self, buffer: memoryview, /) -> int:
        return _filled(buffer, self.read(len(buffer))) if self.head else self._source.readinto(buffer)


def into(source: Source) -> Callable[[memoryview], int]:
    """Its `readinto`, or what does the same by a copy."""
    return getattr(source, "readinto", None) or (lambda buffer: _filled(buffer, source.read(len(buffer))))


def _filled(buffer: memoryview, data: bytes) -> int:
    buffer[: len(data)] = data
    return len(data)


class Gunzip:
    """gzip, of any number of members (RFC 1952); zeros behind one are padding."""

    def __init__(self, source: Peeked) -> None:
        self._fed = _Fed(source)
        self._reader = isal_zlib._GzipReader(self._fed, CHUNK)  # type: ignore[arg-type]  # it calls `readinto` alone

    def readinto(self, buffer: memoryview, /) -> int:
        self._fed.fruitless = 0
        try:
            return self._reader.readinto(buffer)
        except (BadGzipFile, EOFError, OverflowError, isal_zlib.IsalError) as exc:  # type: ignore[misc]
            # (its stubs take the class for an instance)
            raise errors.DataLoss(f"inflating gzip: {exc}") from exc


class _Fed:
    """The file that is inflated."""

    def __init__(self, source: Peeked) -> None:
        self.read = source.read
        self._source = source
        self.fruitless = 0

    def readinto(self, buffer: memoryview, /) -> int:
        if self.fruitless > FRUITLESS:
            raise errors.ResourceExhausted(f"inflating gzip: more than {FRUITLESS} bytes in a row hold nothing")
        got = self._source.readinto(buffer)
        self.fruitless += got
        return got


class Bounded:
    """A Source, and what fills buffers. Ends what inflates too much."""

    def __init__(self, plain: Filling, counted: Counted, bounds: Bounds) -> None:
        self._plain = plain
        self._counted = counted
        self._bounds = bounds
        self._out = 0

    def read(self, size: int, /) -> bytes:
        buffer = memoryview(bytearray(size))
        return bytes(buffer[: self.readinto(buffer)])

    def close(self) -> None:
        """The source is closed by whoever opened it."""

    def readinto(self, buffer: memoryview, /) -> int:
        got = self._plain.readinto(buffer)
        self._out += got
        bounds = self._bounds
        if self._out > bounds.size:
            raise errors.ResourceExhausted(f"inflating: it is longer than {bounds.size} bytes")
        if self._out > bounds.slack and self._out > self._counted.count * bounds.ratio:
            raise errors.ResourceExhausted(f"inflating: it is more than {bounds.ratio} times as long as what was read")
        return got
