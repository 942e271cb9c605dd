"""Processes by pid and starting time, so that no signal reaches one that got the pid later. Knows no container."""

import asyncio
import contextlib
import os
import signal

from daemon.runtime import files
from spec import errors

EXEC_SECONDS = (0, 0.001, 0.002, 0.005, 0.01, 0.02)  # between looks; it takes some system calls


def boot_id() -> str:
    """Of the running kernel; pids and starting times mean nothing under another (random(4))."""
    return files.read("/proc/sys/kernel/random/boot_id").decode().strip()


def started_ticks(pid: int) -> int:
    """When `pid` started, in clock ticks since boot (proc(5), stat, field 22); 0 when there is no such process."""
    try:
        stat = files.read(f"/proc/{pid}/stat")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    # the name in parentheses may contain anything
    return int(stat[stat.rindex(b")") + 2 :].split()[19])


def parent(pid: int) -> int:
    """Its parent's pid, also of a zombie (proc(5), stat, field 4); 0 when there is no such process."""
    try:
        stat = files.read(f"/proc/{pid}/stat")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(stat[stat.rindex(b")") + 2 :].split()[1])


def program(pid: int) -> tuple[int, int] | None:
    """Device and inode of the file that it runs (proc(5), exe); None when there is no such process, or a zombie."""
    try:
        status = os.stat(f"/proc/{pid}/exe")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return status.st_dev, status.st_ino


async def moved_on(pid: int, former: tuple[int, int]) -> bool:
    """Whether it runs another program than `former`, or has ended; one that is about to is waited for."""
    for seconds in EXEC_SECONDS:
        await asyncio.sleep(seconds)
        if program(pid) != former:
            return True
    return False


def alive(pid: int, ticks: int) -> bool:
    """Whether the process is there, be it a zombie."""
    return bool(pid) and bool(ticks) and started_ticks(pid) == ticks


def send(pid: int, ticks: int, number: int) -> bool:
    """Send signal `number`; False when the process is gone. OSError EINVAL for a number that is no signal."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        # the descriptor holds whoever has the pid now; if that started then, it is the one meant
        if started_ticks(pid) != ticks:
            return False
        signal.pidfd_send_signal(process, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(process)
    return True


async def ended(pid: int, ticks: int, seconds: float, number: int = 0) -> bool:
    """Send signal `number`, if any, and wait until the process has ended, be it as a zombie; False after `seconds`."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    loop = asyncio.get_running_loop()
    gone = loop.create_future()
    try:
        if started_ticks(pid) != ticks:
            return True
        if number:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(process, number)
        loop.add_reader(process, lambda: None if gone.done() else gone.set_result(None))
        async with asyncio.timeout(seconds):
            await gone
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(process)
        os.close(process)
    return True


async def end(pid: int, ticks: int, seconds: float) -> None:
    """SIGKILL the process and wait until it has ended. DeadlineExceeded after `seconds`."""
    if not await ended(pid, ticks, seconds, signal.SIGKILL):
        raise errors.DeadlineExceeded(f"kill process {pid}: it has not ended within {seconds} s")


def children(pid: int) -> list[int]:
    """proc(5), task/TID/children."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            found += [int(child) for child in files.read(f"/proc/{pid}/task/{task}/children").split()]
    return found


def descendants(pid: int) -> list[int]:
    """Pids of the children of `pid` and theirs, nearest first."""
    found = [pid]
    for parent in found:
        found += children(parent)
    return found[1:]


def arguments(pid: int) -> list[str]:
    """What it was started with (proc(5), cmdline); none when that cannot be told."""
    try:
        return os.fsdecode(files.read(f"/proc/{pid}/cmdline")).split("\0")[:-1]
    except OSError:
        return []


async def end_descendants(pid: int, seconds: float) -> None:
    """End every descendant of `pid`, also those that it gets from others while they end."""
    async with asyncio.timeout(seconds):
        while living := [(child, ticks) for child in descendants(pid) if (ticks := _running(child))]:
            await asyncio.gather(*(end(child, ticks, seconds) for child, ticks in living))


def _running(pid: int) -> int:
    """`started_ticks` of a process that is not a zombie, else 0."""
    try:
        stat = files.read(f"/proc/{pid}/stat")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    state, *fields = stat[stat.rindex(b")") + 2 :].split()
    return 0 if state in (b"Z", b"X") else int(fields[18])
