"""Unix sockets of the daemon: accepting, reading and writing without ever blocking. Knows frames, no message.

Not built on asyncio's streams: those can neither send nor receive descriptors.
"""

import array
import asyncio
import contextlib
import errno
import logging
import os
import socket
import stat
import struct
from collections import deque
from collections.abc import Callable, Sequence

from daemon.kit.context import Peer
from daemon.transport.dispatch import Dispatcher
from daemon.transport.session import Session
from spec import errors, wire

RECEIVE_BYTES = 64 << 10
# As many as the kernel puts into one message (SCM_MAX_FD, unix(7)): fewer would drop some of a hostile peer's.
ANCILLARY_BYTES = socket.CMSG_SPACE(253 * 4)
WRITE_HIGH = 256 << 10  # bytes queued above which streams wait
READ_STOP = 8 << 20  # bytes queued above which nothing more is read: a peer that never reads costs no more than this
GATHER = 64
ACCEPT_PAUSE_S = 0.1
PATH_MAX = 107  # bytes of a socket's (unix(7)), without the NUL

log = logging.getLogger("holdd.transport")


class Connection:
    """One peer. Satisfies `session.Link`."""

    def __init__(
        self,
        sock: socket.socket,
        peer: Peer,
        dispatcher: Dispatcher,
        loop: asyncio.AbstractEventLoop,
        on_lost: Callable[["Connection"], None],
    ) -> None:
        self.peer = peer
        self._sock = sock
        self._fd = sock.fileno()
        self._loop = loop
        self._on_lost = on_lost
        self._decoder = wire.Decoder()
        self._queue: deque[tuple[memoryview, Sequence[int]]] = deque()
        self._queued = 0
        self._holds = 0
        self._stopped = False
        self._corked = False
        self._reading = False
        self._writing = False
        self._finishing = False
        self._lost = False
        self._drained: asyncio.Future[None] | None = None
        self.session = Session(dispatcher, self, loop)
        self._watch()

    # Link.

    def write(self, data: bytearray, fds: Sequence[int] = ()) -> None:
        if self._lost or self._finishing:
            _close(fds)
            return
        self._queue.append((memoryview(data), fds))
        self._queued += len(data)
        if not self._corked and not self._writing:
            self._flush()

    async def drain(self) -> None:
        while self._queued > WRITE_HIGH and not self._lost:
            if self._drained is None:
                self._drained = self._loop.create_future()
            await asyncio.shield(self._drained)
        if self._lost:
            raise errors.Unavailable("sending to the caller: it is gone")

    def hold(self) -> None:
        self._holds += 1
        self._watch()

    def release(self) -> None:
        self._holds -= 1
        self._watch()

    def finish(self) -> None:
        self._finishing = True
        self._watch()
        if not self._queue:
            self.close()
        elif not self._corked and not self._writing:
            self._flush()

    def close(self) -> None:
        """End the connection now; calls under way are cancelled."""
        if self._lost:
            return
        self._lost = True
        self._watch()
        self._sock.close()
        _close(self._decoder.leftovers())
        for _, fds in self._queue:
            _close(fds)
        self._queue.clear()
        self._wake()
        self.session.lost()
        self._on_lost(self)

    # The loop's side.

    def _watch(self) -> None:
        """Have the loop call us for what we want, and no more."""
        read = not (self._lost or self._finishing or self._holds or self._stopped)
        if read != self._reading:
            self._reading = read
            if read:
                self._loop.add_reader(self._fd, self._readable)
            else:
                self._loop.remove_reader(self._fd)
        write = bool(self._queue) and not self._lost and not self._corked
        if write != self._writing:
            self._writing = write
            if write:
                self._loop.add_writer(self._fd, self._flush)
            else:
                self._loop.remove_writer(self._fd)

    def _readable(self) -> None:
        try:
            data, fds, whole = receive(self._sock)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.close()
            return
        if not data:
            _close(fds)
            self.close()
            return
        self._corked = True
        try:
            self._take(data, fds, whole)
        except Exception:
            log.exception("connection of pid %d", self.peer.pid)
            self.close()
        finally:
            self._corked = False
        if self._queue and not self._lost:
            self._flush()
        elif self._finishing and not self._queue:
            self.close()

    def _take(self, data: bytes, fds: Sequence[int], whole: bool) -> None:
        frames = self._decoder.feed(data, fds)
        for frame in frames:
            if self._finishing or self._lost:
                _close(frame.fds)
            else:
                self.session.accept(frame)
        fault = self._decoder.fault
        if not whole and fault is None:
            fault = wire.Fault(0, errors.ResourceExhausted("reading a frame: the daemon has no descriptors left"))
        if fault is not None and not self._finishing and not self._lost:
            self.session.fail(fault)

    def _flush(self) -> None:
        try:
            while self._queue:
                self._send_some()
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self.close()
            return
        if self._finishing and not self._queue:
            self.close()
            return
        if self._queued <= WRITE_HIGH:
            self._wake()
        self._stopped = self._queued > READ_STOP
        self._watch()

    def _send_some(self) -> None:
        """One system call. A frame's descriptors go with its first byte, so only the first of the gathered has any."""
        head, fds = self._queue[0]
        if fds:
            sent = socket.send_fds(self._sock, [head], list(fds), socket.MSG_NOSIGNAL)
            self._queue[0] = (head, ())
            _close(fds)
        elif len(self._queue) == 1:
            sent = self._sock.send(head, socket.MSG_NOSIGNAL)
        else:
            sent = self._sock.sendmsg(self._gathered(), (), socket.MSG_NOSIGNAL)
        self._queued -= sent
        while sent:
            head, fds = self._queue[0]
            if sent < len(head):
                self._queue[0] = (head[sent:], fds)
                return
            sent -= len(head)
            self._queue.popleft()

    def _gathered(self) -> list[memoryview]:
        views: list[memoryview] = []
        for view, fds in self._queue:
            if fds or len(views) == GATHER:
                break
            views.append(view)
        return views

    def _wake(self) -> None:
        if self._drained is not None:
            self._drained.set_result(None)
            self._drained = None


class UnixServer:
    """Listens on a path and serves every peer of our own user, or root.

        server = UnixServer(dispatcher)
        server.listen("/run/holdd/holdd.sock")
        ...
        await server.close()
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._loop = asyncio.get_running_loop()
        self._connections: set[Connection] = set()
        self._listening: dict[str, tuple[socket.socket, int | None]] = {}
        self._pauses: dict[socket.socket, asyncio.TimerHandle] = {}

    def listen(self, path: str) -> None:
        """Serve on a socket of mode 0600 at `path`. A stale socket there is replaced.

        AlreadyExists when a daemon answers there or something else than a socket is there; else as `errors.from_os`.
        """
        clear_stale(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            # The inode that bind makes takes the mode of the socket: at no moment can others connect (unix_bind()).
            os.fchmod(sock.fileno(), 0o600)
            sock.bind(path)
            sock.listen(1024)
            inode = os.lstat(path).st_ino
        except OSError as exc:
            sock.close()
            raise errors.from_os(exc, f"listening on {path}") from exc
        self._listening[path] = (sock, inode)
        self._loop.add_reader(sock.fileno(), self._acceptable, sock)

    def listen_on(self, sock: socket.socket) -> str:
        """Serve on a unix socket that listens already, and steal it; its path, which stays when we close."""
        name = sock.getsockname()
        path = name if isinstance(name, str) else os.fsdecode(name.replace(b"\0", b"@", 1))
        self._listening[path] = (sock, None)
        self._loop.add_reader(sock.fileno(), self._acceptable, sock)
        return path

    def adopt(self, sock: socket.socket) -> Connection:
        """Serve one connected socket. PermissionDenied for a peer of another user, and the socket is closed."""
        peer = credentials(sock)
        if peer.uid not in (0, os.geteuid()):
            sock.close()
            raise errors.PermissionDenied(f"accepting a connection of pid {peer.pid}: its user is {peer.uid}")
        sock.setblocking(False)
        connection = Connection(sock, peer, self._dispatcher, self._loop, self._connections.discard)
        self._connections.add(connection)
        return connection

    @property
    def connections(self) -> int:
        """How many peers are connected."""
        return len(self._connections)

    async def close(self, grace_s: float = 10.0) -> None:
        """Accept no more, cancel every call, wait up to `grace_s` for them to end, and close all."""
        for path, (sock, inode) in self._listening.items():
            self._loop.remove_reader(sock.fileno())
            sock.close()
            if inode is not None:
                _unlink_if(path, inode)
        self._listening.clear()
        for pause in self._pauses.values():
            pause.cancel()
        connections = list(self._connections)
        for connection in connections:
            connection.session.cancel_all(errors.Unavailable("the daemon is stopping"))
        endings = [asyncio.ensure_future(connection.session.ended()) for connection in connections]
        if endings:
            _, late = await asyncio.wait(endings, timeout=grace_s)
            for ending in late:
                log.warning("a call did not end within %g s", grace_s)
                ending.cancel()
        for connection in connections:
            connection.close()

    def _acceptable(self, sock: socket.socket) -> None:
        for _ in range(64):
            try:
                accepted, _ = sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as exc:
                self._refused(sock, exc)
                return
            try:
                self.adopt(accepted)
            except errors.PermissionDenied as denied:
                log.warning("%s", denied.message)
            except OSError:
                accepted.close()

    def _refused(self, sock: socket.socket, exc: OSError) -> None:
        """Out of descriptors or memory: let those who are connected go on, and look again a little later."""
        if exc.errno == errno.ECONNABORTED:
            return
        log.warning("accepting a connection: %s", exc.strerror)
        self._loop.remove_reader(sock.fileno())
        self._pauses[sock] = self._loop.call_later(ACCEPT_PAUSE_S, self._resume, sock)

    def _resume(self, sock: socket.socket) -> None:
        del self._pauses[sock]
        self._loop.add_reader(sock.fileno(), self._acceptable, sock)


def receive(sock: socket.socket) -> tuple[bytes, list[int], bool]:
    """What has come: bytes, descriptors (close-on-exec), and whether the kernel could hand over all of those."""
    data, ancillary, flags, _ = sock.recvmsg(RECEIVE_BYTES, ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
    fds: list[int] = []
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            received = array.array("i")
            received.frombytes(content[: len(content) - len(content) % received.itemsize])
            fds.extend(received)
    return data, fds, not flags & socket.MSG_CTRUNC


def credentials(sock: socket.socket) -> Peer:
    """Of whoever connected (SO_PEERCRED)."""
    pid, uid, gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return Peer(pid, uid, gid)


def clear_stale(path: str) -> None:
    """Remove a socket at `path` that nobody listens on. AlreadyExists when somebody does, or when it is no socket;
    InvalidArgument when none can be."""
    if len(os.fsencode(path)) > PATH_MAX:
        raise errors.InvalidArgument(f"listening on {path}: a socket's path has {PATH_MAX} bytes at most")
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as exc:
        raise errors.from_os(exc, f"listening on {path}") from exc
    if not stat.S_ISSOCK(mode):
        raise errors.AlreadyExists(f"listening on {path}: something that is not a socket is there")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            return
        except FileNotFoundError:
            return
        except BlockingIOError:
            pass  # its queue is full: somebody listens
        except OSError as exc:
            raise errors.from_os(exc, f"listening on {path}") from exc
    raise errors.AlreadyExists(f"listening on {path}: another daemon answers there")


def _unlink_if(path: str, inode: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        if os.lstat(path).st_ino == inode:
            os.unlink(path)


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
