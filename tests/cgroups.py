"""The cgroup hierarchies of the host that tests run on: version 1, 2 and the hybrid."""

import contextlib
from pathlib import Path

MOUNTED = Path("/sys/fs/cgroup")


def is_v2():
    """Whether version 2 is all there is."""
    return (MOUNTED / "cgroup.controllers").exists()


def roots():
    """The root of every hierarchy."""
    return [MOUNTED] if is_v2() else [path for path in MOUNTED.glob("*") if path.is_dir()]


def below(name):
    """The cgroups of this path, in every hierarchy that has it."""
    return [root / name for root in roots() if (root / name).is_dir()]


def remove(name):
    """Those of this path that are empty: another suite's containers may be in one."""
    for path in below(name):
        with contextlib.suppress(OSError):
            path.rmdir()


@contextlib.contextmanager
def made(name):
    """A new cgroup in every hierarchy: its directories by controller, version 2's as "unified"."""
    paths = {"unified" if root == MOUNTED else root.name: root / name for root in roots()}
    for path in paths.values():
        path.mkdir()
    for which in ("cpus", "mems"):  # of version 1's cpuset, empty at first: nobody can be in it
        file = MOUNTED / "cpuset" / name / f"cpuset.{which}"
        if file.exists():
            file.write_text((file.parents[1] / file.name).read_text())
    try:
        yield {controller: str(path) for controller, path in paths.items()}
    finally:
        for path in paths.values():
            path.rmdir()


def join(directories, pid=0):
    """Put `pid`, or the caller, into all of them."""
    for path in directories.values():
        Path(path, "cgroup.procs").write_text(f"{pid}\n")
