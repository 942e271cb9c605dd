import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from daemon.client import connect
from daemon.client.client import Client
from spec import errors, protocol, wire
from spec.api.version import VersionRequest
from tests.echo import SECONDS, Echo, Inside, Server, Text


@pytest.fixture(params=["asyncio", "uvloop"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with Server(request.param) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with connect(server.path, timeout_s=SECONDS) as client:
        yield client


def until(condition) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        os.sched_yield()


def test_unary(client: Client):
    assert Echo(client).say(Text(text="hi", number=3)).text == "hi"
    assert Echo(client).say_later(Text(text="later")).text == "later"


def test_address_may_be_a_uri(server: Server):
    with connect(f"unix://{server.path}") as client:
        assert Echo(client).say(Text(text="hi")).text == "hi"


def test_connection_is_used_again(server: Server, client: Client):
    for _ in range(20):
        Echo(client).say(Text())
    assert server.connections() == 1


@pytest.mark.parametrize("code", errors.CLASSES)
def test_error_is_of_its_class(client: Client, code: int):
    with pytest.raises(errors.CLASSES[code], match="no image x"):
        Echo(client).fail(Text(number=code, text="no image x"))


def test_error_leaves_the_connection_good(server: Server, client: Client):
    for _ in range(5):
        with pytest.raises(errors.NotFound):
            Echo(client).fail(Text(number=errors.NotFound.code))
    assert server.connections() == 1


def test_unserved_service_is_unimplemented(client: Client):
    with pytest.raises(errors.Unimplemented, match=r"holdd\.services\.version\.v1\.Version"):
        client.version.version(VersionRequest())


def test_namespace_and_lease_travel(client: Client):
    inside = Inside(client.using(namespace="here", lease="l1"))
    assert inside.where(Text()).text == "here/l1"
    assert inside.where(Text()).number == os.getpid()
    with pytest.raises(errors.FailedPrecondition):
        Inside(client).where(Text())


def test_every_stub_is_a_service(server: Server):
    with connect(server.path) as client:
        for service in protocol.SERVICES:
            assert type(getattr(client, service.__name__.lower())) is service


def test_no_daemon(tmp_path):
    path = str(tmp_path / "s")
    with connect(path) as client, pytest.raises(errors.Unavailable, match=f"connecting to {path}: no such file"):
        Echo(client).say(Text())


def test_nobody_listens(tmp_path):
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        with connect(path) as client, pytest.raises(errors.Unavailable, match="refused"):
            Echo(client).say(Text())


def test_daemon_that_restarted_is_found_again(server: Server, client: Client):
    Echo(client).say(Text())
    server.on_loop(_drop_all(server))
    assert Echo(client).say(Text(text="again")).text == "again"


async def _drop_all(server: Server) -> None:
    for connection in list(server.server._connections):
        connection.close()


def test_hanging_up_in_a_call_is_unavailable(server: Server, client: Client):
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(Echo(client).hang, Text())
        server.echo.wait_for(lambda: "hang" in server.echo.begun)
        server.on_loop(_drop_all(server))
        with pytest.raises(errors.Unavailable):
            call.result(SECONDS)


def test_largest_message_both_ways(client: Client):
    data = os.urandom(4_000_000)
    assert Echo(client).say(Text(data=data)).data == data


def test_too_large_a_message_is_not_sent(server: Server, client: Client):
    with pytest.raises(errors.ResourceExhausted):
        Echo(client).say(Text(data=bytes(wire.MAX_BODY_BYTES)))
    assert Echo(client).say(Text(text="still")).text == "still"


def test_deadline(server: Server, client: Client):
    with pytest.raises(errors.DeadlineExceeded):
        Echo(client.using(timeout_s=0.05)).hang(Text())
    server.echo.wait_for(lambda: server.echo.ended == ["hang"])
    assert Echo(client).say(Text(text="still")).text == "still"


def test_server_stream(client: Client):
    assert [said.number for said in Echo(client).count(Text(number=1000))] == list(range(1000))
    assert list(Echo(client).count(Text(number=0))) == []


def test_server_stream_ends_with_an_error(client: Client):
    stream = Echo(client).count(Text(number=2, text="the rest is gone"))
    assert [next(stream).number, next(stream).number] == [0, 1]
    with pytest.raises(errors.DataLoss, match="the rest is gone"):
        next(stream)
    with pytest.raises(StopIteration):
        next(stream)


def test_stream_is_at_work_when_it_is_handed_out(server: Server, client: Client):
    for round in range(30):
        stream = Echo(client).watch(Text())
        Echo(client).touch(Text(number=round))
        assert next(stream).number == round
        stream.close()


def test_stream_that_fails_at_once(client: Client):
    with pytest.raises(errors.DataLoss):
        list(Echo(client).count(Text(text="nothing is left")))


def test_dropping_a_stream_cancels_it(server: Server, client: Client):
    for said in Echo(client).flood(Text(number=10)):
        if said.number == 3:
            break
    server.echo.wait_for(lambda: server.echo.ended == ["flood"])
    until(lambda: server.connections() == 0)


def test_unary_calls_go_on_beside_a_stream(client: Client):
    stream = Echo(client).flood(Text(number=100_000))
    for number in range(10):
        assert Echo(client).say(Text(number=number)).number == number
        assert next(stream).number == number
    del stream


def test_duplex(server: Server, client: Client):
    stream = Echo(client).total()
    for number in (1, 2, 3):
        stream.send(Text(number=number))
    assert [stream.receive().number for _ in range(3)] == [1, 3, 6]
    stream.close_send()
    assert stream.receive().text == "end"
    for _ in range(2):
        with pytest.raises(EOFError):
            stream.receive()
    with pytest.raises(errors.FailedPrecondition):
        stream.send(Text())
    assert server.connections() == 1


def test_closing_a_duplex_cancels_it(server: Server, client: Client):
    stream = Echo(client).total()
    stream.send(Text(number=1))
    assert stream.receive().number == 1
    stream.close()
    server.echo.wait_for(lambda: server.echo.ended == ["total"])


def test_duplex_sends_far_ahead(client: Client):
    stream = Echo(client).total()

    def send() -> None:
        for _ in range(3000):
            stream.send(Text(number=1, data=bytes(1000)))
        stream.close_send()

    sender = threading.Thread(target=send)
    sender.start()
    assert sum(1 for _ in stream) == 3001
    sender.join(SECONDS)


def test_descriptors_come(client: Client):
    reply, fds = Echo(client).give(Text(number=15, text="inside"))
    try:
        assert reply.number == len(fds) == 15
        assert {os.read(fd, 100) for fd in fds} == {b"inside"}
        assert not any(os.get_inheritable(fd) for fd in fds)
    finally:
        for fd in fds:
            os.close(fd)


def test_too_many_descriptors_are_an_error_and_closed(client: Client):
    with pytest.raises(errors.ResourceExhausted):
        Echo(client).give(Text(number=16))


@pytest.mark.parametrize("method", ["take", "take_later"])
def test_descriptors_go_and_stay_ours(client: Client, method: str):
    read, write = os.pipe()
    os.write(write, b"through the pipe")
    reply = getattr(Echo(client), method)(Text(), [read])
    assert (reply.text, reply.number) == ("through the pipe", 1)
    os.close(read)
    os.close(write)


def test_descriptors_go_with_a_stream(client: Client):
    read, write = os.pipe()
    os.write(write, b"through the pipe")
    (reply,) = Echo(client).take_many(Text(), [read])
    assert (reply.text, reply.number) == ("through the pipe", 1)
    os.close(read)
    os.close(write)


def test_descriptors_for_a_method_that_takes_none(client: Client):
    with pytest.raises(errors.InvalidArgument, match="takes no descriptors"):
        Echo(client).say(Text(), [0])


def test_many_threads(server: Server, client: Client):
    def work(number: int) -> int:
        return sum(Echo(client).say(Text(number=number)).number for _ in range(50))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(16))) == [number * 50 for number in range(16)]
    assert server.connections() <= 8


def test_closed_client(server: Server):
    client = connect(server.path)
    Echo(client).say(Text())
    client.close()
    until(lambda: server.connections() == 0)
    with pytest.raises(errors.FailedPrecondition):
        Echo(client).say(Text())


def test_interrupt_cancels_the_call(server: Server):
    program = (
        "import sys\n"
        "from daemon.client import connect\n"
        "from tests.echo import Echo, Text\n"
        "try:\n"
        "    Echo(connect(sys.argv[1])).hang(Text())\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')\n"
    )
    arguments = [sys.executable, "-c", program, server.path]
    root = Path(__file__).parents[3]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        try:
            server.echo.wait_for(lambda: "hang" in server.echo.begun)
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=SECONDS)[0] == "interrupted\n"
        finally:
            process.kill()
    server.echo.wait_for(lambda: server.echo.ended == ["hang"])


def test_daemon_that_says_why_it_hangs_up(tmp_path):
    """A server that refuses a message while it is still being sent."""
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def refuse() -> None:
            sock, _ = listener.accept()
            with contextlib.closing(sock):
                sock.recv(10)
                sock.sendall(wire.failure(1, errors.ResourceExhausted("too much")))

        thread = threading.Thread(target=refuse)
        thread.start()
        with connect(path) as client, pytest.raises(errors.ResourceExhausted, match="too much"):
            Echo(client).say(Text(data=bytes(3_000_000)))
        thread.join(SECONDS)
