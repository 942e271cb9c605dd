"""Opens what a process's streams go to, loggers excepted (`loggers`). Knows no process; copies no byte."""

import fcntl
import os
import stat
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from urllib.parse import unquote, urlsplit

from daemon.runtime import loggers
from spec import errors
from spec.types import Stdio

STREAMS = ("stdin", "stdout", "stderr")


def open_streams(stdio: Stdio, fds: Sequence[int], stack: ExitStack, doing: str) -> dict[int, int]:
    """Descriptors by stream (0, 1, 2) that `stack` closes; a stream that is empty, hence /dev/null, is left out.

    `fd://N` is the Nth of `fds`, which stay the caller's. A FIFO's stdin is open for reading only, so that the process
    sees its end when the last writer goes (`open_writer`). Its outputs are open both ways, so that neither waits for a
    reader nor dies with one.
    InvalidArgument for a scheme nobody knows, NotFound for a path that is not there.
    """
    streams: dict[int, int] = {}
    if stdio.terminal:
        return streams
    for number, uri in enumerate((stdio.stdin, stdio.stdout, stdio.stderr)):
        if not uri or (number and loggers.is_logger(uri)):
            continue
        fd = _open(uri, number, fds, f"{doing}: open {STREAMS[number]} {uri!r}")
        stack.callback(os.close, fd)
        streams[number] = fd
    return streams


def open_writer(stdio: Stdio, streams: Mapping[int, int], stack: ExitStack, doing: str) -> int | None:
    """Another end of the FIFO that stdin is, which `stack` closes: while it is held writers may come and go. None where
    stdin is something else."""
    if 0 not in streams or split(stdio.stdin, doing)[0] != "fifo" or not stat.S_ISFIFO(os.fstat(streams[0]).st_mode):
        return None
    try:
        fd = os.open(f"/proc/self/fd/{streams[0]}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        raise errors.from_os(exc, f"{doing}: open the other end of stdin") from exc
    stack.callback(os.close, fd)
    return fd


def _open(uri: str, number: int, fds: Sequence[int], doing: str) -> int:
    scheme, path = split(uri, doing)
    try:
        if scheme == "fd":
            return os.dup(fds[_index(path, fds, doing)])
        if scheme == "file":
            return _open_log(path, number, doing)
        return _open_path(path, number)
    except OSError as exc:
        raise errors.from_os(exc, doing) from exc


def split(uri: str, doing: str) -> tuple[str, str]:
    """`uri` as one of ("fd", number), ("fifo", path), ("file", path); a bare absolute path is a FIFO's."""
    if uri.startswith("/"):
        return "fifo", uri
    try:
        parts = urlsplit(uri)
    except ValueError as exc:
        raise errors.InvalidArgument(f"{doing}: {exc}") from exc
    if parts.scheme == "fd" and parts.netloc and not parts.path:
        return "fd", parts.netloc
    if loggers.is_logger(uri):
        raise errors.InvalidArgument(f"{doing}: a logger takes output only")
    if parts.scheme not in ("fifo", "file"):
        raise errors.InvalidArgument(f"{doing}: unknown scheme; use fd, fifo, file or binary")
    path = unquote(parts.path)
    if parts.netloc or not path.startswith("/") or "\0" in path:
        raise errors.InvalidArgument(f"{doing}: not an absolute path")
    return parts.scheme, path


def heard(stdio: Stdio) -> bool:
    """Whether standard error is the caller's own descriptor."""
    return not stdio.terminal and stdio.stderr.startswith("fd:")


def _index(text: str, fds: Sequence[int], doing: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 4 or int(text) >= len(fds):
        raise errors.InvalidArgument(f"{doing}: {len(fds)} descriptors came with the request")
    return int(text)


def _open_path(path: str, number: int) -> int:
    """Never waits for the other end of a FIFO."""
    if number == 0:
        flags = os.O_RDONLY
    else:
        flags = os.O_RDWR if stat.S_ISFIFO(os.stat(path).st_mode) else os.O_WRONLY | os.O_APPEND
    fd = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    # the process shares this open file and expects it to block
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_NONBLOCK)
    return fd


def _open_log(path: str, number: int, doing: str) -> int:
    if number == 0:
        raise errors.InvalidArgument(f"{doing}: a log file takes output only")
    os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOCTTY | os.O_CLOEXEC, 0o644)
