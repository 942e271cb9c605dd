"""A blocking connection to the daemon: one call at a time. Knows frames and descriptors, no service."""

import array
import contextlib
import os
import socket
import time
from collections.abc import Sequence

from spec import errors, wire

RECEIVE_BYTES = 64 << 10
ANCILLARY_BYTES = socket.CMSG_SPACE(wire.MAX_FDS * 4)


def path_of(address: str) -> str:
    """The socket's path in `address`: a path, or unix:///path."""
    return address.removeprefix("unix://")


class Connection:
    """Not for two threads at once, and of no use after any error but one the daemon answered with."""

    def __init__(self, address: str, deadline: float | None = None) -> None:
        """Connect. Unavailable when no daemon answers there, PermissionDenied when we may not ask."""
        self.address = address
        self._decoder = wire.Decoder()
        self._frames: list[wire.Frame] = []
        self._next = 1
        self._timed = False
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._limit(deadline)
            self._sock.connect(path_of(address))
        except TimeoutError as exc:
            self._sock.close()
            raise errors.DeadlineExceeded(f"connecting to {address}: the deadline has passed") from exc
        except OSError as exc:
            self._sock.close()
            cls = errors.PermissionDenied if isinstance(exc, PermissionError) else errors.Unavailable
            raise cls(f"connecting to {address}: {(exc.strerror or str(exc)).lower()}") from exc
        except BaseException:
            self._sock.close()
            raise

    def stream(self) -> int:
        """The id of the next call."""
        id = self._next
        self._next += 2
        return id

    def send(self, data: bytearray, fds: Sequence[int] = (), deadline: float | None = None) -> None:
        """Send one frame; `fds` are duplicated into the daemon and stay the caller's.

        When the daemon has hung up, what it said last is raised, or Unavailable.
        """
        try:
            self._limit(deadline)
            if fds:
                sent = socket.send_fds(self._sock, [data], list(fds), socket.MSG_NOSIGNAL)
                if sent < len(data):
                    self._sock.sendall(memoryview(data)[sent:], socket.MSG_NOSIGNAL)
            else:
                self._sock.sendall(data, socket.MSG_NOSIGNAL)
        except TimeoutError as exc:
            raise errors.DeadlineExceeded(f"sending to {self.address}: the deadline has passed") from exc
        except OSError as exc:
            self._raise_last_words()
            raise errors.Unavailable(f"sending to {self.address}: {exc.strerror or exc}") from exc

    def receive(self, stream: int, deadline: float | None = None) -> wire.Frame:
        """The next frame of `stream`. Unavailable when the daemon hangs up, and its error when it says why."""
        while True:
            while not self._frames:
                self._fill(deadline)
            frame = self._frames.pop(0)
            if frame.stream == stream:
                return frame
            close_fds(frame.fds)
            if frame.type == wire.RESPONSE:
                # Not to our call: the connection itself has failed.
                raise_status(wire.decode_response(frame.body))

    def alive(self) -> bool:
        """Whether the daemon is still there and silent, as it must be between calls."""
        try:
            self._limit(None)
            self._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def close(self) -> None:
        """The daemon cancels what is under way. May be called again."""
        self._sock.close()
        close_fds(self._decoder.leftovers())
        for frame in self._frames:
            close_fds(frame.fds)
        self._frames.clear()

    def _fill(self, deadline: float | None) -> None:
        try:
            self._limit(deadline)
            data, ancillary, flags, _ = self._sock.recvmsg(RECEIVE_BYTES, ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
        except TimeoutError as exc:
            raise errors.DeadlineExceeded(f"waiting for {self.address}: the deadline has passed") from exc
        except OSError as exc:
            raise errors.Unavailable(f"waiting for {self.address}: {exc.strerror or exc}") from exc
        self._frames = self._decoder.feed(data, descriptors(ancillary))
        if not data:
            raise errors.Unavailable(f"waiting for {self.address}: the daemon hung up")
        if flags & socket.MSG_CTRUNC:
            raise errors.ResourceExhausted(f"waiting for {self.address}: no descriptors left for those that came")
        if self._decoder.fault is not None and not self._frames:
            raise errors.Internal(f"waiting for {self.address}: {self._decoder.fault.error.message}")

    def _limit(self, deadline: float | None) -> None:
        """Bound the next operation; without a deadline no timeout is set, which spares a poll(2) a call."""
        if deadline is None:
            if self._timed:
                self._sock.settimeout(None)
                self._timed = False
            return
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(left)
        self._timed = True

    def _raise_last_words(self) -> None:
        with contextlib.suppress(errors.Unavailable, errors.Internal):
            while True:
                while not self._frames:
                    self._fill(time.monotonic() + 1)
                frame = self._frames.pop(0)
                close_fds(frame.fds)
                if frame.type == wire.RESPONSE:
                    raise_status(wire.decode_response(frame.body))


def raise_status(response: wire.Response) -> None:
    """Raise the error that `response` says, if it says one."""
    if response.status.code:
        raise errors.from_code(response.status.code, response.status.message, response.status.brief)


def descriptors(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    """Those in the control messages of recvmsg(2)."""
    fds: list[int] = []
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            received = array.array("i")
            received.frombytes(content[: len(content) - len(content) % received.itemsize])
            fds.extend(received)
    return fds


def close_fds(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
