"""Framing of the protocol, without I/O: bytes and descriptors in, frames out, and back. Knows no service.

A frame is ttrpc's header and a body, integers big-endian:

     0               4               8       9      10
    +---------------+---------------+-------+-------+----------------------+
    | length u32    | stream id u32 | type  | flags | body (length bytes)  |
    +---------------+---------------+-------+-------+----------------------+

    type   1 request (body: Request), 2 response (body: Response), 3 data (body: one message of the stream),
           4 cancel (no body; ours: ttrpc has none)
    flags  0x01 the sender sends no more on this stream, 0x02 it will send more, 0x04 the frame carries no message;
           the upper four bits are the number of descriptors that ride with the frame (ours)

Bodies are msgpack. A client's stream ids are odd and rise. A call is one request and one response; a request with flag
0x02 opens the sender's half of a stream, which a data frame with 0x01 ends. The server's messages are data frames and
its response, which always ends the stream, carries only the status then. A server at work on a stream that has nothing
to say yet says so with a data frame with 0x04: whoever subscribes to something then knows that from now on it misses
nothing. Descriptors are sent (SCM_RIGHTS) with the first byte of their frame.
"""

import struct
from collections import deque
from collections.abc import Iterable

import msgspec

from spec import errors
from spec.base import Record

REQUEST, RESPONSE, DATA, CANCEL = 1, 2, 3, 4
REMOTE_CLOSED, REMOTE_OPEN, NO_DATA = 0x01, 0x02, 0x04

HEADER_BYTES = 10
MAX_BODY_BYTES = 4 << 20
MAX_FDS = 15

# Keys of a request's metadata that the daemon knows; it leaves others alone.
NAMESPACE, LEASE, TRACE = "namespace", "lease", "traceparent"

# What msgspec raises for bytes of a peer: its own errors, and these two as they are.
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

NIL = msgspec.Raw(b"\xc0")
_HEADER = struct.Struct(">IIBB")
_encoder = msgspec.msgpack.Encoder()


class Request(Record, frozen=True):
    """Opens a stream. `timeout_ns` counts from when the server reads it; 0 is no deadline."""

    service: str
    method: str
    payload: msgspec.Raw = NIL
    timeout_ns: int = 0
    metadata: dict[str, str] = {}


class Status(Record, frozen=True):
    """`code` is that of `spec.errors`, 0 for success. `brief` is the message without what a runtime has said on a
    standard error that was handed over with the call (`fd://`), empty where it has said nothing there."""

    code: int = 0
    message: str = ""
    brief: str = ""


class Response(Record, frozen=True):
    """Ends a stream."""

    status: Status = Status()
    payload: msgspec.Raw = NIL


class _OutgoingRequest(Record, frozen=True):
    """Request with its payload not encoded yet: one pass and no copy."""

    service: str
    method: str
    payload: object
    timeout_ns: int = 0
    metadata: dict[str, str] = {}


class _OutgoingResponse(Record, frozen=True):
    payload: object
    status: Status = Status()


class Frame(msgspec.Struct, frozen=True):
    """One frame as it came. Whoever takes `fds` owns them."""

    stream: int
    type: int
    flags: int
    body: bytes
    fds: list[int]


_request_decoder = msgspec.msgpack.Decoder(Request)
_response_decoder = msgspec.msgpack.Decoder(Response)


def frame(stream: int, type: int, flags: int = 0, message: object = None, fd_count: int = 0) -> bytearray:
    """The bytes of a frame whose body is `message` as msgpack; NO_DATA in `flags` leaves the body empty.

    ResourceExhausted when it is past MAX_BODY_BYTES or MAX_FDS.
    """
    if fd_count > MAX_FDS:
        raise errors.ResourceExhausted(f"sending {fd_count} descriptors with one message: the limit is {MAX_FDS}")
    data = bytearray(HEADER_BYTES)
    if not flags & NO_DATA:
        _encoder.encode_into(message, data, HEADER_BYTES)
    length = len(data) - HEADER_BYTES
    if length > MAX_BODY_BYTES:
        raise errors.ResourceExhausted(f"sending a message of {length} bytes: the limit is {MAX_BODY_BYTES}")
    _HEADER.pack_into(data, 0, length, stream, type, flags | fd_count << 4)
    return data


def request(
    stream: int,
    service: str,
    method: str,
    payload: object,
    *,
    timeout_ns: int = 0,
    metadata: dict[str, str] | None = None,
    flags: int = 0,
    fd_count: int = 0,
) -> bytearray:
    """A request frame; NO_DATA in `flags` says that `payload` is none yet."""
    body = _OutgoingRequest(
        service=service, method=method, payload=payload, timeout_ns=timeout_ns, metadata=metadata or {}
    )
    data = frame(stream, REQUEST, flags & ~NO_DATA, body, fd_count)
    data[9] |= flags & NO_DATA
    return data


def response(stream: int, payload: object, fd_count: int = 0) -> bytearray:
    """The frame of a successful response."""
    return frame(stream, RESPONSE, REMOTE_CLOSED, _OutgoingResponse(payload=payload), fd_count)


def failure(stream: int, error: errors.Error) -> bytearray:
    """The frame of a response that says `error`; a message of absurd length is cut."""
    brief = error.brief[:65536] if error.brief != error.message else ""
    status = Status(code=error.code, message=error.message[:65536], brief=brief)
    return frame(stream, RESPONSE, REMOTE_CLOSED, Response(status=status))


def data(stream: int, message: object) -> bytearray:
    """The frame of one message of a stream."""
    return frame(stream, DATA, REMOTE_OPEN, message)


def opened(stream: int) -> bytearray:
    """The frame by which the server says that it is at work on a stream."""
    return frame(stream, DATA, REMOTE_OPEN | NO_DATA)


def end(stream: int) -> bytearray:
    """The frame that half-closes the client's side of a stream."""
    return frame(stream, DATA, REMOTE_CLOSED | NO_DATA)


def cancel(stream: int) -> bytearray:
    """The frame that gives a call up."""
    return frame(stream, CANCEL, REMOTE_CLOSED | NO_DATA)


def decode_request(body: bytes) -> Request:
    """InvalidArgument when it is not a Request."""
    try:
        return _request_decoder.decode(body)
    except UNREADABLE as exc:
        raise errors.InvalidArgument(f"decoding a request: {exc}") from exc


def decode_response(body: bytes) -> Response:
    """Internal when it is not a Response."""
    try:
        return _response_decoder.decode(body)
    except UNREADABLE as exc:
        raise errors.Internal(f"decoding a response: {exc}") from exc


class Fault(msgspec.Struct, frozen=True):
    """Why a connection cannot go on. `stream` is 0 when no stream is to blame."""

    stream: int
    error: errors.Error


class Decoder:
    """Turns what is received into frames. After a `fault` it takes no more: the connection is beyond repair."""

    def __init__(self, limit: int = MAX_BODY_BYTES) -> None:
        self.fault: Fault | None = None
        self._limit = limit
        self._rest = bytearray()
        self._fds: deque[int] = deque()

    def feed(self, received: bytes, fds: Iterable[int] = ()) -> list[Frame]:
        """All frames that are complete now. `fds` came with `received`; `leftovers` has those no frame claimed."""
        if fds:
            self._fds.extend(fds)
        frames: list[Frame] = []
        if self.fault is not None:
            return frames
        if self._rest:
            self._rest += received
            if len(self._rest) < self._wanted():
                self._check_unclaimed()
                return frames
            received = bytes(self._rest)
            self._rest.clear()
        consumed = self._cut(received, frames)
        if self.fault is None:
            if consumed < len(received):
                self._rest += memoryview(received)[consumed:]
            self._check_unclaimed()
        return frames

    def leftovers(self) -> list[int]:
        """Descriptors that no frame claimed, once: the caller closes them."""
        fds = list(self._fds)
        self._fds.clear()
        return fds

    @property
    def partial(self) -> bool:
        """Whether a frame has begun and not ended."""
        return bool(self._rest)

    def _wanted(self) -> int:
        """Bytes that the frame at the start of the rest needs, as far as known; spares copies of large frames."""
        if len(self._rest) < HEADER_BYTES:
            return HEADER_BYTES
        length: int = _HEADER.unpack_from(self._rest)[0]
        return HEADER_BYTES + length if length <= self._limit else HEADER_BYTES

    def _cut(self, received: bytes, frames: list[Frame]) -> int:
        """Append the frames in `received`; the number of bytes they took."""
        position, size = 0, len(received)
        while size - position >= HEADER_BYTES:
            length, stream, type, flags = _HEADER.unpack_from(received, position)
            if not REQUEST <= type <= CANCEL:
                self.fault = Fault(0, errors.InvalidArgument(f"reading a frame: {type} is no type of frame"))
                break
            if length > self._limit:
                message = f"reading a frame of {length} bytes: the limit is {self._limit}"
                self.fault = Fault(stream, errors.ResourceExhausted(message))
                break
            start = position + HEADER_BYTES
            if size - start < length:
                break
            fds: list[int] = []
            if flags >> 4 and not self._claim(flags >> 4, stream, fds):
                break
            position = start + length
            frames.append(Frame(stream, type, flags & 0x0F, received[start:position], fds))
        return position

    def _claim(self, count: int, stream: int, fds: list[int]) -> bool:
        if count > len(self._fds):
            message = f"reading a frame: it says {count} descriptors came with it, and {len(self._fds)} did"
            self.fault = Fault(stream, errors.InvalidArgument(message))
            return False
        fds.extend(self._fds.popleft() for _ in range(count))
        return True

    def _check_unclaimed(self) -> None:
        """Only a frame under way may own descriptors, so that a peer cannot pile them up."""
        if self._fds and (not self._rest or len(self._fds) > MAX_FDS):
            message = f"reading a frame: {len(self._fds)} descriptors came that no frame claims"
            self.fault = Fault(0, errors.InvalidArgument(message))
