"""Programs that a container's output goes to: `binary://PATH?KEY=VALUE` as stdout and stderr. Knows no process.

The contract is containerd's (its docs on runtime v2, logging binaries). The program's arguments are the keys and values
of the URI in turn; CONTAINER_ID and CONTAINER_NAMESPACE are in its environment; it reads stdout from descriptor 3 and
stderr from 4, and closes 5 once it is ready, before which no process is started. A `binary-v2` logger writes a byte
there first, so that one which dies is not taken for one that is ready.

The shim runs it, so it outlives the daemon; it ends by itself when all who held the streams have gone. Only who may
call the API names one: nothing of an image does.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from daemon.runtime import living
from daemon.runtime.shim import Shim
from daemon.runtime.state import Host
from spec import errors
from spec.types import Stdio

SCHEMES = ("binary", "binary-v2")
READY_SECONDS = 30.0
DRAIN_SECONDS = 10.0  # to read what is left and end
TERM_SECONDS = 2.0  # to end when it is told to; both together are containerd's 12 s
STDOUT, STDERR, WAIT = 3, 4, 5  # its descriptors
OUTPUT_KEEP = 4096  # bytes of its own words, for an error

_PATH = os.environ.get("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")


class Logger(NamedTuple):
    """`fds` are the ends that it reads, by its own numbers."""

    uri: str
    argv: Sequence[str]
    fds: dict[int, int]


def is_logger(uri: str) -> bool:
    return _scheme(uri) in SCHEMES


def used(stdio: Stdio) -> bool:
    return not stdio.terminal and any(map(is_logger, (stdio.stdout, stdio.stderr)))


def open_loggers(stdio: Stdio, stack: ExitStack, doing: str) -> tuple[dict[int, int], list[Logger]]:
    """Streams (1, 2) that lead to loggers, and these; one for both where both name the same. `stack` closes all
    descriptors. InvalidArgument for a URI that names no program."""
    streams: dict[int, int] = {}
    loggers: dict[str, Logger] = {}
    if stdio.terminal:
        return streams, []
    for number, uri in ((1, stdio.stdout), (2, stdio.stderr)):
        if not is_logger(uri):
            continue
        logger = loggers.setdefault(uri, Logger(uri, _argv(uri, doing), {}))
        read, write = os.pipe2(os.O_CLOEXEC)
        stack.callback(os.close, read)
        stack.callback(os.close, write)
        logger.fds[STDOUT if number == 1 else STDERR] = read
        streams[number] = write
    return streams, list(loggers.values())


async def start(loggers: Iterable[Logger], host: Host, shim: Shim, namespace: str, id: str) -> None:
    """Run them in the shim, and wait until each is ready. NotFound, PermissionDenied for what is no program; Unknown,
    with its words, for one that fails; DeadlineExceeded for one that does not say that it is ready."""
    environment = (f"PATH={_PATH}", f"CONTAINER_ID={id}", f"CONTAINER_NAMESPACE={namespace}")
    await asyncio.gather(*(_start(logger, host, shim, environment, id) for logger in loggers))


async def _start(logger: Logger, host: Host, shim: Shim, environment: Sequence[str], id: str) -> None:
    doing = f"start logger {logger.argv[0]} of container {id}"
    ready, wait = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    with ExitStack() as stack:
        stack.callback(os.close, ready)
        ours = stack.enter_context(contextlib.ExitStack())
        ours.callback(os.close, wait)
        fds = {STDOUT: host.null, STDERR: host.null, **logger.fds, WAIT: wait}
        running = host.attend(
            shim.run(logger.argv, env=environment, fds=fds, keep_output=OUTPUT_KEEP, timeout=None, sent=ours.close)
        )
        saying = asyncio.ensure_future(_said(ready))
        try:
            await asyncio.wait({saying, running}, timeout=READY_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                _raise(running, doing)
            if not saying.done():
                running.cancel()
                raise errors.DeadlineExceeded(f"{doing}: it is not ready after {READY_SECONDS} s")
            # that it could not be started was told before its end of the pipe closed, so before this is answered
            with contextlib.suppress(errors.NotFound):
                await shim.drop("logger")
            if running.done():
                _raise(running, doing)
            if _scheme(logger.uri) == "binary-v2" and not saying.result():
                await asyncio.wait({running}, timeout=TERM_SECONDS)
                if running.done():
                    _raise(running, doing)
                raise errors.Unknown(f"{doing}: it closed descriptor {WAIT} and did not say that it is ready")
        finally:
            saying.cancel()
            await asyncio.wait({saying})


def _raise(running: "asyncio.Task[object]", doing: str) -> None:
    """A logger that has ended is none, whatever its status."""
    try:
        ended = running.result()
    except errors.Error as exc:
        raise type(exc)(f"{doing}: {exc.message}") from exc
    raise errors.Unknown(f"{doing}: it ended before it was ready: {ended}")


async def _said(fd: int) -> bytes:
    """All that is written to the pipe, at its end, but at least a byte."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(fd, readable.set)
    try:
        await readable.wait()
        return os.read(fd, 64)
    finally:
        loop.remove_reader(fd)


async def finish(shim: Shim) -> None:
    """Let the loggers of a container that is gone come to their end, and see to it: what they do not read in time is
    lost. All that the shim still has for children are they."""
    for seconds, number in ((DRAIN_SECONDS, 0), (TERM_SECONDS, signal.SIGTERM), (TERM_SECONDS, signal.SIGKILL)):
        left = [(pid, ticks) for pid in living.children(shim.pid) if (ticks := living.started_ticks(pid))]
        if all(await asyncio.gather(*(living.ended(pid, ticks, seconds, number) for pid, ticks in left))):
            return


def _scheme(uri: str) -> str:
    return uri.partition("://")[0]


def _argv(uri: str, doing: str) -> list[str]:
    try:
        parts = urlsplit(uri)
        path = unquote(parts.path)
        pairs = parse_qsl(parts.query, keep_blank_values=True)
    except ValueError as exc:
        raise errors.InvalidArgument(f"{doing}: logger {uri!r}: {exc}") from exc
    argv = [path, *(text for pair in pairs for text in pair)]
    if parts.netloc or not path.startswith("/") or any("\0" in text for text in argv):
        raise errors.InvalidArgument(f"{doing}: logger {uri!r}: not an absolute path")
    return argv
