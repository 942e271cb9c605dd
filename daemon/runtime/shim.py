"""The daemon's handle on one shim: its requests, their answers, and the exits it tells of. Knows no OCI runtime.

The layout of messages and of the exit record file, and what their versions may change, is in `pyx/shimwire.pxd`.
"""

import array
import asyncio
import contextlib
import os
import shutil
import socket
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from spec import errors

VERSION, OLDEST = 2, 1
OP_EXIT, OP_RUN, OP_KILL, OP_KEEP, OP_FETCH, OP_DROP = 1, 2, 3, 4, 5, 6
OP_ATTACH, OP_MOUNT, OP_CONSOLE, OP_RESIZE, OP_WATCH_OOM, OP_SHUTDOWN, OP_FOLLOW = 7, 8, 9, 10, 11, 12, 13
OP_HELLO, OP_OOM = 14, 15

REQUEST = struct.Struct("<BBHI")  # version, operation, 0, id
ANSWER = struct.Struct("<BBHIi")  # version, operation, stage, id, errno
RUN = struct.Struct("<QIHHHHI")  # timeout_ns, keep, argc, envc, fdc, namec, 0
RESULT = struct.Struct("<iI")  # status, flags
EXIT = struct.Struct("<QqIiII")  # sequence, time_ns, pid, status, flags, kills
HELLO = struct.Struct("<BBH")  # version, oldest, 0
OOM_NOTICE = struct.Struct("<II")  # kills, flags
PEER = struct.Struct("<iII")  # pid, uid, gid of SO_PEERCRED

EXPIRED = 1
OOM, OOM_ANCESTOR = 1, 2
STAGES = {2: "change to its directory", 3: "find a named descriptor", 4: "set up its descriptors", 5: "fork it"}

REQUEST_MAX = 131072  # bytes
KEEP_MAX = 65536  # bytes of output an answer carries
WORDS_MAX = 1024  # characters of it that an error quotes
FDS_MAX = 16
ANSWER_SECONDS = 30.0  # every request but a run; a mount may wait for a slow device
GRACE_SECONDS = 10.0  # for a killed program to be reaped

ADDRESS_MAX = 107  # bytes of a socket's path (unix(7))

_ANCILLARY = socket.CMSG_SPACE(4 * FDS_MAX)
# As plain numbers: arithmetic with those of `socket` is done in Python.
_CLOEXEC, _TRUNC, _NOSIGNAL = int(socket.MSG_CMSG_CLOEXEC), int(socket.MSG_TRUNC), int(socket.MSG_NOSIGNAL)
_RIGHTS = (int(socket.SOL_SOCKET), int(socket.SCM_RIGHTS))
_buffer = bytearray(ANSWER.size + RESULT.size + KEEP_MAX)  # of all: what is read is copied out at once, on one loop


class ExitRecord(NamedTuple):
    """One exit a shim reaped. `status` is the exit code, or 128 + the signal's number; `oom` whether its memory cgroup
    had killed for memory by then, `oom_kills` times; `oom_ancestor` when only limits of its ancestors had been hit."""

    sequence: int
    pid: int
    status: int
    time_ns: int
    oom: bool
    oom_kills: int = 0
    oom_ancestor: bool = False


class Finished(NamedTuple):
    """How a program ended. `status` as in an ExitRecord; `output` is the end of what it wrote to 1 and 2."""

    status: int
    output: bytes


class _Answer(NamedTuple):
    stage: int
    error: int
    body: bytes
    fds: list[int]


class Shim:
    """A connection to one shim. Coroutines run on the loop that connected; each raises Unavailable when the shim is
    gone."""

    def __init__(self, directory: str, connection: socket.socket) -> None:
        """Steals `connection`. Use `connect`."""
        self.directory = directory
        self.pid: int = PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER.size))[0]
        self._socket = connection
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, asyncio.Future[_Answer]] = {}
        self._last_id = 0
        self._sending = asyncio.Lock()
        self.version = OLDEST
        """That both speak, as far as the shim has said."""
        self._greeted = asyncio.Event()  # unless there is an answer to wait for
        self._greeted.set()
        self.stranger = ""
        """What to say of a shim that speaks no version of ours: all that can be asked of it is its `shutdown`."""
        self._stranger_callbacks: list[Callable[[], None]] = []
        self._kills = 0
        self._kill_callbacks: list[Callable[[], None]] = []
        self._exit_callbacks: list[Callable[[ExitRecord], None]] = []
        self._close_callbacks: list[Callable[[], None]] = []
        self._early: list[ExitRecord] = []
        self._below = 0  # all exits below this one have been told or read,
        self._beyond: set[int] = set()  # and these
        self._loop.add_reader(connection.fileno(), self._readable)

    @classmethod
    async def connect(cls, directory: str) -> "Shim":
        """The shim that serves `directory`; Unavailable when none does, ResourceExhausted when one does that has been
        stopped for so long that it takes no more connections.

        Exits are told to `on_exit` from when the shim takes the connection, which may be a while from now; `catch_up`
        gives the others.
        """
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            path = f"{directory}/shim.sock"
            if len(os.fsencode(path)) <= ADDRESS_MAX:
                connection.connect(path)
            else:
                with _opened(directory) as folder:
                    connection.connect(f"/proc/self/fd/{folder}/shim.sock")
            shim = cls(directory, connection)
            shim._greet()
            return shim
        except BlockingIOError as exc:
            connection.close()
            raise errors.ResourceExhausted(f"connect to the shim of {directory}: it does not answer") from exc
        except OSError as exc:
            connection.close()
            raise errors.Unavailable(f"connect to the shim of {directory}: {exc.strerror}") from exc

    @staticmethod
    def records(directory: str) -> list[ExitRecord]:
        """Every exit on file in `directory`, oldest first; the shim may be dead. NotFound when it never lived."""
        try:
            with open(os.path.join(directory, "exits"), "rb") as file:
                try:
                    # The oldest records of a long life are a hole.
                    file.seek(os.lseek(file.fileno(), 0, os.SEEK_DATA) // EXIT.size * EXIT.size)
                except OSError:
                    return []
                data = file.read()
        except OSError as exc:
            raise errors.from_os(exc, f"read the exit records of {directory}") from exc
        whole = len(data) - len(data) % EXIT.size
        return [_exit_record(data[at : at + EXIT.size]) for at in range(0, whole, EXIT.size) if any(data[at : at + 32])]

    def catch_up(self) -> list[ExitRecord]:
        """Every exit on file, oldest first; each later one is told to `on_exit`. Never waits, not even for a shim that
        is stopped."""
        records = self.records(self.directory)
        following = records[-1].sequence + 1 if records else 0
        self._below = max(self._below, following)
        self._follow()
        return records

    def _follow(self) -> None:
        with contextlib.suppress(OSError):  # it is gone, as `on_close` tells
            self._socket.send(REQUEST.pack(self.version, OP_FOLLOW, 0, 0) + struct.pack("<Q", self._below))

    async def run(
        self,
        argv: Sequence[str],
        *,
        env: Sequence[str] = (),
        cwd: str = "/",
        fds: Mapping[int, int] | None = None,
        names: Mapping[int, str] | None = None,
        keep_output: int = KEEP_MAX,
        timeout: float | None,  # noqa: ASYNC109  the shim keeps it, so that it outlives the daemon
        sent: Callable[[], None] | None = None,
    ) -> Finished:
        """Run a program in the shim's mount namespace, in a process group of its own, to its end.

        `env` is the whole environment, as KEY=value. A bare argv[0] is looked up in its PATH, or else the daemon's.
        `fds` maps descriptors of the program (below 256) to ours, which are lent; `names` maps them to names the shim
        holds. Without a mapping 0 is /dev/null, and 1 and 2 are kept as output, the last `keep_output` bytes (64 KiB at
        most). Output of grandchildren that outlive the program is discarded. `sent` is called when the
        descriptors are no longer needed.

        NotFound when there is no such program, directory or name. DeadlineExceeded, with the output, when `timeout`
        seconds passed: the program's group has been killed, as it is when this coroutine is cancelled.
        """
        lent, held = dict(fds or {}), dict(names or {})
        program = _program(argv, env)
        parts = [
            RUN.pack(
                max(1, int(timeout * 1e9)) if timeout is not None else 0,
                min(max(keep_output, 0), KEEP_MAX),
                len(argv),
                len(env),
                len(lent),
                len(held),
                0,
            ),
            struct.pack(f"<{len(lent) + len(held)}I", *lent, *held),
            _strings(cwd, program, *argv[1:], *env, *held.values()),
        ]
        doing = f"run {program}"
        seconds = None if timeout is None else timeout + GRACE_SECONDS
        answer = await self._ask(OP_RUN, b"".join(parts), list(lent.values()), seconds, doing, sent)
        self._checked(answer, f"{doing}: {STAGES[answer.stage]}" if answer.stage in STAGES else doing)
        status, flags = RESULT.unpack_from(answer.body)
        output = answer.body[RESULT.size :]
        if flags & EXPIRED:
            raise errors.DeadlineExceeded(f"run {program}: killed after {timeout} s{_quoted(output)}")
        return Finished(status, output)

    async def attach(self, mount: int, target: str) -> None:
        """Attach the detached mount that descriptor `mount` is onto `target`, in the shim's mount namespace."""
        await self._call(OP_ATTACH, _strings(target), [mount], f"attach a mount to {target}")

    async def mount(self, type: str, source: str, target: str, flags: int, data: str) -> None:
        """mount(2) in the shim's mount namespace."""
        body = struct.pack("<Q", flags) + _strings(type, source, target, data)
        await self._call(OP_MOUNT, body, [], f"mount {type} on {target}")

    async def keep(self, name: str, fd: int) -> None:
        """Have the shim hold a duplicate of `fd` as `name` (below 128 bytes), in place of what it held by that name."""
        await self._call(OP_KEEP, _strings(name), [fd], f"keep descriptor {name}")

    async def fetch(self, name: str) -> int:
        """A duplicate of the descriptor held as `name`, the caller's. NotFound."""
        answer = await self._call(OP_FETCH, _strings(name), [], f"fetch descriptor {name}")
        if len(answer.fds) != 1:
            raise errors.ResourceExhausted(f"fetch descriptor {name}: no descriptor arrived")
        return answer.fds[0]

    async def drop(self, name: str) -> None:
        """Close the descriptor held as `name`, and end the console that waits for it. NotFound without either."""
        await self._call(OP_DROP, _strings(name), [], f"drop descriptor {name}")

    async def console(self, path: str, name: str) -> None:
        """Listen at the absolute `path` for one connection that sends one descriptor, to be held as `name`.

        Returns when the socket listens. A program that sends to it and ends has `name` held when its `run` returns.
        The socket's file goes when the descriptor has arrived, or by `drop`.
        """
        await self._call(OP_CONSOLE, _strings(path, name), [], f"open console socket {path}")

    async def resize(self, name: str, width: int, height: int) -> None:
        """Set the size, in characters, of the terminal held as `name`."""
        if not (0 <= width < 65536 and 0 <= height < 65536):
            raise errors.InvalidArgument(f"resize terminal {name}: {width}x{height} is no size")
        body = struct.pack("<HHI", width, height, 0) + _strings(name)
        await self._call(OP_RESIZE, body, [], f"resize terminal {name}")

    async def watch_oom(self, memory_cgroup: str) -> None:
        """From now on exits with a status other than 0 are marked when this cgroup has killed for memory since.

        `memory_cgroup` is a directory of a v1 memory hierarchy or of v2.
        """
        await self._call(OP_WATCH_OOM, _strings(memory_cgroup), [], f"watch {memory_cgroup} for oom kills")

    async def shutdown(self) -> None:
        """End the shim and wait until it is gone, and its mounts with it.

        What `run` still runs is killed. Containers are not: end them first, or their exits are nobody's to see.
        """
        with contextlib.ExitStack() as stack:
            try:
                process = os.pidfd_open(self.pid)
            except ProcessLookupError:
                self.close()
                return
            stack.callback(os.close, process)
            self._close_callbacks.clear()
            gone = self._loop.create_future()
            self._loop.add_reader(process, lambda: None if gone.done() else gone.set_result(None))
            stack.callback(self._loop.remove_reader, process)
            doing = f"shut down the shim of {self.directory}"
            async with _deadline(ANSWER_SECONDS, doing):
                with contextlib.suppress(errors.Unavailable):
                    await self._send(OP_SHUTDOWN, 0, b"", [], doing, gone)
                await gone
        self.close()

    def on_exit(self, callback: Callable[[ExitRecord], None]) -> None:
        """Call back on the loop for every exit since `connect` that is not the end of a `run`, once it is on file."""
        self._exit_callbacks.append(callback)
        early, self._early = self._early, []
        for record in early:
            callback(record)

    def on_kill(self, callback: Callable[[], None]) -> None:
        """Call back on the loop each time that the watched cgroup has killed for memory; a shim of version 1 tells with
        the next exit only."""
        self._kill_callbacks.append(callback)
        if self._kills:
            callback()

    def on_stranger(self, callback: Callable[[], None]) -> None:
        """Call back on the loop, once, when it is known that the shim speaks no version of ours."""
        if self.stranger:
            callback()
        else:
            self._stranger_callbacks.append(callback)

    def on_close(self, callback: Callable[[], None]) -> None:
        """Call back on the loop, once, when the shim is gone. Not after `close` or `shutdown`."""
        self._close_callbacks.append(callback)

    def close(self) -> None:
        """Drop this connection; the shim lives on, and so do programs it runs. Requests under way fail."""
        self._close_callbacks.clear()
        self._lost()

    async def greeted(self) -> None:
        """Until the shim has read our hello, and what others had sent before that; or is gone."""
        await self._greeted.wait()

    def _greet(self) -> None:
        """Say what we speak. What is asked meanwhile waits for the answer."""
        self._greeted.clear()
        with contextlib.suppress(OSError):  # it is gone, as `on_close` tells
            self._socket.send(REQUEST.pack(1, OP_HELLO, 0, 0) + HELLO.pack(VERSION, OLDEST, 0))

    def _met(self, error: int, body: bytes) -> None:
        newest, oldest = (1, 1) if error or len(body) < HELLO.size else HELLO.unpack_from(body)[:2]
        self.version = min(VERSION, newest)
        self._greeted.set()
        if newest >= OLDEST and oldest <= VERSION:
            if oldest > OLDEST:
                self._follow()  # what we said of that was in a version that it does not speak
            return
        self.stranger = (
            f"the shim of {self.directory} speaks {_versions(oldest, newest)} of its protocol, and this holdd "
            f"{_versions(OLDEST, VERSION)}: use a holdd of the release that started it, or kill and delete the task"
        )
        self._fail(errors.Unimplemented(self.stranger))
        callbacks, self._stranger_callbacks = self._stranger_callbacks, []
        for callback in callbacks:
            callback()

    def _kill(self, request_id: int) -> None:
        """Best effort: a shim too busy to take it still has the program's own deadline."""
        message = REQUEST.pack(self.version, OP_KILL, 0, 0) + struct.pack("<II", request_id, 9)
        with contextlib.suppress(OSError):
            self._socket.send(message)

    async def _call(self, operation: int, body: bytes, fds: list[int], doing: str) -> _Answer:
        return self._checked(await self._ask(operation, body, fds, ANSWER_SECONDS, doing), doing)

    async def _ask(
        self,
        operation: int,
        body: bytes,
        fds: list[int],
        seconds: float | None,
        doing: str,
        sent: Callable[[], None] | None = None,
    ) -> _Answer:
        """What one request is answered with, within so many seconds."""
        self._last_id = request_id = self._last_id % 0xFFFFFFFF + 1  # 0 is for what nobody waits for
        future: asyncio.Future[_Answer] = self._loop.create_future()
        self._waiting[request_id] = future
        timer = None if seconds is None else self._loop.call_later(seconds, _expire, future)
        try:
            await self._send(operation, request_id, body, fds, doing, future)
            if sent is not None:
                sent()
            return await future
        except BaseException as exc:
            if isinstance(exc, asyncio.CancelledError) and operation == OP_RUN:
                self._kill(request_id)
            if future.done() and not future.cancelled() and future.exception() is None:
                _close_all(future.result().fds)
            if isinstance(exc, TimeoutError):
                raise errors.DeadlineExceeded(f"{doing}: no answer in {seconds} s") from exc
            raise
        finally:
            del self._waiting[request_id]
            if timer is not None:
                timer.cancel()
            if not future.cancel():
                future.exception()  # looked at, or asyncio complains of one that nobody waited for

    async def _send(
        self,
        operation: int,
        request_id: int,
        body: bytes,
        fds: list[int],
        doing: str,
        answer: "asyncio.Future[Any]",
    ) -> None:
        if not self._greeted.is_set():
            await _before(asyncio.ensure_future(self._greeted.wait()), answer)
        if self.stranger and operation != OP_SHUTDOWN:
            raise errors.Unimplemented(f"{doing}: {self.stranger}")
        message = REQUEST.pack(self.version, operation, 0, request_id) + body
        if len(message) > REQUEST_MAX or len(fds) > FDS_MAX:
            raise errors.InvalidArgument(f"{doing}: {len(message)} bytes and {len(fds)} descriptors are too many")
        rights = [(*_RIGHTS, array.array("i", fds))] if fds else []
        async with self._sending:
            while True:
                try:
                    self._socket.sendmsg([message], rights, _NOSIGNAL)
                    return
                except BlockingIOError:
                    await self._writable(answer)
                except OSError as exc:
                    raise errors.Unavailable(f"{doing}: the shim of {self.directory}: {exc.strerror}") from exc

    async def _writable(self, answer: "asyncio.Future[Any]") -> None:
        ready = self._loop.create_future()
        fd = self._socket.fileno()
        self._loop.add_writer(fd, lambda: None if ready.done() else ready.set_result(None))
        try:
            await _before(ready, answer)
        finally:
            if self._socket.fileno() >= 0:
                self._loop.remove_writer(fd)

    def _readable(self) -> None:
        # A bounded number a turn, so that one shim with many exits does not hold the loop; only those come in many.
        for _ in range(64):
            try:
                size, ancillary, flags, _ = self._socket.recvmsg_into([_buffer], _ANCILLARY, _CLOEXEC)
            except BlockingIOError:
                return
            except OSError:
                size, ancillary, flags = 0, [], 0
            fds = _descriptors(ancillary)
            if size < ANSWER.size or flags & _TRUNC or not self._speaks(_buffer[0], _buffer[1]):
                _close_all(fds)
                self._lost()
                return
            if not self._told(bytes(memoryview(_buffer)[:size]), fds):
                return

    def _speaks(self, version: int, operation: int) -> bool:
        return OLDEST <= version <= VERSION or operation == OP_HELLO or bool(self.stranger)

    def _told(self, message: bytes, fds: list[int]) -> bool:
        """Whether it was a notice, and not an answer."""
        _, operation, stage, request_id, error = ANSWER.unpack_from(message)
        if request_id == 0:
            _close_all(fds)
            self._noticed(operation, error, message[ANSWER.size :])
            return True
        self._answered(request_id, _Answer(stage, error, message[ANSWER.size :], fds))
        return False

    def _answered(self, request_id: int, answer: _Answer) -> None:
        future = self._waiting.get(request_id)
        if future is None or future.done():
            _close_all(answer.fds)
            return
        future.set_result(answer)

    def _noticed(self, operation: int, error: int, body: bytes) -> None:
        """What nobody waits for; a notice that we do not know is from a later version."""
        if operation == OP_HELLO:
            self._met(error, body)
        elif self.stranger:
            return
        elif operation == OP_EXIT:
            self._exited(_exit_record(body))
        elif operation == OP_OOM:
            self._kills = OOM_NOTICE.unpack_from(body)[0]
            for callback in self._kill_callbacks:
                callback()

    def _exited(self, record: ExitRecord) -> None:
        """Told once, though the shim, which goes back when it is asked to, tells some again."""
        if record.sequence < self._below or record.sequence in self._beyond:
            return
        self._beyond.add(record.sequence)
        while self._below in self._beyond:
            self._beyond.remove(self._below)
            self._below += 1
        if not self._exit_callbacks:
            self._early.append(record)
        for callback in self._exit_callbacks:
            callback(record)

    def _lost(self) -> None:
        if self._socket.fileno() < 0:
            return
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        self._socket.close()
        self._greeted.set()
        self._fail(errors.Unavailable(f"the shim of {self.directory} is gone"))
        callbacks, self._close_callbacks = self._close_callbacks, []
        for callback in callbacks:
            callback()

    def _fail(self, error: errors.Error) -> None:
        """All that is under way."""
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(error)

    def _checked(self, answer: _Answer, doing: str) -> _Answer:
        if not answer.error:
            return answer
        _close_all(answer.fds)
        error = errors.from_os(OSError(answer.error, os.strerror(answer.error)), doing)
        if isinstance(error, errors.Unimplemented) and self.version < VERSION:
            raise errors.Unimplemented(
                f"{error.message}; the shim of {self.directory} speaks version {self.version} of its protocol, "
                f"and this holdd up to version {VERSION}"
            )
        raise error


def _versions(oldest: int, newest: int) -> str:
    return f"version {newest}" if oldest == newest else f"versions {oldest} to {newest}"


async def _before(ready: "asyncio.Future[Any]", answer: "asyncio.Future[Any]") -> None:
    """Wait for `ready`, or raise what `answer` does, if it does first."""
    try:
        await asyncio.wait((ready, answer), return_when=asyncio.FIRST_COMPLETED)
    finally:
        ready.cancel()
    if answer.done():
        answer.result()


def _expire(future: "asyncio.Future[_Answer]") -> None:
    if not future.done():
        future.set_exception(TimeoutError())


def _exit_record(data: bytes) -> ExitRecord:
    sequence, time_ns, pid, status, flags, kills = EXIT.unpack_from(data)
    return ExitRecord(sequence, pid, status, time_ns, bool(flags & OOM), kills, bool(flags & OOM_ANCESTOR))


def _strings(*texts: str) -> bytes:
    for text in texts:
        if "\0" in text:
            raise errors.InvalidArgument(f"pass {text!r} to a shim: it has a NUL")
    return b"".join(os.fsencode(text) + b"\0" for text in texts)


def _program(argv: Sequence[str], env: Sequence[str]) -> str:
    if not argv or not argv[0]:
        raise errors.InvalidArgument("run a program: it has no name")
    if "/" in argv[0]:
        return argv[0]
    path = next((entry[5:] for entry in env if entry.startswith("PATH=")), None)
    found = shutil.which(argv[0], path=path)
    if found is None:
        raise errors.NotFound(f"run {argv[0]}: not found in PATH")
    return found


def _quoted(output: bytes) -> str:
    text = output.decode(errors="replace").strip()[-WORDS_MAX:]
    return f": {text}" if text else ""


def _descriptors(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == _RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return fds.tolist()


def _close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


@contextlib.contextmanager
def _opened(directory: str) -> Iterator[int]:
    """A descriptor of the directory, whose path may be longer than a socket address."""
    folder = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield folder
    finally:
        os.close(folder)


@contextlib.asynccontextmanager
async def _deadline(seconds: float, doing: str) -> Any:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as exc:
        raise errors.DeadlineExceeded(f"{doing}: no answer in {seconds} s") from exc
