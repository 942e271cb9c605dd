"""Init processes that CRIU restores from a checkpoint instead of the runtime creating them: there is none until the
start. Until then the bundle holds CRIU's images, and the shim the streams. Knows no other way to start one.
"""

import contextlib
import os
import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING

from daemon.runtime import cgroups, held, living
from daemon.runtime.bundle import Bundle, Phase
from daemon.runtime.endings import Endings, watch_memory
from daemon.runtime.shim import Shim
from daemon.runtime.state import TaskState
from spec import errors
from spec.types import Stdio

if TYPE_CHECKING:
    import tarfile

IMAGES = "checkpoint"
PID_FILE = "init.pid"


def unpack(fd: int, bundle: Bundle, doing: str) -> None:
    """CRIU's images, from the tar that can be read at `fd`, into the bundle. Files and directories only: whoever made
    the tar shall not lead anybody elsewhere. InvalidArgument for anything else. Blocks."""
    import tarfile  # when it is first used: a start does not pay for it

    bundle.vacate(IMAGES)
    directory = bundle.at(IMAGES)
    try:
        os.lseek(fd, 0, os.SEEK_SET)
        with open(fd, "rb", closefd=False) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                _place(archive, member, directory)
    except tarfile.TarError as exc:
        raise errors.InvalidArgument(f"{doing}: its checkpoint is no tar: {exc}") from exc
    except ValueError as exc:
        raise errors.InvalidArgument(f"{doing}: its checkpoint: {exc}") from exc
    except OSError as exc:
        raise errors.from_os(exc, f"{doing}: unpack its checkpoint") from exc


def _place(archive: "tarfile.TarFile", member: "tarfile.TarInfo", directory: str) -> None:
    """ValueError for what does not belong into a checkpoint."""
    parts = [part for part in member.name.split("/") if part not in ("", ".")]
    if member.name.startswith("/") or ".." in parts or "\0" in member.name:
        raise ValueError(f"{member.name!r} is a path out of it")
    if not (member.isdir() or member.isreg()) or member.issparse():
        raise ValueError(f"{member.name!r} is neither a file nor a directory")
    path = os.path.join(directory, *parts)
    if member.isdir():
        os.makedirs(path, mode=0o700, exist_ok=True)
        return
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    source = archive.extractfile(member)
    if source is None or not parts:
        raise ValueError(f"{member.name!r} is no file")
    with source, open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)


async def keep(shim: Shim, stdio: Stdio, streams: Mapping[int, int]) -> None:
    """Have the shim hold the streams (0, 1, 2) until the start."""
    names = held.streams("", stdio)
    for number, fd in streams.items():
        await shim.keep(names[number], fd)


async def start(state: TaskState, endings: Endings, shim: Shim) -> None:
    """Restore init. If that fails it can be tried again."""
    init, bundle, stdio = state.init, state.home, state.init.record.stdio
    streams = held.streams("", stdio)
    null = {} if stdio.terminal else {number: state.host.null for number in range(3) if number not in streams}
    bundle.discard(PID_FILE)
    with endings.exits.launching():
        terminal = held.pty("") if stdio.terminal else ""
        pid = await state.calls.restore(shim, bundle.at(IMAGES), null, streams, terminal)
        cgroups.gather(lambda: (pid, *living.descendants(pid)), state.record.cgroups_path)
        adopt(state, pid)
        endings.expect(init)
    await held.release(shim, streams.values())
    await watch_memory(shim, pid, state.id)
    with contextlib.suppress(errors.Error):  # they go with the bundle
        bundle.vacate(IMAGES)


def adopt(state: TaskState, pid: int) -> None:
    """It runs as `pid`."""
    state.init.change(pid=pid, started_ticks=living.started_ticks(pid))
    state.save(restores=False)


def found(state: TaskState) -> None:
    """After a restart of the daemon: if init was being restored, it was if the runtime has written its pid, and else
    waits to be again."""
    if not state.record.restores or state.init.record.phase is not Phase.STARTING:
        return
    if pid := state.home.pid(PID_FILE):
        adopt(state, pid)
        state.init.change(phase=Phase.STARTED)
    else:
        state.init.change(phase=Phase.ADDED)
    state.save()
