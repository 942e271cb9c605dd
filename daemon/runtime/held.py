"""Names of the descriptors a shim holds for a task's processes. Knows no process."""

import asyncio
import contextlib
from collections.abc import Iterable

from daemon.runtime.shim import Shim
from spec import errors
from spec.types import Stdio


def pty(exec_id: str) -> str:
    """Of a process's terminal."""
    return f"pty-{exec_id}" if exec_id else "pty"


def writer(exec_id: str) -> str:
    """Of the other end of a process's stdin, when that is a FIFO."""
    return f"in-{exec_id}" if exec_id else "in"


def streams(exec_id: str, stdio: Stdio) -> dict[int, str]:
    """Of the streams (0, 1, 2) of an exec'd process, which are held until its start."""
    if stdio.terminal:
        return {}
    uris = enumerate((stdio.stdin, stdio.stdout, stdio.stderr))
    return {number: f"io-{exec_id}-{number}" for number, uri in uris if uri}


def all_of(exec_id: str, stdio: Stdio) -> list[str]:
    if stdio.terminal:
        return [pty(exec_id)]
    return [*streams(exec_id, stdio).values(), *([writer(exec_id)] if stdio.stdin else [])]


async def release(shim: Shim, names: Iterable[str]) -> None:
    """Have the shim let go of them, where it holds them, so that other ends see the end of the process."""
    await asyncio.gather(*(_release(shim, name) for name in names))


async def _release(shim: Shim, name: str) -> None:
    with contextlib.suppress(errors.NotFound, errors.Unavailable):
        await shim.drop(name)
