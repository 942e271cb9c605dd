"""The first module of a frozen binary: it tells Python where modules are, and calls the command. COMMAND is the
name of its module, which binary.py puts in."""

import _frozen_importlib as machinery  # what every interpreter has, before any import from anywhere
import _imp
import gc
import os
import sys


class Dotted:
    """Finds extension modules of packages among those linked in, which Python's own finder does for top-level ones."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> object:
        if path is None or not _imp.is_builtin(name):
            return None
        return machinery.spec_from_loader(name, machinery.BuiltinImporter, origin="built-in")


def end(code: object) -> None:
    """What sys.exit(code) does, but for taking all modules apart, which takes longer than many a command."""
    import atexit

    if "threading" in sys.modules:
        sys.modules["threading"]._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError as exc:
            code = 120  # as Python has it
            if stream is not sys.stderr and sys.stderr is not None and not isinstance(exc, BrokenPipeError):
                print(f"output: {exc.strerror}", file=sys.stderr)
    os._exit(code)


sys.frozen = True  # as under PyInstaller's own loader
sys.meta_path[:] = [machinery.BuiltinImporter, machinery.FrozenImporter, Dotted]  # and never a file's path
gc.disable()  # of what imports make nearly all stays
main = __import__(COMMAND, fromlist=["main"]).main  # noqa: F821
gc.enable()
try:
    code = main()
except SystemExit as exc:
    if exc.code is not None and not isinstance(exc.code, int):
        print(exc.code, file=sys.stderr)
    code = exc.code if isinstance(exc.code, int) else int(exc.code is not None)
end(code or 0)
