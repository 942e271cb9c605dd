"""The process that forks shims, as the daemon holds it. Knows nothing of what a shim is for.

Its messages are drawn in `pyx/shimwire.pxd`.
"""

import asyncio
import contextlib
import os
import resource
import signal
import socket
import struct
from collections.abc import Sequence
from typing import NoReturn

from daemon.runtime import files
from daemon.runtime.shim import Shim
from pyx.shim import fork_nursery, serve_nursery
from spec import errors

VERSION = 1
OP_FORK = 1
REQUEST = struct.Struct("<BBHIi")  # version, operation, speaks, id, oom_score_adj
ANSWER = struct.Struct("<IiI")  # id, errno, pid

PATH_MAX = 4096
FORK_SECONDS = 30.0
OOM_SCORE_MAX = 1000


class Nursery:
    """A child process that forks shims. When it has died the next `shim` starts another by `respawn_argv`."""

    def __init__(self, connection: socket.socket, pid: int) -> None:
        """Steals `connection`. Use `fork`."""
        self.respawn_argv: Sequence[str] = ()
        """A command that calls `nursery_main` with the number of a descriptor, which is appended to it."""
        self.speaks = (0, 0)
        """Of the shim's protocol, the oldest and the latest version that shims shall claim to speak, for tests."""
        self.pid = pid
        self._socket = connection
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._last_id = 0
        self._descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)

    @classmethod
    def fork(cls) -> "Nursery":
        """Fork the nursery from this process. It keeps none of our memory or descriptors, whatever they are by now."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                pid = fork_nursery(theirs.fileno())
            except OSError as exc:
                ours.close()
                raise errors.from_os(exc, "fork the nursery") from exc
        ours.setblocking(False)
        return cls(ours, pid)

    async def shim(self, directory: str) -> Shim:
        """A new shim that serves `directory`, an absolute path below 4096 bytes, connected.

        AlreadyExists when the directory has a shim's socket already; NotFound when there is no such directory.
        """
        path = os.fsencode(directory)
        if not path.startswith(b"/") or len(path) >= PATH_MAX or b"\0" in path:
            raise errors.InvalidArgument(f"start a shim in {directory!r}: not an absolute path")
        if self._socket.fileno() >= 0 and self._loop is None:
            self._watch()
        if not self._alive():
            self._respawn()
        doing = f"start a shim in {directory}"
        self._last_id += 1
        request_id, future = self._last_id, asyncio.get_running_loop().create_future()
        self._waiting[request_id] = future
        try:
            async with asyncio.timeout(FORK_SECONDS):
                self._socket.send(self._request(request_id) + path)
                await future
        except TimeoutError as exc:
            raise errors.DeadlineExceeded(f"{doing}: no answer in {FORK_SECONDS} s") from exc
        except OSError as exc:
            raise errors.from_os(exc, doing) from exc
        finally:
            del self._waiting[request_id]
        return await Shim.connect(directory)

    def _request(self, id: int) -> bytes:
        oldest, newest = self.speaks
        return REQUEST.pack(VERSION, OP_FORK, newest | oldest << 8, id & 0xFFFFFFFF, _oom_score())

    def close(self) -> None:
        """End the nursery; shims live on."""
        self.respawn_argv = ()
        if self._socket.fileno() >= 0:
            self._lost()

    def _watch(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket.fileno(), self._readable)

    def _alive(self) -> bool:
        """Whether the nursery still reads; asked of the socket, since its end may not have been told to us yet."""
        if self._socket.fileno() < 0:
            return False
        self._readable()
        return self._socket.fileno() >= 0

    def _readable(self) -> None:
        while True:
            try:
                message = self._socket.recv(ANSWER.size)
            except BlockingIOError:
                return
            except OSError:
                message = b""
            if len(message) != ANSWER.size:
                self._lost()
                return
            request_id, error, _ = ANSWER.unpack(message)
            future = self._waiting.get(request_id)
            if future is None or future.done():
                continue
            if error:
                future.set_exception(OSError(error, os.strerror(error)))
            else:
                future.set_result(None)

    def _lost(self) -> None:
        """Close our end, on which the nursery exits at once if it has not, and reap it."""
        if self._loop is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._loop = None
        self._socket.close()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(errors.Unavailable("the nursery died"))
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)  # it may be stopped
            os.waitpid(self.pid, 0)

    def _respawn(self) -> None:
        """Start another nursery: not by fork, since threads run by now, but by executing the program anew."""
        if not self.respawn_argv:
            raise errors.Unavailable("start a shim: the nursery is gone")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            argv = [*self.respawn_argv, "3"]
            try:
                actions = [(os.POSIX_SPAWN_DUP2, theirs.fileno(), 3)]
                self.pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=actions)
                resource.prlimit(self.pid, resource.RLIMIT_NOFILE, self._descriptors)  # not what we may have raised
            except OSError as exc:
                ours.close()
                raise errors.from_os(exc, f"start the nursery {argv[0]}") from exc
        ours.setblocking(False)
        self._socket = ours
        self._watch()


def nursery_main(fd: int) -> NoReturn:
    """What the command in `Nursery.respawn_argv` calls: be the nursery that serves socket `fd`."""
    serve_nursery(fd)


def _oom_score() -> int:
    """One worse than the daemon's, so that the kernel takes a shim before the daemon (proc(5), oom_score_adj)."""
    return min(int(files.read("/proc/self/oom_score_adj")) + 1, OOM_SCORE_MAX)
