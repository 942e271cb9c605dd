"""From a layer's bytes as stored to a plain tar: gzip and zstd, in process and in bounded memory.

A processor is a Source over a Source. Damaged or cut-off input is DataLoss; what inflates beyond the bounds is
ResourceExhausted.
"""

from isal import isal_zlib

from daemon.diff.bounds import Bounds
from daemon.diff.zstd import Unzstd, is_zstd
from spec import errors
from spec.oci import graph
from spec.ports import Source

CHUNK = 256 << 10  # bytes asked of the source at once
GZIP_MAGIC = b"\x1f\x8b\x08"
GZIP_WINDOW = 31  # zlib's wbits for a gzip header
GULP = 64 << 10  # bytes of gzip at once: what is behind a member's end is copied, and members may be of a few bytes
EMPTIES = 1000  # members in a row that hold nothing: work without end that no bound on the output ends


def opened(source: Source, media_type: str, bounds: Bounds = Bounds()) -> Source:
    """`source` as a plain tar. Unimplemented for a media type that is no layer's."""
    kind = graph.compression(media_type)
    counted = Counted(source)
    plain: Source = counted
    if kind:  # which compression the bytes say themselves
        plain = head = Peeked(counted)
        kind = sniffed(head.head)
    if kind == "gzip":
        plain = Gunzip(plain)
    elif kind == "zstd":
        plain = Unzstd(plain)
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
        self.count = 0

    def read(self, size: int, /) -> bytes:
        data = self._source.read(size)
        self.count += len(data)
        return data

    def close(self) -> None:
        self._source.close()


class Peeked:
    """A source whose first bytes can be looked at."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.head = b""
        while len(self.head) < 4 and (data := source.read(CHUNK)):
            self.head += data

    def read(self, size: int, /) -> bytes:
        if not self.head:
            return self._source.read(size)
        data, self.head = self.head[:size], self.head[size:]
        return data

    def close(self) -> None:
        self._source.close()


class Gunzip:
    """gzip, of any number of members (RFC 1952)."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._inflater = isal_zlib.decompressobj(wbits=GZIP_WINDOW)
        self._input = memoryview(b"")
        self._empties = 0

    def read(self, size: int, /) -> bytes:
        while True:
            if self._inflater.eof and not self._next_member():
                return b""
            self._fill()
            gulp = self._input[:GULP]
            try:
                data: bytes = self._inflater.decompress(gulp, size)
            except isal_zlib.IsalError as exc:  # type: ignore[misc]  # its stubs take the class for an instance
                raise errors.DataLoss(f"inflating gzip: {exc}") from exc
            left = len(self._inflater.unconsumed_tail) + len(self._inflater.unused_data)
            self._input = self._input[len(gulp) - left :]
            if data:
                self._empties = 0
                return data
            if not gulp and not self._inflater.eof:
                raise errors.DataLoss("inflating gzip: it ends too early")

    def close(self) -> None:
        self._source.close()

    def _fill(self) -> None:
        if not self._input:
            self._input = memoryview(self._source.read(CHUNK))

    def _next_member(self) -> bool:
        """Whether another one follows; zeros behind the last are padding."""
        self._fill()
        while self._input and not self._input[0]:
            gulp = self._input[:GULP]
            self._input = self._input[len(gulp) - len(bytes(gulp).lstrip(b"\0")) :]
            self._fill()
        if not self._input:
            return False
        self._empties = _another(self._empties)
        self._inflater = isal_zlib.decompressobj(wbits=GZIP_WINDOW)
        return True


def _another(empties: int) -> int:
    """How many members without content there are in a row, with the one that begins."""
    if empties == EMPTIES:
        raise errors.ResourceExhausted(f"inflating: more than {EMPTIES} members in a row hold nothing")
    return empties + 1


class Bounded:
    """Ends what inflates too much."""

    def __init__(self, plain: Source, counted: Counted, bounds: Bounds) -> None:
        self._plain = plain
        self._counted = counted
        self._bounds = bounds
        self._out = 0

    def read(self, size: int, /) -> bytes:
        data = self._plain.read(size)
        self._out += len(data)
        bounds = self._bounds
        if self._out > bounds.size:
            raise errors.ResourceExhausted(f"inflating: it is longer than {bounds.size} bytes")
        if self._out > bounds.slack and self._out > self._counted.count * bounds.ratio:
            raise errors.ResourceExhausted(f"inflating: it is more than {bounds.ratio} times as long as what was read")
        return data

    def close(self) -> None:
        self._plain.close()
