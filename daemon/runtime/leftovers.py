"""What a runtime should have removed with its container and did not: processes, cgroups, its record. Calls none."""

import contextlib
import logging
import os
from collections.abc import Iterable

from daemon.runtime import cgroups, living
from daemon.runtime.bundle import TaskRecord
from pyx import walk

END_SECONDS = 10.0

log = logging.getLogger(__name__)


async def end(record: TaskRecord, shim: int) -> list[str]:
    """End those processes below the shim that are in the container's cgroups, which are returned. Others that hooks
    have started are not its."""
    found = cgroups.placed(record.cgroups_path)
    placed = cgroups.members(found)
    left = [pid for pid in living.descendants(shim) if pid in placed] if placed else []
    for pid in left:
        if not await living.ended(pid, living.started_ticks(pid), END_SECONDS, 9):
            log.warning("task %s: process %s does not end", record.id, pid)
    if left:
        log.warning("task %s: its runtime had left processes behind: %s", record.id, left)
    return found


def remove(record: TaskRecord, paths: Iterable[str]) -> None:
    """Those of its cgroups, `paths`, that are empty, and the runtime's directory for the container. Nothing, mostly."""
    cgroups.remove(paths)
    root = record.launch.root
    with contextlib.suppress(OSError):
        folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            walk.remove(folder, record.id)
        finally:
            os.close(folder)
