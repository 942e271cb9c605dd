"""What a runtime should have removed with its container and did not: processes, cgroups, its record. Calls none."""

import contextlib
import logging
import os

from daemon.runtime import cgroups, living
from daemon.runtime.bundle import TaskRecord
from pyx import walk

END_SECONDS = 10.0

log = logging.getLogger(__name__)


async def end(record: TaskRecord, shim: int) -> None:
    """End those processes below the shim that are in the container's cgroups. Others that hooks have started are not
    its."""
    placed = cgroups.members(record.cgroups_path)
    left = [pid for pid in living.descendants(shim) if pid in placed] if placed else []
    for pid in left:
        if not await living.ended(pid, living.started_ticks(pid), END_SECONDS, 9):
            log.warning("task %s: process %s does not end", record.id, pid)
    if left:
        log.warning("task %s: its runtime had left processes behind: %s", record.id, left)


def remove(record: TaskRecord) -> None:
    """The cgroups that are empty, and the runtime's directory for the container. Nothing, mostly."""
    cgroups.remove(record.cgroups_path)
    root = record.launch.root
    with contextlib.suppress(OSError):
        folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            walk.remove(folder, record.id)
        finally:
            os.close(folder)
