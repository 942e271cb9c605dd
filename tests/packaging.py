"""The scripts of packaging/, which is no package: one would stand before the library of that name."""

import functools
import importlib.util
from pathlib import Path

PACKAGING = Path(__file__).parents[1] / "packaging"


@functools.cache
def manual():
    """packaging/manual.py as a module."""
    spec = importlib.util.spec_from_file_location("manual", PACKAGING / "manual.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
