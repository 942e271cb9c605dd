"""A service that shows every kind of method, and a server for it on a thread of its own."""

import asyncio
import os
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

import uvloop

from daemon.kit import context
from daemon.kit.threads import Pool, hop
from daemon.transport.dispatch import Dispatcher, Observer
from daemon.transport.unix import UnixServer
from spec import errors
from spec.api.service import Service, duplex, giving, server_stream, unary
from spec.base import Empty, Reply, Request

# libuv makes a pipe for signals once a process and keeps it: here, lest the first test be blamed for it.
uvloop.run(asyncio.sleep(0))

SECONDS = 20.0  # the deadline of everything that waits


class Text(Request, frozen=True):
    text: str = ""
    number: int = 0
    data: bytes = b""


class Said(Reply, frozen=True):
    text: str = ""
    number: int = 0
    data: bytes = b""


class Echo(Service):
    NAME = "test.Echo"
    NAMESPACED = False

    say = unary(Text, Said)
    say_later = unary(Text, Said)
    fail = unary(Text, Empty)
    explode = unary(Text, Empty)
    hang = unary(Text, Empty)
    block = unary(Text, Empty)
    where = unary(Text, Said)
    count = server_stream(Text, Said)
    flood = server_stream(Text, Said)
    watch = server_stream(Text, Said)
    touch = unary(Text, Empty)
    total = duplex(Text, Said)
    give = giving(Text, Said)
    take = unary(Text, Said, takes=True)
    take_later = unary(Text, Said, takes=True)
    take_many = server_stream(Text, Said, takes=True)
    missing = unary(Text, Empty)


class Inside(Service):
    NAME = "test.Inside"

    where = unary(Text, Said)


class EchoService:
    """`ended` records how calls ended; `await_ended` waits until one has."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._changed = threading.Condition()
        self._watchers: set[asyncio.Future[int]] = set()
        self.ended: list[str] = []
        self.begun: list[str] = []

    def note(self, where: list[str], what: str) -> None:
        with self._changed:
            where.append(what)
            self._changed.notify_all()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, SECONDS), f"begun {self.begun}, ended {self.ended}"

    def say(self, request: Text) -> Said:
        return Said(text=request.text, number=request.number, data=request.data)

    async def say_later(self, request: Text) -> Said:
        await asyncio.sleep(0)
        return self.say(request)

    def fail(self, request: Text) -> Empty:
        raise errors.from_code(request.number, request.text)

    def explode(self, request: Text) -> Empty:
        raise ValueError("the secret is 42")

    async def hang(self, request: Text) -> Empty:
        self.note(self.begun, "hang")
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.note(self.ended, "hang")
            raise
        return Empty()

    async def block(self, request: Text) -> Empty:
        return await hop(self._pool, self._block)

    def _block(self) -> Empty:
        token = context.cancel()
        assert token is not None
        self.note(self.begun, "block")
        pause = threading.Event()
        while True:
            try:
                token.check()
            except errors.Error as exc:
                self.note(self.ended, type(exc).__name__)
                raise
            pause.wait(0.001)

    def where(self, request: Text) -> Said:
        peer = context.peer()
        assert peer is not None
        return Said(text=f"{context.namespace_or_empty()}/{context.lease()}", number=peer.pid)

    async def count(self, request: Text) -> AsyncIterator[Said]:
        for number in range(request.number):
            yield Said(number=number)
        if request.text:
            raise errors.DataLoss(request.text)

    async def flood(self, request: Text) -> AsyncIterator[Said]:
        data = bytes(request.number)
        number = 0
        try:
            while True:
                self.begun.append("sent")
                yield Said(number=number, data=data)
                number += 1
        finally:
            self.note(self.ended, "flood")

    async def watch(self, request: Text) -> AsyncIterator[Said]:
        """What was touched since it began."""
        touched: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._watchers.add(touched)
        yield Said(number=await touched)

    def touch(self, request: Text) -> Empty:
        while self._watchers:
            self._watchers.pop().set_result(request.number)
        return Empty()

    async def total(self, requests: AsyncIterator[Text]) -> AsyncIterator[Said]:
        total = 0
        try:
            async for request in requests:
                total += request.number
                yield Said(number=total)
            yield Said(text="end", number=total)
        finally:
            self.note(self.ended, "total")

    def give(self, request: Text) -> tuple[Said, list[int]]:
        fds = []
        for _ in range(request.number):
            read, write = os.pipe()
            os.write(write, request.text.encode())
            os.close(write)
            fds.append(read)
        return Said(number=len(fds)), fds

    def take(self, request: Text, fds: list[int]) -> Said:
        text = b"".join(os.read(fd, 100) for fd in fds)
        for fd in fds:
            os.close(fd)
        return Said(text=text.decode(), number=len(fds))

    async def take_later(self, request: Text, fds: list[int]) -> Said:
        await asyncio.sleep(0)
        return self.take(request, fds)

    async def take_many(self, request: Text, fds: list[int]) -> AsyncIterator[Said]:
        yield self.take(request, fds)


class Server:
    """The service behind a unix socket at `path`, on a thread. A context manager that leaves nothing."""

    def __init__(
        self,
        loop: str = "asyncio",
        observers: Sequence[Observer] = (),
        extra: Sequence[tuple[type[Service], object]] = (),
    ) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.path = f"{self._folder.name}/holdd.sock"
        self.pool = Pool("echo", 4)
        self.echo = EchoService(self.pool)
        self._observers = observers
        self._extra = extra
        self._ready = threading.Event()
        self._run = uvloop.run if loop == "uvloop" else asyncio.run
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        self._run(self._main())

    async def _main(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        services: list[tuple[type[Service], object]] = [(Echo, self.echo), (Inside, self.echo), *self._extra]
        self.server = UnixServer(Dispatcher(services, self._observers))
        self.server.listen(self.path)
        self._ready.set()
        await self._stop.wait()
        await self.server.close()

    def on_loop(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(SECONDS)

    def connections(self) -> int:
        async def count() -> int:
            return self.server.connections

        return int(self.on_loop(count()))

    def __enter__(self) -> "Server":
        self._thread.start()
        assert self._ready.wait(SECONDS)
        return self

    def __exit__(self, *exc: object) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(SECONDS)
        self.pool.close()
        self._folder.cleanup()
        assert not self._thread.is_alive()
