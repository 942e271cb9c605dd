"""Where a process's cgroups are, and who else is in them: version 1, 2 and the hybrid. Knows no container.

Of a hybrid host the version 1 hierarchies count: there runtimes put containers.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import NamedTuple

from daemon.runtime import files

# In the order in which a hierarchy is asked for its processes; all hold the same, where they are mounted.
FLAGS = {"rw", "ro", "xattr", "none"}  # among the options of a hierarchy, which are otherwise its controllers
GATHER_ROUNDS = 10
UNIFIED = "unified"  # version 2's, where hierarchies are named by controller
PREFERRED = ("devices", "pids", "memory", "cpu", "")


class Hierarchy(NamedTuple):
    """A mounted hierarchy: `root` is the cgroup that is seen at `mount`. `controllers` is empty for version 2."""

    controllers: frozenset[str]
    root: str
    mount: str


@cache
def hierarchies() -> tuple[Hierarchy, ...]:
    """As this process sees them (proc(5), mountinfo)."""
    found = []
    for line in os.fsdecode(files.read("/proc/self/mountinfo")).splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        root, mount = before.split(" ")[3:5]
        if kind == "cgroup":
            found.append(Hierarchy(frozenset(options.split(",")) - FLAGS, root, mount))
        elif kind == "cgroup2":
            found.append(Hierarchy(frozenset(), root, mount))
    return tuple(found)


def directory(pid: int | str, controller: str) -> str:
    """The cgroup of `pid` in the hierarchy of `controller` ("" for version 2); "" when it is in none.

    Empty also when it is the daemon's own: a shim is in that, and so is whoever was put nowhere else.
    """
    path, ours = _membership(pid, controller), _membership("self", controller)
    if not path or path == ours:
        return ""
    for hierarchy in hierarchies():
        if controller in hierarchy.controllers if controller else not hierarchy.controllers:
            inside = path if hierarchy.root == "/" else path.removeprefix(hierarchy.root)
            return os.path.normpath(f"{hierarchy.mount}/{inside}")
    return ""


def directories(pid: int, cgroups_path: str) -> dict[str, str]:
    """The cgroups of a container by controller, version 2's as UNIFIED: those of `placed`, and in hierarchies that have
    none of those, where its init process `pid` is, which may have moved into one below its container's."""
    found = {}
    inside = _inside(cgroups_path)
    for hierarchy in hierarchies():
        below = f"{hierarchy.mount}{inside}"
        for controller in hierarchy.controllers or {""}:
            path = below if inside and os.path.isdir(below) else directory(pid, controller)
            if path:
                found[controller or UNIFIED] = path
    return found


def memory(pid: int) -> str:
    """The cgroup that limits the memory of `pid`; "" when it is in none of its own."""
    return directory(pid, "memory") or directory(pid, "")


def processes(pid: int) -> list[int]:
    """Pids of all processes in the cgroup of `pid` and those below; only `pid` when it has no cgroup of its own."""
    for controller in PREFERRED:
        if path := directory(pid, controller):
            return sorted(_members(path))
    return [pid]


def placed(cgroups_path: str) -> list[str]:
    """The directories, over all hierarchies, of the absolute `linux.cgroupsPath` of a spec that are there."""
    if not (inside := _inside(cgroups_path)):
        return []
    paths = {f"{hierarchy.mount}{inside}" for hierarchy in hierarchies()}
    return sorted(path for path in paths if os.path.isdir(path))


def _inside(cgroups_path: str) -> str:
    """Where an absolute path leads in every hierarchy; "" for another path, and for that of the root."""
    inside = os.path.normpath(f"/{cgroups_path.lstrip('/')}")
    return inside if cgroups_path.startswith("/") and inside != "/" else ""


def below(parent: str, cgroups_path: str) -> str:
    """An absolute `linux.cgroupsPath`, moved below the absolute `parent`; another one (systemd's slices have their own
    way of saying so) is as it was, and so are all without a parent."""
    if not parent or not cgroups_path.startswith("/"):
        return cgroups_path
    return os.path.normpath(f"{parent}/{os.path.normpath(cgroups_path).lstrip('/')}")


def holds(cgroups_path: str, pid: int) -> bool:
    """Whether `pid` is in one of the cgroups of `placed`, itself."""
    return any(pid in _members(path) for path in placed(cgroups_path))


def members(paths: Iterable[str]) -> frozenset[int]:
    """Pids of all processes in these cgroups and those below."""
    return frozenset(pid for path in paths for pid in _members(path))


def thaw(pid: int, cgroups_path: str) -> None:
    """Let a container's processes go on, if they are frozen; it may be gone."""
    found = directories(pid, cgroups_path)
    with contextlib.suppress(OSError):
        if "freezer" in found:
            _write(f"{found['freezer']}/freezer.state", "THAWED")
        elif UNIFIED in found:
            _write(f"{found[UNIFIED]}/cgroup.freeze", "0")


def gather(pids: Callable[[], Iterable[int]], cgroups_path: str) -> None:
    """Move the processes that `pids` tells of into the cgroup of `placed`, where version 2's is the only hierarchy, and
    remove the ones they were in, if those are empty then.

    CRIU restores them into the cgroup they were in once, which may be another container's by now.
    """
    found = placed(cgroups_path)
    if len(found) != 1 or any(hierarchy.controllers for hierarchy in hierarchies()):
        return
    left = set()
    for _ in range(GATHER_ROUNDS):  # they may fork meanwhile
        elsewhere = {pid: path for pid in pids() if not f"{(path := directory(pid, ''))}/".startswith(f"{found[0]}/")}
        if not elsewhere:
            break
        for pid, path in elsewhere.items():
            left.add(path)
            with contextlib.suppress(OSError):  # it has ended
                _write(f"{found[0]}/cgroup.procs", str(pid))
    for path in filter(None, left):
        with contextlib.suppress(OSError):
            os.rmdir(path)


def remove(paths: Iterable[str]) -> None:
    """Remove these cgroups, those that are empty."""
    for path in paths:
        with contextlib.suppress(OSError):
            os.rmdir(path)


def _membership(pid: int | str, controller: str) -> str:
    """The path in /proc/PID/cgroup, whose lines are id:controllers:path (cgroups(7))."""
    try:
        text = os.fsdecode(files.read(f"/proc/{pid}/cgroup"))
    except (FileNotFoundError, ProcessLookupError):
        return ""
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return path
    return ""


def _members(path: str) -> Iterator[int]:
    for folder, _, _ in os.walk(path):
        with contextlib.suppress(OSError):
            yield from (int(pid) for pid in files.read(f"{folder}/cgroup.procs").split())


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
