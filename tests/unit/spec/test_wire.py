import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spec import errors, wire
from spec.api.version import VersionRequest


def header(length: int, stream: int = 1, type: int = wire.DATA, flags: int = 0) -> bytes:
    return struct.pack(">IIBB", length, stream, type, flags)


def test_request_goes_round():
    data = wire.request(3, "s", "M", VersionRequest(), timeout_ns=5, metadata={"namespace": "n"}, fd_count=2)
    (frame,) = wire.Decoder().feed(bytes(data), [7, 8])
    assert (frame.stream, frame.type, frame.flags, frame.fds) == (3, wire.REQUEST, 0, [7, 8])
    request = wire.decode_request(frame.body)
    assert (request.service, request.method, request.timeout_ns, request.metadata) == ("s", "M", 5, {"namespace": "n"})
    assert msgspec.msgpack.decode(request.payload, type=VersionRequest) == VersionRequest()


def test_header_is_ttrpcs():
    assert wire.data(0x01020304, None) == bytes.fromhex("00000001 01020304 03 02 c0")
    assert wire.end(1) == bytes.fromhex("00000000 00000001 03 05")
    assert wire.cancel(1) == bytes.fromhex("00000000 00000001 04 05")


def test_failure_says_code_and_message():
    (frame,) = wire.Decoder().feed(bytes(wire.failure(1, errors.NotFound("no image x"))))
    assert wire.decode_response(frame.body).status == wire.Status(code=5, message="no image x")


def test_failure_may_be_brief():
    (frame,) = wire.Decoder().feed(bytes(wire.failure(1, errors.Unknown("run x: no such file", "run x"))))
    status = wire.decode_response(frame.body).status
    assert status == wire.Status(code=2, message="run x: no such file", brief="run x")
    error = errors.from_code(status.code, status.message, status.brief)
    assert (error.message, error.brief, str(error)) == ("run x: no such file", "run x", "run x: no such file")
    assert errors.from_code(2, "m").brief == errors.Unknown("m", "").brief == "m"


def test_failure_cuts_an_absurd_message():
    absurd = "x" * (wire.MAX_BODY_BYTES + 1)
    assert len(wire.failure(1, errors.NotFound(absurd, f"{absurd}!"))) < 1 << 18


def test_too_long_a_message_is_not_sent():
    with pytest.raises(errors.ResourceExhausted):
        wire.data(1, b"x" * wire.MAX_BODY_BYTES)
    with pytest.raises(errors.ResourceExhausted):
        wire.response(1, None, fd_count=16)


def test_longest_message_is_read():
    body = b"x" * (wire.MAX_BODY_BYTES - 5)  # msgpack's header of a bin this long takes 5
    (frame,) = wire.Decoder().feed(bytes(wire.data(1, body)))
    assert msgspec.msgpack.decode(frame.body) == body


def test_too_long_a_frame_is_a_fault_of_its_stream_after_what_came_before():
    decoder = wire.Decoder()
    frames = decoder.feed(bytes(wire.data(1, 5)) + header(wire.MAX_BODY_BYTES + 1, stream=9), [])
    assert [frame.stream for frame in frames] == [1]
    assert decoder.fault is not None
    assert decoder.fault.stream == 9
    assert isinstance(decoder.fault.error, errors.ResourceExhausted)
    assert decoder.feed(bytes(wire.data(1, 5)), [4]) == []
    assert decoder.leftovers() == [4]


@pytest.mark.parametrize("type", [0, 5, 255])
def test_garbage_is_a_fault(type: int):
    decoder = wire.Decoder()
    assert decoder.feed(header(0, type=type)) == []
    assert decoder.fault is not None
    assert isinstance(decoder.fault.error, errors.InvalidArgument)


def test_descriptors_nobody_claims_are_a_fault_and_left_over():
    decoder = wire.Decoder()
    assert len(decoder.feed(bytes(wire.data(1, 5)), [3, 4])) == 1
    assert decoder.fault is not None
    assert decoder.leftovers() == [3, 4]
    assert decoder.leftovers() == []


def test_descriptors_that_did_not_come_are_a_fault():
    decoder = wire.Decoder()
    assert decoder.feed(header(0, flags=3 << 4), [1, 2]) == []
    assert decoder.fault is not None
    assert decoder.leftovers() == [1, 2]


def test_descriptors_may_not_pile_up_behind_one_unfinished_frame():
    decoder = wire.Decoder()
    decoder.feed(header(100), range(10))
    assert decoder.fault is None
    decoder.feed(b"x", range(10))
    assert decoder.fault is not None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\x80",
        b"\x81\xa7service\x05",
        b"\x81\xa7service\xa1\xff",
        b"\x91" * 500,
        b"\x81\xa1x" * 5000,
    ],
)
def test_bad_request_is_invalid(body: bytes):
    with pytest.raises(errors.InvalidArgument):
        wire.decode_request(body)


def test_unknown_keys_of_a_request_are_let_be():
    body = msgspec.msgpack.encode({"service": "s", "method": "M", "future": [1]})
    assert wire.decode_request(body).method == "M"


frames = st.lists(
    st.tuples(
        st.integers(0, 2**32 - 1),
        st.sampled_from([wire.REQUEST, wire.RESPONSE, wire.DATA, wire.CANCEL]),
        st.integers(0, 7),
        st.binary(max_size=60),
        st.integers(0, wire.MAX_FDS),
    ),
    max_size=8,
)


@given(frames, st.lists(st.integers(1, 90), max_size=40))
def test_any_cut_gives_the_same_frames(sent: list[tuple[int, int, int, bytes, int]], cuts: list[int]):
    stream = bytearray()
    starts = {}
    next_fd = 100
    for id, type, flags, body, count in sent:
        starts[len(stream)] = list(range(next_fd, next_fd + count))
        next_fd += count
        stream += header(len(body), id, type, flags | count << 4) + body
    decoder = wire.Decoder()
    got = []
    position = 0
    for cut in [*cuts, len(stream)]:
        end = min(position + cut, len(stream))
        # As the kernel does: one read ends after a message with descriptors, here at each frame's first byte.
        while position < end:
            stop = min([end, *(start + 1 for start in starts if start >= position and starts[start])])
            fds = [fd for start in range(position, stop) for fd in starts.get(start, ())]
            got += decoder.feed(bytes(stream[position:stop]), fds)
            position = stop
    assert decoder.fault is None
    assert [(f.stream, f.type, f.flags, f.body, len(f.fds)) for f in got] == sent
    assert [fd for f in got for fd in f.fds] == list(range(100, next_fd))
    assert not decoder.partial
    assert decoder.leftovers() == []


@given(st.lists(st.tuples(st.binary(max_size=200), st.lists(st.integers(3, 9), max_size=20)), max_size=20))
def test_garbage_never_raises_and_loses_no_descriptor(chunks: list[tuple[bytes, list[int]]]):
    decoder = wire.Decoder()
    out: list[int] = []
    for chunk, fds in chunks:
        for frame in decoder.feed(chunk, fds):
            out += frame.fds
    out += decoder.leftovers()
    assert out == [fd for _, fds in chunks for fd in fds]
