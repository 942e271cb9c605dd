"""What is in the guest: this Python and the packages that holdd and its tests import, the runtimes, a few tools, kernel
modules, and the checkout. Everything at the path it has here, so that scripts and caches hold.

Two archives: `base`, kept until something in it changes, and the checkout's own files, made anew for each boot.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from tests.vm.cpio import Archive
from tests.vm.kernel import closure

REPOSITORY = Path(__file__).parents[2]
VENV = Path(sys.prefix)
# Those that are here. Where the tests want GNU's, busybox's give way.
PROGRAMS = (
    "busybox", "runc", "crun", "mkfs.ext4", "mkfs.btrfs", "btrfs", "mkfs.xfs", "find", "nsenter", "apparmor_parser",
    "criu", "tar",
)  # fmt: skip
APPARMOR = (  # what its parser reads
    "/etc/apparmor/parser.conf", "/etc/apparmor.d/abi", "/etc/apparmor.d/abstractions", "/etc/apparmor.d/tunables",
    "/usr/share/apparmor-features",
)  # fmt: skip
PACKAGES = ("pytest", "hypothesis", "uvloop")  # besides requirements.txt
OWN = ("ctr", "daemon", "pyx", "spec", "tests", "pyproject.toml")
NOT_OF_PYTHON = {
    "test", "idlelib", "tkinter", "lib2to3", "ensurepip", "turtledemo", "pydoc_data", "config-3.11-x86_64-linux-gnu",
}  # fmt: skip
MODULES = (
    "virtio_pci", "virtio_blk", "virtio_console", "loop", "overlay", "btrfs", "xfs", "erofs", "aufs",
    "unix_diag", "tcp_diag", "udp_diag", "raw_diag", "netlink_diag", "af_packet_diag", "tun", "veth",
    "nf_tables",
)  # fmt: skip
ETC = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/hosts": "127.0.0.1 localhost\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}
EMPTY = ("dev", "proc", "sys", "run", "tmp", "root", "mnt", "var/lib", "scratch", "moved")


class Tree:
    """What goes into an archive: paths of this host, with all that lead to them."""

    def __init__(self):
        self.entries = {}  # by path on the host, in the order in which the kernel must make them

    def add(self, path):
        """`path`, the directories and links on the way to it, and what it is a link to. Not what is below it."""
        path = Path(os.path.abspath(path))
        if path in self.entries or path == Path("/"):
            return
        parent = Path(os.path.realpath(path.parent))
        if parent != path.parent:
            self.add(path.parent)
            self.add(parent / path.name)
            return
        self.add(parent)
        self.entries[path] = path
        if path.is_symlink():
            self.add(parent / path.readlink())

    def walk(self, top, unwanted=()):
        """All below `top`, without the names `unwanted` right below it."""
        self.add(top)
        for folder, folders, files in os.walk(top):
            if folder == str(top):
                folders[:] = [name for name in folders if name not in unwanted]
            for name in (*folders, *files):
                self.add(Path(folder, name))

    def write(self, archive):
        for path in self.entries:
            name = str(path).lstrip("/")
            if path.is_symlink():
                archive.symlink(name, path.readlink())
            elif path.is_dir():
                archive.directory(name)
            elif path.is_file():
                archive.copy(name, path)

    def key(self):
        """Changes when what is in it does."""
        digest = hashlib.sha256()
        for path in self.entries:
            info = path.lstat()
            stamp = (info.st_size, info.st_mtime_ns) if path.is_file() else ()
            digest.update(repr((str(path), info.st_mode, stamp)).encode())
        return digest.hexdigest()[:16]


def write(kernel, cache, file):
    """The initramfs for `kernel`, to the open binary file."""
    with make_base(kernel, Path(cache)).open("rb") as base:
        shutil.copyfileobj(base, file, 1 << 20)
    own = Tree()
    for name in OWN:
        own.walk(REPOSITORY / name)
    archive = Archive(file)
    own.write(archive)
    archive.copy("init", REPOSITORY / "tests/vm/init")
    archive.close()


def make_base(kernel, cache):
    """The path of the archive of all that is not the checkout's own."""
    tree = base_tree()
    order = closure(kernel.modules, MODULES) if kernel.modules else []
    key = hashlib.sha256(repr((tree.key(), str(kernel.modules), order)).encode()).hexdigest()[:16]
    path = cache / f"base-{key}.cpio"
    if not path.exists():
        for old in cache.glob("base-*"):
            old.unlink()
        for library in libraries(tree):
            tree.add(library)
        unfinished = path.with_suffix(".new")
        with unfinished.open("wb") as file:
            write_base(Archive(file), tree, kernel, order)
        unfinished.rename(path)
    return path


def write_base(archive, tree, kernel, order):
    for path in EMPTY:
        for parent in reversed(Path(path).parents[:-1]):
            archive.directory(str(parent))
        archive.directory(path, 0o1777 if path == "tmp" else 0o755)
    archive.directory("etc")
    for name, text in ETC.items():
        archive.data(name, text.encode())
    tree.write(archive)
    archive.directory("modules")
    for number, path in enumerate(order):
        archive.copy(f"modules/{number:03}-{Path(path).name}", kernel.modules / path)
    archive.close()


def base_tree():
    tree = Tree()
    for path in ("/bin", "/sbin", "/lib", "/lib64"):
        tree.add(path)
    tree.walk(sysconfig.get_path("stdlib"), NOT_OF_PYTHON)
    for name in ("python", "holdd", "ctr"):
        tree.add(VENV / "bin" / name)
    tree.add(VENV / "pyvenv.cfg")
    for path in packages():
        tree.add(path)
    for pth in Path(sysconfig.get_path("purelib")).glob("__editable__*"):
        tree.add(pth)
    for path in filter(os.path.exists, APPARMOR):
        tree.walk(path)
    for program in PROGRAMS:
        if path := where_is(program):
            tree.add(path)
    return tree


def packages():
    """Files of the distributions that are wanted, and of those they require."""
    lines = (REPOSITORY / "requirements.txt").read_text().splitlines()
    wanted = [Requirement(line).name for line in lines if line and not line.startswith("#")]
    wanted += PACKAGES
    for name in wanted:
        distribution = metadata.distribution(name)
        for needed in map(Requirement, distribution.requires or ()):
            if needed.name not in wanted and (not needed.marker or needed.marker.evaluate({"extra": ""})):
                wanted.append(needed.name)
        yield from (path for path in map(distribution.locate_file, distribution.files) if path.exists())


def where_is(program):
    for folder in ("/usr/bin", "/usr/sbin", "/bin", "/sbin"):
        if os.path.exists(path := f"{folder}/{program}"):
            return path
    return None


def libraries(tree):
    """The shared libraries that programs and extension modules in it are linked with."""
    found = set()
    for path in tree.entries:
        if path.is_file() and not path.is_symlink() and is_elf(path):
            found.update(linked(path))
    return sorted(found)


def is_elf(path):
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


@lru_cache
def linked(path):
    """As the dynamic linker finds them (ld.so(8): LD_TRACE_LOADED_OBJECTS); none for a static program."""
    said = subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout
    return re.findall(r"(/\S+) \(0x", said)
