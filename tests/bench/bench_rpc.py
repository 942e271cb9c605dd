"""What a Version call costs: `python tests/bench/bench_rpc.py [--seconds S] [--loops asyncio,uvloop]`.

The server is a process on core 0, the clients are others on core 1. Latency is one blocking client's. Throughput is
what 16 connections of raw frames, each with one call under way, get out of the server from one process: that load
costs little, so the server is the limit. `cpu` is the server's CPU time a call.
"""

import argparse
import asyncio
import os
import resource
import selectors
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import uvloop

from daemon.client import connect
from daemon.transport.dispatch import Dispatcher
from daemon.transport.unix import UnixServer
from spec import wire
from spec.api.version import Version, VersionReply, VersionRequest

CLIENTS = 16


class Answer:
    def version(self, request: VersionRequest) -> VersionReply:
        return VersionReply(version="1.0.0", revision="0123456789abcdef")


class AsyncAnswer:
    async def version(self, request: VersionRequest) -> VersionReply:
        return VersionReply(version="1.0.0", revision="0123456789abcdef")


async def serve(path: str, implementation: object, ready: int, stop: socket.socket) -> None:
    server = UnixServer(Dispatcher([(Version, implementation)]))
    server.listen(path)
    os.write(ready, b"r")
    loop = asyncio.get_running_loop()
    while command := await loop.sock_recv(stop, 1):
        if command == b"c":
            used = resource.getrusage(resource.RUSAGE_SELF)
            await loop.sock_sendall(stop, f"{used.ru_utime + used.ru_stime:f}\n".encode())
    await server.close()


def start(path: str, loop: str, implementation: object) -> tuple[int, socket.socket]:
    """A server process: its pid, and the socket that asks for its CPU time and, closed, stops it."""
    ours, theirs = socket.socketpair()
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            os.sched_setaffinity(0, {0})
            theirs.setblocking(False)
            run = uvloop.run if loop == "uvloop" else asyncio.run
            run(serve(path, implementation, write, theirs))
        finally:
            os._exit(0)
    theirs.close()
    os.close(write)
    os.read(read, 1)
    os.close(read)
    return pid, ours


def cpu_of(control: socket.socket) -> float:
    control.sendall(b"c")
    return float(control.recv(64))


def latency(path: str, seconds: float) -> list[float]:
    """Microseconds of each call, sorted."""
    taken = []
    with connect(path) as client:
        version, request = client.version.version, VersionRequest()
        for _ in range(500):
            version(request)
        end = time.perf_counter() + seconds
        while (began := time.perf_counter()) < end:
            version(request)
            taken.append((time.perf_counter() - began) * 1e6)
    return sorted(taken)


def throughput(path: str, seconds: float) -> float:
    """Calls a second of CLIENTS connections with one call under way each."""
    selector = selectors.EpollSelector()
    socks = []
    frame = bytes(wire.request(1, Version.NAME, "Version", VersionRequest()))
    expected = bytes(wire.response(1, Answer().version(VersionRequest())))[8:]
    for _ in range(CLIENTS):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(path)
        selector.register(sock, selectors.EVENT_READ, [sock, 1])
        sock.send(frame)
        socks.append(sock)
    body, calls, began = frame[8:], 0, time.perf_counter()
    length = frame[:4]
    while time.perf_counter() - began < seconds:
        for key, _ in selector.select():
            state = key.data
            assert state[0].recv(4096)[8:] == expected
            state[1] += 2
            state[0].send(length + state[1].to_bytes(4, "big") + body)
            calls += 1
    elapsed = time.perf_counter() - began
    selector.close()
    for sock in socks:
        sock.close()
    return calls / elapsed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--loops", default="asyncio,uvloop")
    args = parser.parse_args()
    print(f"{'loop':8} {'handler':10} {'p50 us':>8} {'p99 us':>8} {'calls/s':>10} {'cpu us':>8}")
    for loop in args.loops.split(","):
        for name, implementation in (("function", Answer()), ("coroutine", AsyncAnswer())):
            with tempfile.TemporaryDirectory() as folder:
                path = f"{folder}/s"
                pid, control = start(path, loop, implementation)
                os.sched_setaffinity(0, {1} if (os.cpu_count() or 1) > 1 else {0})
                taken = latency(path, args.seconds)
                before = cpu_of(control)
                rate = throughput(path, args.seconds)
                used = (cpu_of(control) - before) / (rate * args.seconds) * 1e6
                control.close()
                os.waitpid(pid, 0)
            p50, p99 = statistics.median(taken), taken[int(len(taken) * 0.99)]
            print(f"{loop:8} {name:10} {p50:8.0f} {p99:8.0f} {rate:10.0f} {used:8.1f}")


if __name__ == "__main__":
    main()
