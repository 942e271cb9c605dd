"""The server against raw frames: what a client of another make, or a hostile one, can do."""

import array
import asyncio
import contextlib
import os
import random
import socket
import stat
import subprocess
import time
from collections.abc import Iterator

import msgspec
import pytest

from daemon.transport.dispatch import Dispatcher, Observed
from daemon.transport.unix import UnixServer, clear_stale
from spec import errors, wire
from tests.echo import SECONDS, Echo, Said, Server, Text


class Peer:
    """A connection that can say anything."""

    def __init__(self, path: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(SECONDS)
        self.sock.connect(path)
        self.decoder = wire.Decoder()
        self.frames: list[wire.Frame] = []

    def send(self, data: bytes | bytearray, fds: list[int] | None = None) -> None:
        if fds:
            socket.send_fds(self.sock, [data], fds)
        else:
            self.sock.sendall(data)

    def call(self, id: int, method: str, request: object = None, **more: object) -> None:
        self.send(wire.request(id, Echo.NAME, method, request or Text(), **more))

    def next(self) -> wire.Frame | None:
        """None once the server has hung up."""
        while not self.frames:
            try:
                data, ancillary, _, _ = self.sock.recvmsg(1 << 16, 4096, socket.MSG_CMSG_CLOEXEC)
            except ConnectionResetError:
                return None
            if not data:
                return None
            fds = array.array("i")
            for _, _, content in ancillary:
                fds.frombytes(content)
            frames = self.decoder.feed(data, fds)
            self.frames = [frame for frame in frames if frame != wire.Frame(frame.stream, wire.DATA, 6, b"", [])]
        return self.frames.pop(0)

    def response(self) -> wire.Response:
        frame = self.next()
        assert frame is not None
        assert frame.type == wire.RESPONSE
        return wire.decode_response(frame.body)

    def close(self) -> None:
        self.sock.close()


@pytest.fixture(params=["asyncio", "uvloop"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with Server(request.param) as server:
        yield server


@pytest.fixture
def peer(server: Server) -> Iterator[Peer]:
    with contextlib.closing(Peer(server.path)) as peer:
        yield peer


def until(condition) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        os.sched_yield()


def test_byte_by_byte(peer: Peer):
    for byte in wire.request(1, Echo.NAME, "Say", Text(text="hi")):
        peer.send(bytes([byte]))
    assert msgspec.msgpack.decode(peer.response().payload, type=Said).text == "hi"


def test_many_requests_at_once_are_answered_in_order(peer: Peer):
    ids = range(1, 400, 2)
    peer.send(b"".join(wire.request(id, Echo.NAME, "Say", Text(number=id)) for id in ids))
    numbers = []
    for id in ids:
        frame = peer.next()
        assert frame is not None
        assert frame.stream == id
        numbers.append(msgspec.msgpack.decode(wire.decode_response(frame.body).payload, type=Said).number)
    assert numbers == list(ids)


def test_calls_run_side_by_side(server: Server, peer: Peer):
    peer.call(1, "Hang")
    peer.call(3, "SayLater", Text(text="second"))
    frame = peer.next()
    assert frame is not None
    assert frame.stream == 3
    peer.send(wire.cancel(1))
    assert peer.response().status.code == errors.Canceled.code
    assert server.echo.ended == ["hang"]


@pytest.mark.parametrize(
    ("service", "method", "code", "words"),
    [
        ("test.Nobody", "Say", errors.Unimplemented.code, "unknown service test.Nobody"),
        (Echo.NAME, "Sing", errors.Unimplemented.code, "unknown method Sing"),
        (Echo.NAME, "Missing", errors.Unimplemented.code, "unknown method Missing"),
        ("test.Inside", "Where", errors.FailedPrecondition.code, "namespace is required"),
    ],
)
def test_what_is_not_there(peer: Peer, service: str, method: str, code: int, words: str):
    peer.send(wire.request(1, service, method, Text()))
    status = peer.response().status
    assert status.code == code
    assert words in status.message


def test_invalid_namespace(peer: Peer):
    peer.send(wire.request(1, "test.Inside", "Where", Text(), metadata={"namespace": "../up"}))
    assert peer.response().status.code == errors.InvalidArgument.code


def test_bad_payload_says_what_is_wrong(peer: Peer):
    peer.send(wire.request(1, Echo.NAME, "Say", {"text": 5}))
    status = peer.response().status
    assert status.code == errors.InvalidArgument.code
    assert "$.text" in status.message
    peer.send(wire.request(3, Echo.NAME, "Say", {"txet": "a typing error"}))
    assert "txet" in peer.response().status.message


def test_body_that_is_no_request_fails_its_call_only(peer: Peer):
    peer.send(wire.frame(1, wire.REQUEST, 0, "no request"))
    assert peer.response().status.code == errors.InvalidArgument.code
    peer.call(3, "Say")
    assert peer.response().status.code == 0


def test_defect_is_internal_and_keeps_its_secret(peer: Peer, caplog: pytest.LogCaptureFixture):
    peer.call(1, "Explode")
    status = peer.response().status
    assert status.code == errors.Internal.code
    assert "42" not in status.message
    assert "ValueError" in status.message
    assert "the secret is 42" in caplog.text


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", errors.InvalidArgument.code),
        (b"\x7f\xff\xff\xff\0\0\0\x09\x01\0", errors.ResourceExhausted.code),
        (bytes(wire.request(2, Echo.NAME, "Say", Text())), errors.InvalidArgument.code),
        (bytes(wire.data(5, 1)), errors.InvalidArgument.code),
        (bytes(wire.response(1, None)), errors.InvalidArgument.code),
    ],
)
def test_garbage_ends_its_connection_and_no_other(server: Server, peer: Peer, data: bytes, code: int):
    peer.call(1, "Hang") if data[:3] == b"GET" else None
    other = Peer(server.path)
    other.send(data)
    assert other.response().status.code == code
    assert other.next() is None
    other.close()
    peer.call(3, "Say")
    frame = peer.next()
    assert frame is not None
    assert frame.stream == 3


def test_too_long_a_frame_names_its_stream(peer: Peer):
    peer.send(b"\x7f\xff\xff\xff\0\0\0\x09\x01\0" + b"x" * 100000)
    frame = peer.next()
    assert frame is not None
    assert frame.stream == 9


def test_descriptors_nobody_asked_for_are_closed(server: Server, peer: Peer):
    read, write = os.pipe()
    peer.send(wire.request(1, Echo.NAME, "Say", Text(), fd_count=1), [write])
    assert peer.response().status.code == errors.InvalidArgument.code
    peer.send(wire.request(3, Echo.NAME, "Say", Text()), [write])
    assert peer.response().status.code == 0
    assert peer.response().status.code == errors.InvalidArgument.code
    os.close(write)
    assert os.read(read, 1) == b""
    os.close(read)


def test_descriptors_for_an_unfinished_frame_are_closed_with_the_connection(server: Server, peer: Peer):
    read, write = os.pipe()
    peer.send(wire.request(1, Echo.NAME, "Take", Text(), fd_count=1)[:12], [write])
    os.close(write)
    peer.close()
    assert os.read(read, 1) == b""
    os.close(read)


def test_descriptors_on_their_way_to_a_peer_who_vanishes_are_closed(server: Server, peer: Peer):
    """The leak guard says so: the server lives in this process."""
    for id in range(1, 1001, 2):
        peer.call(id, "Give", Text(number=15, text="x"))
    peer.close()
    until(lambda: server.connections() == 0)


def test_noise_kills_nothing(server: Server, peer: Peer):
    noise = random.Random(1)
    starts = [bytes(wire.request(1, Echo.NAME, method.name, Text(number=3))) for method in Echo.methods()]
    for _ in range(150):
        data = bytearray(noise.choice(starts) + noise.choice(starts))
        for _ in range(noise.randrange(6)):
            data[noise.randrange(len(data))] = noise.randrange(256)
        other = Peer(server.path)
        other.send(data)
        other.sock.shutdown(socket.SHUT_WR)
        while (frame := other.next()) is not None:
            for fd in frame.fds:
                os.close(fd)
        other.close()
    peer.call(1, "Say", Text(text="alive"))
    assert msgspec.msgpack.decode(peer.response().payload, type=Said).text == "alive"
    until(lambda: server.connections() == 1)


def test_vanishing_cancels_what_was_asked_for(server: Server, peer: Peer):
    peer.call(1, "Hang")
    peer.call(3, "Block")
    peer.call(5, "Flood", Text(number=1000))
    server.echo.wait_for(lambda: {"hang", "block"} <= set(server.echo.begun))
    assert peer.next() is not None
    peer.close()
    server.echo.wait_for(lambda: len(server.echo.ended) == 3)
    assert sorted(server.echo.ended) == ["Canceled", "flood", "hang"]
    until(lambda: server.connections() == 0)


def test_cancel_reaches_a_thread(server: Server, peer: Peer):
    peer.call(1, "Block")
    server.echo.wait_for(lambda: "block" in server.echo.begun)
    peer.send(wire.cancel(1))
    assert peer.response().status.code == errors.Canceled.code
    assert server.echo.ended == ["Canceled"]


def test_cancel_together_with_its_request(server: Server, peer: Peer):
    read, write = os.pipe()
    peer.send(wire.request(1, Echo.NAME, "TakeLater", Text(), fd_count=1) + wire.cancel(1), [write])
    os.close(write)
    assert peer.response().status.code == errors.Canceled.code
    assert os.read(read, 1) == b""
    os.close(read)


@pytest.mark.parametrize("method", ["Hang", "Block"])
def test_deadline(server: Server, peer: Peer, method: str):
    peer.call(1, method, timeout_ns=20_000_000)
    status = peer.response().status
    assert status.code == errors.DeadlineExceeded.code
    assert f"test.Echo/{method}" in status.message


def test_slow_reader_holds_the_stream_back(server: Server, peer: Peer):
    peer.call(1, "Flood", Text(number=100_000))
    time_of_rest = 0
    deadline = time.monotonic() + SECONDS
    last = -1
    while time_of_rest < 50 and time.monotonic() < deadline:
        count = int(server.on_loop(asyncio.sleep(0.001, len(server.echo.begun))))
        time_of_rest = time_of_rest + 1 if count == last else 0
        last = count
    assert 0 < last < 40
    assert peer.next() is not None
    peer.close()
    server.echo.wait_for(lambda: server.echo.ended == ["flood"])


def test_duplex_half_close(server: Server, peer: Peer):
    peer.send(wire.request(1, Echo.NAME, "Total", None, flags=wire.REMOTE_OPEN | wire.NO_DATA))
    for number in range(100):
        peer.send(wire.data(1, Text(number=number)))
    peer.send(wire.end(1))
    totals = []
    while (frame := peer.next()) is not None and frame.type == wire.DATA:
        totals.append(msgspec.msgpack.decode(frame.body, type=Said).number)
    assert totals == [sum(range(n + 1)) for n in range(100)] + [4950]
    assert frame is not None
    assert frame.flags & wire.REMOTE_CLOSED


def test_stream_says_that_it_is_open(server: Server, peer: Peer):
    peer.send(wire.request(1, Echo.NAME, "Total", None, flags=wire.REMOTE_OPEN | wire.NO_DATA))
    assert peer.sock.recv(100) == wire.opened(1)


def test_bad_message_ends_its_stream(peer: Peer):
    peer.send(wire.request(1, Echo.NAME, "Total", Text(number=1), flags=wire.REMOTE_OPEN))
    peer.send(wire.data(1, {"number": "x"}))
    first = peer.next()
    assert first is not None
    assert first.type == wire.DATA
    assert peer.response().status.code == errors.InvalidArgument.code
    peer.send(wire.data(1, Text()))  # too late, and no reason to complain
    peer.call(3, "Say")
    assert peer.response().status.code == 0


def test_message_after_half_close(peer: Peer):
    peer.send(wire.request(1, Echo.NAME, "Hang", Text()) + wire.data(1, Text()))
    assert peer.response().status.code == errors.InvalidArgument.code


def test_closing_says_so(server: Server, peer: Peer):
    peer.call(1, "Hang")
    server.echo.wait_for(lambda: "hang" in server.echo.begun)
    server.on_loop(server.server.close())
    status = peer.response().status
    assert status.code == errors.Unavailable.code
    assert peer.next() is None
    assert not os.path.exists(server.path)


def test_socket_is_ours_alone(server: Server):
    assert stat.S_IMODE(os.stat(server.path).st_mode) == 0o600


def test_observers_are_told():
    told: list[tuple[str, ...]] = []

    class Observer:
        def begun(self, call: Observed) -> None:
            told.append(("begun", call.method, call.trace))
            call.trace += "-mine"

        def ended(self, call: Observed, code: int) -> None:
            told.append(("ended", call.kind, call.service, call.method, str(code), f"{call.received}/{call.sent}"))

    with Server(observers=[Observer()]) as server, contextlib.closing(Peer(server.path)) as peer:
        for id, method in ((1, "Say"), (3, "Explode"), (5, "SayLater")):
            peer.call(id, method)
            peer.response()
        until(lambda: len(told) == 6)
    assert told == [
        ("begun", "Say", ""),
        ("ended", "unary", "test.Echo", "Say", "0", "1/1"),
        ("begun", "Explode", ""),
        ("ended", "unary", "test.Echo", "Explode", str(errors.Internal.code), "1/0"),
        ("begun", "SayLater", ""),
        ("ended", "unary", "test.Echo", "SayLater", "0", "1/1"),
    ]


def test_stale_socket_is_replaced(tmp_path):
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)
    clear_stale(path)
    assert not os.path.exists(path)
    clear_stale(path)


def test_live_socket_is_not_replaced(server: Server):
    with pytest.raises(errors.AlreadyExists, match="another daemon"):
        clear_stale(server.path)


def test_file_in_the_way_is_left(tmp_path):
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(errors.AlreadyExists, match="not a socket"):
        clear_stale(str(path))
    assert path.read_text() == "precious"


def test_unusable_path():
    async def listen() -> None:
        UnixServer(Dispatcher([])).listen("/nonexistent/dir/s")

    with pytest.raises(errors.NotFound, match="listening on /nonexistent/dir/s"):
        asyncio.run(listen())


def test_service_twice_is_a_defect():
    with pytest.raises(ValueError, match="twice"):
        Dispatcher([(Echo, object()), (Echo, object())])


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_another_user_is_turned_away(server: Server):
    """Whoever makes a socket pair is the peer of both ends."""
    program = (
        "import os, socket, sys\n"
        "out = socket.socket(fileno=int(sys.argv[1]))\n"
        "ours, theirs = socket.socketpair()\n"
        "socket.send_fds(out, [b'x'], [theirs.fileno()])\n"
        "theirs.close()\n"
        "ours.recv(1)\n"
    )
    inside, outside = socket.socketpair()
    with inside, outside:
        arguments = ["/usr/bin/python3", "-c", program, str(outside.fileno())]
        with subprocess.Popen(arguments, pass_fds=[outside.fileno()], user=65534, cwd="/") as process:
            inside.settimeout(SECONDS)
            _, (fd,), _, _ = socket.recv_fds(inside, 1, 1)

            async def adopt() -> None:
                server.server.adopt(socket.socket(fileno=fd))

            try:
                with pytest.raises(errors.PermissionDenied, match="65534"):
                    server.on_loop(adopt())
                assert process.wait(SECONDS) == 0
            finally:
                process.kill()
    assert server.connections() == 0
