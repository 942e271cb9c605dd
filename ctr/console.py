"""A terminal of ours joined to a container's: bytes both ways, raw, with its size kept equal."""

import contextlib
import errno
import os
import select
import signal
import termios
import tty
from collections.abc import Callable, Iterator

from spec import errors

CHUNK = 1 << 16
KEYS = 256  # what a pty that select(2) calls writable takes without blocking (WAKEUP_CHARS in the kernel's tty layer)
END_OF_FILE = b"\x04"  # as a terminal's line discipline has it


@contextlib.contextmanager
def raw(fd: int) -> Iterator[None]:
    """Raw mode while the block runs, if `fd` is a terminal. What was typed ahead is kept."""
    if not os.isatty(fd):
        yield
        return
    before = termios.tcgetattr(fd)
    tty.setraw(fd, termios.TCSADRAIN)
    try:
        yield
    finally:
        with contextlib.suppress(termios.error):  # the terminal may be gone by now
            termios.tcsetattr(fd, termios.TCSADRAIN, before)


@contextlib.contextmanager
def resizing(fd: int, resize: Callable[[int, int], None]) -> Iterator[None]:
    """Tell `resize` (columns, lines) of the terminal `fd` now and whenever its window changes."""

    def tell(*_: object) -> None:
        with contextlib.suppress(OSError):
            columns, lines = os.get_terminal_size(fd)
            if columns and lines:  # 0 means that nobody knows
                resize(columns, lines)

    if not os.isatty(fd):
        yield
        return
    before = signal.signal(signal.SIGWINCH, tell)
    try:
        tell()
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)


class Leave:
    """The keys that leave a terminal, in what is typed. Part of them is withheld until it is clear what it becomes."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = b""

    def take(self, typed: bytes) -> tuple[bytes, bool]:
        """What is to be passed on, and whether the keys came behind it. Nothing typed is the end: all is passed on."""
        data = self._held + typed
        before, found, _ = data.partition(self._keys) if self._keys else (data, b"", b"")
        if found:
            return before, True
        part = next((n for n in range(len(self._keys) - 1, 0, -1) if typed and data.endswith(self._keys[:n])), 0)
        self._held = data[len(data) - part :]
        return data[: len(data) - part], False


def keys(text: str) -> bytes:
    """`ctrl-p,ctrl-q`, `~,.`, or nothing: letters and control characters, as Docker names them."""
    found = b""
    for key in filter(None, text.split(",")):
        name = key.removeprefix("ctrl-")
        control = name != key
        if len(name) != 1 or not " " < name <= "~" or (control and not "@" <= name.upper() <= "_"):
            raise errors.InvalidArgument(f"detach keys {text!r}: {key!r} is no key; ctrl-p,ctrl-q are two")
        found += bytes([ord(name.upper()) & 31]) if control else name.encode()
    return found


def pump(master: int, done: int, leave: Leave | None = None) -> bool:
    """Standard input to `master`, `master` to standard output; until its other side is closed, or `done` is readable
    and nothing is left to print. True when the keys were typed that leave it.

    Input waits here while the terminal takes none: blocking on it would leave its output unread, and both stuck.
    """
    leave = leave or Leave(b"")
    waiting = b""
    reading = True
    while True:
        sources = [master, done, *([0] if reading and not waiting else [])]
        ready, writable, _ = select.select(sources, [master] if waiting else [], [])
        if master in ready:
            data = _read(master)
            if not data:
                return False
            _write(1, data)
        elif done in ready:
            return False
        if 0 in ready:
            typed = _read(0)
            reading = bool(typed)
            waiting, left = leave.take(typed)
            if left:
                _type(master, waiting[:KEYS])
                return True
            waiting += b"" if reading else END_OF_FILE
        if writable:
            waiting = waiting[_type(master, waiting[:KEYS]) :]


def _read(fd: int) -> bytes:
    """Empty at the end, which a pty says by EIO when its other side is closed."""
    try:
        return os.read(fd, CHUNK)
    except OSError as exc:
        if exc.errno == errno.EIO:
            return b""
        raise


def _type(master: int, keys: bytes) -> int:
    """How many were taken; all of them when nobody is there to take any."""
    try:
        return os.write(master, keys)
    except OSError:
        return len(keys)


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
