"""What the service manager that started us is told, and what it hands over: sd_notify(3), sd_listen_fds(3) and
sd_watchdog_enabled(3), as they are on the wire, without systemd's library. Under no manager all of it does nothing.
"""

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator, MutableMapping, Sequence

from spec import errors

FIRST_FD = 3  # SD_LISTEN_FDS_START
SEND_S = 1.0  # how long a manager that does not read may hold us up

log = logging.getLogger(__name__)


class Manager:
    """`address` is its datagram socket (@ for an abstract one, empty for none), `watchdog_s` within what time it wants
    to hear of us (0: it does not), `sockets` those that listen already and are ours to serve."""

    def __init__(self, address: str = "", watchdog_s: float = 0.0, sockets: Sequence[socket.socket] = ()) -> None:
        self._address = address
        self._watchdog_s = watchdog_s
        self.sockets = sockets

    @classmethod
    def of(cls, environ: MutableMapping[str, str]) -> "Manager":
        """The one that `environ` tells of. Its variables are taken out, so that no process of ours takes them for its
        own. InvalidArgument when they make no sense, or hand over something else than listening unix sockets."""
        given = {name: environ.pop(name, "") for name in (
            "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES",
        )}  # fmt: skip
        watchdog_s = 0.0
        if given["WATCHDOG_USEC"] and _number(given, "WATCHDOG_PID", os.getpid()) == os.getpid():
            watchdog_s = _number(given, "WATCHDOG_USEC") / 1e6
        count = 0
        if given["LISTEN_FDS"] and _number(given, "LISTEN_PID") == os.getpid():
            count = _number(given, "LISTEN_FDS")
        return cls(given["NOTIFY_SOCKET"], watchdog_s, _passed(count))

    def ready(self) -> None:
        """We serve, or serve again."""
        self._tell("READY=1")

    def stopping(self) -> None:
        self._tell("STOPPING=1")

    @contextlib.contextmanager
    def reloading(self) -> Iterator[None]:
        """The configuration is taken up while the block runs."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            yield
        finally:
            self.ready()

    async def beat(self) -> None:
        """Let it hear of us for as long as this runs, twice as often as it wants: a loop that hangs is noticed."""
        while self._watchdog_s:
            self._tell("WATCHDOG=1")
            await asyncio.sleep(self._watchdog_s / 2)

    def _tell(self, state: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(SEND_S)
                sock.sendto(state.encode(), address)
        except OSError as exc:
            log.warning("telling the service manager at %s %s: %s", self._address, state.partition("\n")[0], exc)


def _number(given: MutableMapping[str, str], name: str, default: int = 0) -> int:
    text = given[name]
    if text and not (text.isascii() and text.isdecimal()):
        raise errors.InvalidArgument(f"the environment's {name}={text} is not a number")
    return int(text) if text else default


def _passed(count: int) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    try:
        for fd in range(FIRST_FD, FIRST_FD + count):
            sock = _listening(fd)
            sock.setblocking(False)
            sockets.append(sock)
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _listening(fd: int) -> socket.socket:
    """Steals `fd`, if it is what we can serve on."""
    try:
        os.set_inheritable(fd, False)
        sock = socket.socket(fileno=fd)
    except OSError as exc:
        raise errors.from_os(exc, f"taking over descriptor {fd} from the service manager") from exc
    listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM or not listens:
        sock.close()
        raise errors.InvalidArgument(
            f"descriptor {fd} from the service manager is not a unix stream socket that listens"
        )
    return sock
