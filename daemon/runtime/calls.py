"""Runs one container's OCI runtime in its shim, and turns its failures into errors. Knows no state of a task."""

import contextlib
import math
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping

import msgspec

from daemon.runtime import living
from daemon.runtime.bundle import Bundle
from daemon.runtime.oci import Commands
from daemon.runtime.shim import Finished, Shim
from daemon.runtime.words import complaint, criu_complaint, logged
from spec import errors
from spec.records import CheckpointOptions

CHECKPOINT_SECONDS = 600.0  # memory is written out, however much there is
END_SECONDS = 10.0  # for a process that is killed to end
SOCKET_PATH_MAX = 107  # bytes (unix(7)); the runtime connects to the name it is given


class _State(msgspec.Struct, frozen=True):
    """OCI runtime spec, state: what we read of it."""

    status: str = ""


class Calls:
    """The runtime calls of one container. Each is bounded: past that the runtime is killed.

    All raise Unknown with the runtime's words when it fails, DeadlineExceeded, FailedPrecondition when its program is
    gone, and Unavailable when the shim is. A runtime that says it has done what it has not is found out where that can
    be asked. `proven` are the paths of those that were seen to start containers, and may grow.
    """

    def __init__(self, commands: Commands, bundle: Bundle, proven: set[str]) -> None:
        self.commands = commands
        self.bundle = bundle
        self._proven = proven

    async def create(
        self, shim: Shim, streams: Mapping[int, int], terminal: str = "", heard: bool = False
    ) -> int:
        """Make the container, its init process with `streams`, or else with a terminal held by the name `terminal`; its
        pid. `heard`: the caller reads what comes on stderr, which is the runtime's until the process runs."""
        bundle = self.bundle
        async with self._console(shim, terminal) as socket:
            await self._call(
                shim,
                lambda log: self.commands.create(log, bundle.path, bundle.at("init.pid"), socket),
                "create",
                streams,
                heard=heard,
            )
        return self._made(shim, "init.pid", "create")

    async def exec(
        self,
        shim: Shim,
        exec_id: str,
        streams: Mapping[int, int],
        names: Mapping[int, str],
        terminal: str = "",
        heard: bool = False,
    ) -> int:
        """Start the process of `exec-EXEC_ID.json`, its streams lent or held by name, or a terminal as in `create`; its
        pid. When the call fails and left a process, that is ended. `heard` as in `create`."""
        process, pid_file = self.bundle.at(f"exec-{exec_id}.json"), self.bundle.at(f"exec-{exec_id}.pid")
        doing = f"exec {exec_id} in"
        try:
            async with self._console(shim, terminal) as socket:
                await self._call(
                    shim,
                    lambda log: self.commands.exec(log, process, pid_file, socket),
                    doing,
                    streams,
                    names,
                    heard=heard,
                )
        except errors.Error:
            await self._end_left(shim, f"exec-{exec_id}.pid")
            raise
        return self._made(shim, f"exec-{exec_id}.pid", doing)

    async def start(self, shim: Shim, pid: int) -> None:
        """`pid` is the init process. It is to run another program soon; else the runtime is asked, which costs as much
        as the start: not if it is `proven`."""
        path = self.commands.launch.path
        waiting = None if path in self._proven else living.program(pid)
        await self._call(shim, self.commands.start, "start")
        if waiting and not await living.moved_on(pid, waiting):
            await self._confirm(shim, "start", lambda status: status != "created")
        self._proven.add(path)

    async def pause(self, shim: Shim) -> None:
        await self._call(shim, self.commands.pause, "pause")
        await self._confirm(shim, "pause", lambda status: status == "paused")

    async def resume(self, shim: Shim) -> None:
        await self._call(shim, self.commands.resume, "resume")
        await self._confirm(shim, "resume", lambda status: status != "paused")

    async def _confirm(self, shim: Shim, verb: str, done: Callable[[str], bool]) -> None:
        status = await self.status(shim)
        if not done(status):
            raise errors.Unknown(f"{self._doing(verb)}: it says that it did, and that the container is {status!r}")

    async def kill(self, shim: Shim, signal: int, all_processes: bool = False) -> None:
        await self._call(shim, lambda log: self.commands.kill(log, signal, all_processes), f"send signal {signal} to")

    async def update(self, shim: Shim, resources: bytes) -> None:
        """`resources` is the JSON of the OCI runtime spec's `linux.resources`."""
        name = "resources.json"
        path = self.bundle.write(name, resources)
        try:
            await self._call(shim, lambda log: self.commands.update(log, path), "update the resources of")
        finally:
            self.bundle.discard(name)

    async def checkpoint(self, shim: Shim, options: CheckpointOptions) -> None:
        work = self._work(options.work_path)
        with _criu_says(os.path.join(work, "dump.log")):
            await self._call(
                shim,
                lambda log: self.commands.checkpoint(log, work, options),
                "checkpoint",
                timeout=CHECKPOINT_SECONDS,
            )

    async def restore(
        self, shim: Shim, images: str, streams: Mapping[int, int], names: Mapping[int, str], terminal: str = ""
    ) -> int:
        """Make the container of the checkpoint in the directory `images`, its streams lent or held by name, or a
        terminal as in `create`; the pid of its init process."""
        bundle, pid_file, work = self.bundle, self.bundle.at("init.pid"), self._work()
        async with self._console(shim, terminal) as socket:
            with _criu_says(os.path.join(work, "restore.log")):
                await self._call(
                    shim,
                    lambda log: self.commands.restore(log, bundle.path, pid_file, images, work, socket),
                    "restore",
                    streams,
                    names,
                    timeout=CHECKPOINT_SECONDS,
                )
        return self._made(shim, "init.pid", "restore")

    def _work(self, wanted: str = "") -> str:
        """Where CRIU leaves its log."""
        work = wanted or self.commands.launch.criu_work_path
        if not work:
            self.bundle.vacate("criu")
            work = self.bundle.at("criu")
        return work

    async def delete(self, shim: Shim, force: bool = False, at_most: float = math.inf) -> None:
        """Within `at_most` seconds, if those are fewer than it has anyway."""
        timeout = min(at_most, self.commands.launch.timeout_s)
        await self._call(shim, lambda log: self.commands.delete(log, force), "delete", timeout=timeout)

    async def status(self, shim: Shim) -> str:
        """The OCI status: creating, created, running, stopped, or paused (an extension that all have)."""
        finished = await self._call(shim, self.commands.state, "ask the state of")
        try:
            return msgspec.json.decode(finished.output, type=_State).status
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise errors.Unknown(f"read what runtime {self.commands.launch.name!r} says of a state: {exc}") from exc

    @contextlib.asynccontextmanager
    async def _console(self, shim: Shim, terminal: str) -> AsyncIterator[str]:
        """Listen for the terminal that shall be `terminal`, if any: the socket's path, for a runtime that works in the
        bundle."""
        if not terminal:
            yield ""
            return
        name = f"{terminal}.sock"
        path = self.bundle.at(name)
        await shim.console(path, terminal)
        try:
            yield path if len(os.fsencode(path)) <= SOCKET_PATH_MAX else name
        except BaseException:
            with contextlib.suppress(errors.NotFound, errors.Unavailable):
                await shim.drop(terminal)
            raise

    async def _call(
        self,
        shim: Shim,
        argv: Callable[[str], list[str]],
        doing: str,
        streams: Mapping[int, int] | None = None,
        names: Mapping[int, str] | None = None,
        timeout: float = 0.0,  # noqa: ASYNC109  the shim's; 0 for the configured one
        heard: bool = False,
    ) -> Finished:
        commands = self.commands
        doing = self._doing(doing)
        with self.bundle.log() as log:
            try:
                finished = await shim.run(
                    argv(log),
                    env=commands.launch.environment,
                    cwd=self.bundle.path,
                    fds=streams or {},
                    names=names or {},
                    timeout=timeout or commands.launch.timeout_s,
                )
            except errors.NotFound as exc:
                raise errors.FailedPrecondition(f"{doing}: runtime not found: {exc.message}") from exc
            except errors.DeadlineExceeded as exc:
                words = logged(_read(log))
                raise errors.DeadlineExceeded(f"{doing}: {exc.message}{words and f'; {words}'}") from exc
            except errors.Unavailable:
                raise
            except errors.Error as exc:
                raise type(exc)(f"{doing}: {exc.message}") from exc
            if finished.status != 0:
                said = _read(log)
                brief = f"{doing}: it failed" if heard and logged(said) and await self._repeats(shim) else ""
                raise errors.Unknown(f"{doing}: {complaint(said, finished.output, finished.status)}", brief)
        return finished

    async def _repeats(self, shim: Shim) -> bool:
        """Whether the runtime prints what it logs, too, seen by what must fail: runc and crun do, runsc does not."""
        nobody = Commands(self.commands.launch, f"{self.commands.id}-none")
        with self.bundle.log() as log:
            try:
                finished = await shim.run(
                    nobody.state(log),
                    env=nobody.launch.environment,
                    cwd=self.bundle.path,
                    timeout=nobody.launch.timeout_s,
                )
            except errors.Error:
                return False
            words = logged(_read(log))
            return bool(words) and words in finished.output.decode(errors="replace")

    def _doing(self, verb: str) -> str:
        return f"{verb} container {self.commands.id} by runtime {self.commands.launch.name!r}"

    def _made(self, shim: Shim, pid_file: str, verb: str) -> int:
        """The pid of a process that a call has made. It must be the shim's child, or have been: nobody would learn of
        the exit of another, and signals would reach a stranger."""
        pid = self.bundle.pid(pid_file)
        if not pid:
            raise errors.Unknown(f"{self._doing(verb)}: it wrote no pid")
        if living.parent(pid) != shim.pid and all(exit.pid != pid for exit in Shim.records(self.bundle.path)):
            raise errors.Unknown(f"{self._doing(verb)}: it wrote pid {pid}, which is no process of its making")
        return pid

    async def _end_left(self, shim: Shim, pid_file: str) -> None:
        pid = self.bundle.pid(pid_file)
        if pid and living.parent(pid) == shim.pid:
            with contextlib.suppress(errors.DeadlineExceeded):
                await living.end(pid, living.started_ticks(pid), END_SECONDS)


@contextlib.contextmanager
def _criu_says(log: str) -> Iterator[None]:
    """With CRIU's words, from its log, if the block fails."""
    try:
        yield
    except errors.Unknown as exc:
        if words := criu_complaint(_read(log)):
            raise errors.Unknown(f"{exc.message}; criu: {words}") from exc
        raise


def _read(path: str) -> bytes:
    """The end of a log: its last words are what counts."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 65536))
            return file.read()
    except FileNotFoundError:
        return b""
