"""zstd, of any number of frames, skippable ones too (RFC 8878), a block at a time: a block inflates to 128 KiB at most,
so no input makes a call return more."""

from typing import Protocol

from zstandard import ZstdDecompressor, ZstdError

from spec import errors

CHUNK = 256 << 10  # bytes asked of the source at once
MAGIC = b"\x28\xb5\x2f\xfd"
SKIPPABLE = b"\x2a\x4d\x18"  # behind a byte from 0x50 to 0x5f (RFC 8878, 3.1.2)
EMPTIES = 1000  # frames or blocks in a row that hold nothing: work without end that no bound on the output ends


def is_zstd(head: bytes) -> bool:
    return head.startswith(MAGIC) or _is_skippable(head)


def _is_skippable(head: bytes | memoryview) -> bool:
    return len(head) >= 4 and head[0] >> 4 == 5 and bytes(head[1:4]) == SKIPPABLE


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class Unzstd:
    """What a source inflates to. Damaged or cut-off input is DataLoss."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._context = ZstdDecompressor()
        self._decoder = self._context.decompressobj(read_across_frames=False)
        self._input = memoryview(b"")
        self._frames = _Frames()
        self._output = memoryview(b"")
        self._empties = 0

    def readinto(self, buffer: memoryview, /) -> int:
        """How many bytes are in `buffer` now; 0 at the end."""
        done = 0
        while done < len(buffer):
            if not self._output:
                part = self._part()
                if part is None:
                    break
                self._output = memoryview(part)
            data = self._output[: len(buffer) - done]
            buffer[done : done + len(data)] = data
            self._output = self._output[len(data) :]
            done += len(data)
        return done

    def _part(self) -> bytes | None:
        """What the next piece inflates to; None at the end."""
        in_blocks = self._frames.in_blocks
        while (length := self._frames.next(self._input)) is None:
            more = self._source.read(CHUNK)
            if not more:
                if self._input or self._frames.inside:
                    raise errors.DataLoss("inflating zstd: it ends too early")
                return None
            self._input = memoryview(bytes(self._input) + more)
        piece, self._input = self._input[:length], self._input[length:]
        if self._decoder.eof:
            self._decoder = self._context.decompressobj(read_across_frames=False)
        try:
            data: bytes = self._decoder.decompress(piece)
        except ZstdError as exc:
            raise errors.DataLoss(f"inflating zstd: {exc}") from exc
        if self._decoder.eof == self._frames.inside or self._decoder.unused_data:
            raise errors.DataLoss("inflating zstd: a frame does not end where it says")
        if data:
            self._empties = 0
        elif in_blocks or not self._frames.inside:
            self._empties += 1
        if self._empties > EMPTIES:
            raise errors.ResourceExhausted(f"inflating zstd: more than {EMPTIES} blocks in a row hold nothing")
        return data


class _Frames:
    """Where frames and their blocks begin and end. What is no zstd goes to the decoder as it is, which says so."""

    def __init__(self) -> None:
        self.inside = True  # of a frame, also before the first: a layer has at least one
        self.in_blocks = False
        self._checksum = 0  # bytes of one
        self._skipping = 0  # bytes of a skippable frame

    def next(self, data: memoryview) -> int | None:
        """How long the next piece is, which is taken then; None when there is too little of it."""
        if self._skipping:
            return self._skip(data)
        return self._block(data) if self.in_blocks else self._header(data)

    def _header(self, data: memoryview) -> int | None:
        """RFC 8878, 3.1.1.1 and 3.1.2."""
        if len(data) < 8:
            return None
        if _is_skippable(data):
            self._skipping = 8 + int.from_bytes(data[4:8], "little")
            self.inside = True
            return self._skip(data)
        if bytes(data[:4]) != MAGIC:
            return len(data)
        flags = data[4]
        single = flags >> 5 & 1
        content = (1 if single else 0, 2, 4, 8)[flags >> 6]
        length = 5 + (1 - single) + (0, 1, 2, 4)[flags & 3] + content
        if len(data) < length:
            return None
        self._checksum = 4 if flags & 4 else 0
        self.in_blocks = self.inside = True
        return length

    def _block(self, data: memoryview) -> int | None:
        """RFC 8878, 3.1.1.2: three bytes of header, and of a repeated byte only that."""
        if len(data) < 3:
            return None
        header = int.from_bytes(data[:3], "little")
        last, kind, size = header & 1, header >> 1 & 3, header >> 3
        length = 3 + (1 if kind == 1 else size) + (self._checksum if last else 0)
        if len(data) < length:
            return None
        if last:
            self.in_blocks = self.inside = False
        return length

    def _skip(self, data: memoryview) -> int | None:
        length = min(self._skipping, len(data))
        if not length:
            return None
        self._skipping -= length
        self.inside = self._skipping > 0
        return length
