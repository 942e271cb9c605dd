"""holdd, the daemon's command line.

The nursery is forked before anything else is imported or any thread runs.
"""

import os
import sys

from daemon.runtime.nursery import Nursery, nursery_main

UMASK = 0o022  # whatever the caller's: what we make is never writable by others, and never closed to who must read it


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    os.umask(UMASK)
    if argv[:1] == ["--nursery"]:
        nursery_main(int(argv[1]))
    if argv[:1] and argv[0] in ("fsck", "backup", "restore"):
        from daemon import upkeep

        return upkeep.run(argv)
    if argv[:1] == ["--selftest"]:
        from daemon import selftest

        return selftest.run()
    nursery = None if {"-h", "--help", "-v", "--version"} & set(argv) else Nursery.fork()
    if nursery is not None:
        program = [sys.executable] if hasattr(sys, "frozen") else [sys.executable, "-m", "daemon"]
        nursery.respawn_argv = [*program, "--nursery"]
    from daemon.command import run

    return run(argv, nursery)


if __name__ == "__main__":
    sys.exit(main())
