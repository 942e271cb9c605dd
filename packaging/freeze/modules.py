"""Which modules the frozen binaries have besides those that their code imports by name."""

import encodings
import pkgutil
from importlib import import_module

# What some module would import, and none of ours needs: what is optional, and what is for those who develop.
NEVER = [
    "_bz2", "_ctypes", "_lzma", "_multiprocessing", "_posixshmem", "_pydecimal", "_uuid", "bz2", "cffi", "ctypes",
    "curses", "doctest", "lmdb.cffi", "lmdb.tool", "lzma", "markdown_it", "mdurl", "multiprocessing", "pdb", "pip",
    "pkg_resources", "pydoc", "pyexpat", "pygments", "readline", "setuptools", "sqlite3", "tkinter",
    "typing_extensions", "unittest", "xml", "zstandard._cffi", "zstandard.backend_cffi",
]  # fmt: skip
CODECS = ("aliases", "ascii", "idna", "latin_1", "utf_8")
NEVER += [f"encodings.{name}" for _, name, _ in pkgutil.iter_modules(encodings.__path__) if name not in CODECS]


def below(package: str) -> list[str]:
    """All modules of one of our packages: many are named by tables only."""
    found = pkgutil.walk_packages(import_module(package).__path__, f"{package}.")
    return [module.name for module in found if not module.name.endswith("__main__")]
