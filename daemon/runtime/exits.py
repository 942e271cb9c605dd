"""Which process of a task an exit record is about, in whatever order pid and record arrive. Knows no shim."""

from collections.abc import Iterator
from contextlib import contextmanager

from daemon.runtime.process import TaskProcess
from daemon.runtime.shim import ExitRecord
from spec.records import Exit


class Exits:
    """Matches records by pid. A record counts from a process's `since` on: the shim's pids come round again.

    A process may end before the runtime's pid file is read. So while anything is launched, records of unknown pids
    (orphans of a container are reaped too) are kept and looked through again.
    """

    def __init__(self) -> None:
        self.since = 0
        self._by_pid: dict[int, TaskProcess] = {}
        self._launching = 0
        self._strays: list[ExitRecord] = []

    def expect(self, process: TaskProcess) -> list[ExitRecord]:
        """Take exits of its pid for the process's from now on; those that came early."""
        pid = process.record.pid
        self._by_pid[pid] = process
        return [record for record in self._strays if record.pid == pid]

    def forget(self, pid: int) -> None:
        self._by_pid.pop(pid, None)

    def match(self, record: ExitRecord) -> TaskProcess | None:
        self.since = max(self.since, record.sequence + 1)
        process = self._by_pid.get(record.pid)
        if process is not None and record.sequence >= process.record.since:
            return process
        if self._launching:
            self._strays.append(record)
        return None

    @contextmanager
    def launching(self) -> Iterator[None]:
        """While a process is launched whose pid is not known yet."""
        self._launching += 1
        try:
            yield
        finally:
            self._launching -= 1
            if not self._launching:
                self._strays.clear()


def as_exit(record: ExitRecord) -> Exit:
    return Exit(
        pid=record.pid,
        status=record.status,
        exited_at_ns=record.time_ns,
        oom_killed=record.oom,
        oom_kills=record.oom_kills,
        oom_ancestor=record.oom_ancestor,
    )
