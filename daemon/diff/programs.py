"""Stream processors that are programs: a layer's bytes go to one's standard input, what it makes of them comes from its
standard output.

A program is a foreign program that may do anything: it gets no environment and no descriptors but its own, what it says
of its errors is bounded, it is killed with all it started when nobody reads any more, and what it has written counts
only when it ends well.
"""

import os
import select
import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager

from daemon.kit.spawn import end, spawn
from spec import errors
from spec.ports import Cancel, Source, StreamProcessor

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CHUNK = 256 << 10  # bytes asked of the source at once
LAST_WORDS = 4 << 10  # bytes of standard error that are kept, the last ones
LOOK_MS = 200  # how often a program that is silent is asked for whether anybody still wants it


class Program:
    """A ports.StreamProcessor. `path`, absolute or a name below the usual directories, is looked up here and now, and
    never again."""

    def __init__(
        self, id: str, accepts: Sequence[str], returns: str, path: str, args: Sequence[str] = (),
        env: Sequence[str] = (), payload: bytes = b"",
    ) -> None:  # fmt: skip
        self.id = id
        self.accepts = tuple(accepts)
        self.returns = returns
        self.payload = payload
        self._named = path
        self._path = path if os.path.isabs(path) else shutil.which(path, path=PATH) or ""
        self._args = tuple(args)
        self._env = dict(entry.partition("=")[::2] for entry in env)

    def paid(self, payload: bytes) -> "Program":
        """The same, with a payload."""
        return Program(self.id, self.accepts, self.returns, self._path or self._named, self._args,
                      [f"{key}={value}" for key, value in self._env.items()], payload)  # fmt: skip

    def open(self, source: Source, media_type: str = "", cancel: Cancel | None = None) -> "Running":
        """Started. FailedPrecondition when there is no such program."""
        if not self._path:
            raise errors.FailedPrecondition(f"stream processor {self.id}: there is no program {self._named}")
        env = {"PATH": PATH, **self._env, "STREAM_PROCESSOR_MEDIATYPE": media_type or next(iter(self.accepts), "")}
        return Running(self.id, [self._path, *self._args], env, self.payload, source, cancel)


def paid(processors: Sequence[StreamProcessor], payloads: Mapping[str, bytes]) -> list[StreamProcessor]:
    """The processors, each that is a program with what `payloads` has for its id."""
    return [
        each.paid(payloads[each.id]) if isinstance(each, Program) and each.id in payloads else each
        for each in processors
    ]


@contextmanager
def through(
    source: Source, media_type: str, programs: Sequence[StreamProcessor], cancel: Cancel | None = None
) -> Iterator[tuple[Source, str]]:
    """What the layer becomes, and the media type of that, by the first of `programs` that takes its media type and by
    the next that takes what that returns; as it is where none does. None is passed twice."""
    left = list(programs)
    with ExitStack() as stack:
        while program := next((program for program in left if media_type in program.accepts), None):
            left.remove(program)
            source = stack.enter_context(closing(program.open(source, media_type, cancel)))
            media_type = program.returns
        yield source, media_type


class Running:
    """A program at work: a Source of what it writes. Fed and drained by whoever reads, without a thread."""

    def __init__(
        self, id: str, argv: Sequence[str], env: Mapping[str, str], payload: bytes, source: Source,
        cancel: Cancel | None,
    ) -> None:  # fmt: skip
        self._id = id
        self._source = source
        self._cancel = cancel
        self._input = memoryview(b"")
        self._words = b""
        self._pid, self._pidfd = -1, -1
        self._status: int | None = None
        theirs, (self._in, self._out, self._err) = _pipes()
        try:
            self._pid = _spawn(argv, env, theirs, payload)
            self._pidfd = os.pidfd_open(self._pid)
        except OSError as exc:
            self.close()
            raise errors.from_os(exc, f"starting stream processor {id}: {argv[0]}") from exc
        finally:
            for fd in theirs:
                os.close(fd)
        for fd in (self._in, self._out, self._err):
            os.set_blocking(fd, False)

    def read(self, size: int, /) -> bytes:
        """Unknown when it failed, with its last words. What it has written before counts for nothing then."""
        while self._out >= 0:
            ready = self._ready()
            if self._err in ready:
                self._listen()
            if self._out in ready:
                if data := os.read(self._out, size):
                    return data
                self._out = _closed(self._out)
            elif self._in in ready:
                self._feed()
        self._ended()
        return b""

    def close(self) -> None:
        """Killed, with all it started, if it has not ended. The source is closed by whoever opened it."""
        for fd in (self._in, self._out, self._err):
            _closed(fd)
        self._in = self._out = self._err = -1
        if self._pid > 0 and self._status is None:
            self._reap()
        self._pidfd = _closed(self._pidfd)

    def _ready(self) -> set[int]:
        """Which of its descriptors can be used; waits for one."""
        poll = select.poll()
        for fd, event in ((self._in, select.POLLOUT), (self._out, select.POLLIN), (self._err, select.POLLIN)):
            if fd >= 0:
                poll.register(fd, event)
        if self._out < 0:
            poll.register(self._pidfd, select.POLLIN)
        while not (found := poll.poll(LOOK_MS)):
            if self._cancel is not None:
                self._cancel.check()
        return {fd for fd, _ in found}

    def _feed(self) -> None:
        """Some more of the source. A program that reads no further may have all it needs."""
        if not self._input:
            self._input = memoryview(self._source.read(CHUNK))
        if not self._input:
            self._in = _closed(self._in)
            return
        try:
            self._input = self._input[os.write(self._in, self._input) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._in = _closed(self._in)

    def _listen(self) -> bool:
        """Whether there was something to be heard."""
        try:
            words = os.read(self._err, LAST_WORDS)
        except BlockingIOError:
            return False
        self._words = (self._words + words)[-LAST_WORDS:]
        if not words:
            self._err = _closed(self._err)
        return bool(words)

    def _ended(self) -> None:
        """Its output has ended: so must it, and well. A program may close its output and go on reading."""
        while self._status is None:
            ready = self._ready()
            if self._err in ready:
                self._listen()
            if self._pidfd in ready:
                self._reap()
            elif self._in in ready:
                self._feed()
        while self._err >= 0 and self._listen():
            pass
        if self._status:
            ended = f"exit status {self._status}" if self._status > 0 else signal.strsignal(-self._status)
            words = self._words.decode(errors="replace").strip()
            raise errors.Unknown(f"stream processor {self._id}: {ended}{': ' if words else ''}{words}")

    def _reap(self) -> None:
        self._status = end(self._pid)


def _pipes() -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """The program's ends and ours, of its input, output and errors."""
    ends: list[int] = []
    try:
        for _ in range(3):
            ends += os.pipe()
    except OSError as exc:
        for fd in ends:
            os.close(fd)
        raise errors.from_os(exc, "making pipes for a stream processor") from exc
    in_r, in_w, out_r, out_w, err_r, err_w = ends
    return (in_r, out_w, err_w), (in_w, out_r, err_r)


def _spawn(argv: Sequence[str], env: Mapping[str, str], ends: Sequence[int], payload: bytes) -> int:
    """Its pid; a payload is at descriptor 3."""
    if not payload:
        return spawn(argv, env, ends)
    memory = os.memfd_create("payload", os.MFD_CLOEXEC)
    try:
        os.write(memory, payload)
        os.lseek(memory, 0, os.SEEK_SET)
        return spawn(argv, env, (*ends, memory))
    finally:
        os.close(memory)


def _closed(fd: int) -> int:
    if fd >= 0:
        os.close(fd)
    return -1
