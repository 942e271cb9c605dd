"""Builds holdd: every `pyx/*.pyx` as one extension module, and the two commands.

HOLDD_SANITIZE=1 in the environment builds the extensions with AddressSanitizer and UBSan.
"""

import os
import re
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

SANITIZE = ["-fsanitize=address,undefined", "-fno-omit-frame-pointer"] if os.environ.get("HOLDD_SANITIZE") else []

version = re.search(r'^VERSION = "(.+)"', Path("spec/version.py").read_text(), re.MULTILINE)

extensions = [
    Extension(
        f"pyx.{source.stem}",
        [str(source)],
        define_macros=[("_GNU_SOURCE", "1"), ("_FILE_OFFSET_BITS", "64")],
        extra_compile_args=["-O2", "-Wall", "-Wno-unused-function", *SANITIZE],
        extra_link_args=SANITIZE,
    )
    for source in sorted(Path("pyx").glob("*.pyx"))
]

packages = [
    "ctr", "ctr.commands",
    "daemon", "daemon.client", "daemon.content", "daemon.diff", "daemon.events", "daemon.flows", "daemon.gc",
    "daemon.images", "daemon.kit", "daemon.metadata", "daemon.metrics", "daemon.runtime", "daemon.scoped",
    "daemon.services", "daemon.snapshots", "daemon.transport",
    "pyx",
    "spec", "spec.api", "spec.oci",
]  # fmt: skip

setup(
    name="holdd",
    version=version[1],
    description="A container daemon: images, snapshots, containers and their figures",
    python_requires=">=3.11",
    packages=packages,
    package_data={"pyx": ["*.pyi", "*.pxd"], "spec": ["*.md", "*.json"]},
    ext_modules=cythonize(
        extensions,
        compiler_directives={
            "language_level": 3,
            "binding": False,
            "boundscheck": False,
            "wraparound": False,
            "initializedcheck": False,
            "embedsignature": False,
        },
        nthreads=os.cpu_count() or 1,
    ),
    entry_points={"console_scripts": ["holdd = daemon.__main__:main", "ctr = ctr.cli:main"]},
)
