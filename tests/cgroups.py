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
