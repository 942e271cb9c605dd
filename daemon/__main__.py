"""holdd, the daemon's command line.

The nursery is forked before anything else is imported or any thread runs.
"""

import gc
import os
import sys

UMASK = 0o022  # whatever the caller's: what we make is never writable by others, and never closed to who must read it


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    os.umask(UMASK)
    if argv[:1] and argv[0] in ("fsck", "backup", "restore"):
        from daemon import upkeep

        return upkeep.run(argv)
    if argv[:1] == ["--selftest"]:
        from daemon import selftest

        return selftest.run()
    return _serve(argv)


def _serve(argv: list[str]) -> int:
    gc.disable()  # a start makes no garbage to speak of; `lifecycle` has it collected from when we serve
    _import_asyncio()
    from daemon.runtime.nursery import Nursery, nursery_main

    if argv[:1] == ["--nursery"]:
        nursery_main(int(argv[1]))
    nursery = None if {"-h", "--help", "-v", "--version"} & set(argv) else Nursery.fork()
    if nursery is not None:
        program = [sys.executable] if hasattr(sys, "frozen") else [sys.executable, "-m", "daemon"]
        nursery.respawn_argv = [*program, "--nursery"]
    from daemon.command import run

    return run(argv, nursery)


def _import_asyncio() -> None:
    """Without its TLS, which nobody here uses: OpenSSL is loaded when a registry is first asked."""
    known = sys.modules.get("ssl")
    sys.modules["ssl"] = None  # type: ignore[assignment]
    import asyncio  # noqa: F401

    del sys.modules["ssl"]
    if known is not None:
        sys.modules["ssl"] = known


if __name__ == "__main__":
    sys.exit(main())
