"""Processes that are exec'd into a task: added, started, forgotten. Knows no other way to start one."""

import asyncio
import contextlib
import os
from collections.abc import Sequence
from contextlib import ExitStack

from daemon.kit import threads
from daemon.runtime import held, living, loggers, users
from daemon.runtime.bundle import Phase, ProcessRecord
from daemon.runtime.config import User, read_process, resolved_process
from daemon.runtime.endings import Endings
from daemon.runtime.process import TaskProcess
from daemon.runtime.shim import Shim
from daemon.runtime.state import TaskState
from daemon.runtime.stdio import heard, open_streams, open_writer
from spec import errors, events, names
from spec.oci.users import Ids
from spec.records import Exit
from spec.types import Stdio


class Execs:
    """Those of one task."""

    def __init__(self, state: TaskState, endings: Endings) -> None:
        self._state = state
        self._endings = endings

    async def add(self, exec_id: str, spec: bytes, stdio: Stdio, fds: Sequence[int] = ()) -> None:
        with ExitStack() as stack:
            for fd in fds:
                stack.callback(os.close, fd)
            names.check_identifier(exec_id, "exec id")
            doing = f"exec {exec_id} in task {self._state.id}"
            if exec_id in self._state.processes:
                raise errors.AlreadyExists(f"{doing}: it exists")
            shim = self._state.running_shim(doing)
            self._state.require_running(doing)
            process = read_process(spec, doing)
            if process.terminal != stdio.terminal:
                raise errors.InvalidArgument(f"{doing}: its process and its stdio disagree about a terminal")
            user = process.user or User()
            streams = open_streams(stdio, fds, stack, doing)
            piped, programs = loggers.open_loggers(stdio, stack, doing)
            writer = open_writer(stdio, streams, stack, doing)
            added = TaskProcess(self._state.id, ProcessRecord(exec_id=exec_id, stdio=stdio))
            self._state.processes[exec_id] = added
            try:
                ids = await threads.hop(self._state.host.pool, self._identify, user) if user.username else None
                self._state.home.write(f"exec-{exec_id}.json", resolved_process(spec, ids))
                await loggers.start(programs, self._state.host, shim, self._state.namespace, self._state.id)
                kept = {held.streams(exec_id, stdio)[number]: fd for number, fd in {**streams, **piped}.items()}
                if writer is not None:
                    kept[held.writer(exec_id)] = writer
                await asyncio.gather(*(shim.keep(name, fd) for name, fd in kept.items()))
                self._state.require_running(doing)
                self._state.save(logged=self._state.record.logged or bool(programs))
            except BaseException:
                added.forget()
                del self._state.processes[exec_id]
                self._state.home.discard(f"exec-{exec_id}.json")
                await asyncio.shield(held.release(shim, held.all_of(exec_id, stdio)))
                raise
            self._state.publish(events.TaskExecAdded(container_id=self._state.id, exec_id=exec_id))

    def _identify(self, user: User) -> Ids:
        """By the files init sees, which may be others than its image has."""
        doing = f"resolve user {user.username!r} of task {self._state.id}"
        try:
            root = os.open(f"/proc/{self._state.init.record.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as exc:
            raise errors.from_os(exc, doing) from exc
        try:
            if not living.alive(self._state.init.record.pid, self._state.init.record.started_ticks):
                raise errors.FailedPrecondition(f"{doing}: it has ended")
            return users.identify(root, user.username, user.additional_gids or ())
        finally:
            os.close(root)

    async def start(self, process: TaskProcess, shim: Shim) -> int:
        exec_id, stdio = process.exec_id, process.record.stdio
        streams = held.streams(exec_id, stdio)
        null = {} if stdio.terminal else {number: self._state.host.null for number in range(3) if number not in streams}
        try:
            with self._endings.exits.launching():
                self._state.save()
                pty = held.pty(exec_id) if stdio.terminal else ""
                pid = await self._state.calls.exec(shim, exec_id, null, streams, pty, heard(stdio))
                self._launched(process, pid)
        except BaseException:
            process.fail()
            with contextlib.suppress(errors.Error):
                self._state.save()
            raise
        finally:
            await held.release(shim, streams.values())
            self._state.home.discard(f"exec-{exec_id}.json")
            self._state.home.discard(f"exec-{exec_id}.pid")
        return process.record.pid

    def _launched(self, process: TaskProcess, pid: int) -> None:
        process.change(phase=Phase.STARTED, pid=pid, started_ticks=living.started_ticks(pid))
        self._state.save()
        self._state.publish(events.TaskExecStarted(container_id=self._state.id, exec_id=process.exec_id, pid=pid))
        self._endings.expect(process)

    async def delete(self, exec_id: str) -> Exit:
        process = self._state.process(exec_id)
        if not exec_id:
            raise errors.InvalidArgument(f"delete a process of task {self._state.id}: an exec id is required")
        if process.live:
            raise errors.FailedPrecondition(f"delete {process.title}: it is running")
        del self._state.processes[exec_id]
        self._state.home.discard(f"exec-{exec_id}.json")
        self._state.save()
        if process.record.exit is None:
            process.forget()
        if self._state.shim is not None:
            await held.release(self._state.shim, held.all_of(exec_id, process.record.stdio))
        return process.record.exit or Exit()
