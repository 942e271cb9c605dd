"""Foreign programs: started with no more than they are given."""

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress


def spawn(argv: Sequence[str], env: Mapping[str, str], ends: Sequence[int]) -> int:
    """The pid of `argv`, which is that of its process group too; `ends` are its descriptors from 0 on. OSError.

    Our own descriptors close when it is executed; those that we inherited, we close for it.
    """
    actions: list[tuple[int, int] | tuple[int, int, int]] = [
        (os.POSIX_SPAWN_DUP2, end, number) for number, end in enumerate(ends)
    ]
    actions += [(os.POSIX_SPAWN_CLOSE, fd) for fd in _inherited() if fd >= len(ends)]
    return os.posix_spawn(
        argv[0],
        list(argv),
        env,
        file_actions=actions,
        setpgroup=0,
        setsigmask=(),
        setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
    )


def end(pid: int) -> int:
    """Kill it, with all of its group, and wait for it: its exit status, or less than 0 for a signal."""
    os.killpg(pid, signal.SIGKILL)  # its group has its number, which is nobody else's before it is waited for
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _inherited() -> Iterator[int]:
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        with suppress(OSError):  # that of the listing
            if fd > 2 and os.get_inheritable(fd):
                yield fd
