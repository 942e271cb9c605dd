"""The first module of a frozen binary: it tells Python where modules are, and calls the command."""

import _frozen_importlib as machinery  # what every interpreter has, before any import from anywhere
import _imp
import sys


class Dotted:
    """Finds extension modules of packages among those linked in, which Python's own finder does for top-level ones."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> object:
        if path is None or not _imp.is_builtin(name):
            return None
        return machinery.spec_from_loader(name, machinery.BuiltinImporter, origin="built-in")


sys.frozen = True  # as under PyInstaller's own loader
sys.meta_path[:] = [machinery.BuiltinImporter, machinery.FrozenImporter, Dotted]  # and never a file's path
