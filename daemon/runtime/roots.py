"""Whether a root filesystem that nobody trusts may be handed to a runtime. Knows no task."""

import os
import stat

from spec import errors

# A runtime makes nodes and links in /dev before it has changed its root, by the path that /dev has outside: through a
# link it makes and removes them on the host (CVE-2026-41579; runc 1.1.5 does). /proc and /sys as links have turned
# confinement off before (CVE-2019-16884, CVE-2019-19921, CVE-2023-27561).
DIRECTORIES = ("dev", "proc", "sys")


def check(root: int, doing: str) -> None:
    """InvalidArgument where the directory descriptor `root` has a link in place of one of DIRECTORIES."""
    for name in DIRECTORIES:
        try:
            status = os.stat(name, dir_fd=root, follow_symlinks=False)
        except FileNotFoundError:
            continue
        except OSError as exc:
            raise errors.from_os(exc, f"{doing}: look for /{name} of the root filesystem") from exc
        if stat.S_ISLNK(status.st_mode):
            raise errors.InvalidArgument(f"{doing}: /{name} of the root filesystem is a symbolic link")
