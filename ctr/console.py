"""A terminal of ours joined to a container's: bytes both ways, raw, with its size kept equal."""

import contextlib
import errno
import os
import select
import shutil
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator

CHUNK = 1 << 16


@contextlib.contextmanager
def raw(fd: int) -> Iterator[None]:
    """Raw mode while the block runs, if `fd` is a terminal."""
    if not os.isatty(fd):
        yield
        return
    before = termios.tcgetattr(fd)
    tty.setraw(fd)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


@contextlib.contextmanager
def resizing(resize: Callable[[int, int], None]) -> Iterator[None]:
    """Tell `resize` (columns, lines) now and whenever the window changes."""

    def tell(*_: object) -> None:
        size = shutil.get_terminal_size()
        resize(size.columns, size.lines)

    if not sys.stdin.isatty():
        yield
        return
    tell()
    before = signal.signal(signal.SIGWINCH, tell)
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)


def pump(master: int, done: int) -> None:
    """Standard input to `master`, `master` to standard output; until its other side is closed, or `done` is readable
    and nothing is left to print."""
    sources = [master, done, 0]
    while True:
        ready = select.select(sources, [], [])[0]
        if master in ready:
            data = _read(master)
            if not data:
                return
            _write(1, data)
        elif done in ready:
            return
        if 0 in ready:
            data = os.read(0, CHUNK)
            if data:
                with contextlib.suppress(OSError):
                    _write(master, data)
            else:
                sources.remove(0)
                with contextlib.suppress(OSError):
                    _write(master, b"\x04")  # end of file, as a terminal's line discipline has it


def _read(master: int) -> bytes:
    """Empty when the other side is closed: a pty's master says so by EIO."""
    try:
        return os.read(master, CHUNK)
    except OSError as exc:
        if exc.errno == errno.EIO:
            return b""
        raise


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
