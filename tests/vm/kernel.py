"""The guest's kernel: Debian's, for clouds, fetched and unpacked below a cache; or one that the environment names.

HOLDD_VM_AUFS_KERNEL is KERNEL or KERNEL:MODULES: a kernel's image, and the directory with its modules (the one named
after its release) when it has any that are wanted.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

META = "linux-image-cloud-amd64"  # depends on the newest
AUFS = "HOLDD_VM_AUFS_KERNEL"


class Kernel(NamedTuple):
    """`modules` is lib/modules/RELEASE, with a modules.dep; None for a kernel without."""

    image: Path
    modules: Path | None


def debian(cache):
    """The kernel in `cache`; the newest that apt offers when there is none."""
    where = Path(cache, "kernel")
    if not (where / "complete").exists():
        shutil.rmtree(where, ignore_errors=True)
        where.mkdir(parents=True)
        fetch(where)
        (where / "complete").touch()
    return found(where)


def found(where):
    (image,) = where.glob("boot/vmlinuz-*")
    (modules,) = where.glob("lib/modules/*")
    return Kernel(image, modules)


def fetch(where):
    try:
        name = offered()
        download(name, where)
    except (subprocess.CalledProcessError, LookupError):  # a machine whose lists are old, or that has none yet
        subprocess.run(["apt-get", "update", "-q"], check=True, stdout=subprocess.DEVNULL)
        download(offered(), where)
    (package,) = where.glob("*.deb")
    subprocess.run(["dpkg", "-x", package.name, "."], cwd=where, check=True)
    package.unlink()
    (release,) = (path.name for path in where.glob("lib/modules/*"))
    subprocess.run(["busybox", "depmod", "-b", ".", release], cwd=where, check=True)


def offered():
    said = subprocess.run(["apt-cache", "depends", META], check=True, capture_output=True, text=True).stdout
    packages = re.findall(r"Depends: (linux-image-\S+)", said)
    if not packages:
        raise LookupError(f"apt knows no {META}")
    return packages[0]


def download(name, where):
    # unpacked here and now, by root, so that apt need not become another user
    subprocess.run(["apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", name], cwd=where, check=True)


def of_environment():
    """The one that HOLDD_VM_AUFS_KERNEL names; None when it is not set."""
    image, _, modules = os.environ.get(AUFS, "").partition(":")
    return Kernel(Path(image), Path(modules) if modules else None) if image else None


def closure(modules, names):
    """Files below `modules` of the modules `names` and of those they need, in the order of loading; those that it does
    not have are built in, or missed when they are used."""
    needs, paths = {}, {}
    for line in (modules / "modules.dep").read_text().splitlines():
        path, _, rest = line.partition(":")
        needs[path] = rest.split()
        paths[Path(path).name.partition(".")[0].replace("-", "_")] = path
    order = []

    def visit(path):
        for need in needs[path]:
            visit(need)
        if path not in order:
            order.append(path)

    for name in names:
        if name in paths:
            visit(paths[name])
    return order
