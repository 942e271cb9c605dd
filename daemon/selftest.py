"""`holdd --selftest`: whether what this program is made of works where it runs.

Every module is imported, and every extension module asked to do a little of what it is for, in a passing directory.
Needs no root, no configuration and no daemon, and leaves nothing behind.
"""

import contextlib
import errno
import hashlib
import importlib
import os
import pkgutil
import platform
import socket
import ssl
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb
import zstandard
from isal import isal_zlib

from pyx import btrfs, fs, mount, proc, pump, walk
from pyx.cgroup import NUMBER, Reader
from pyx.changes import Changes
from pyx.pack import Packer
from pyx.shim import fork_nursery
from pyx.unpack import Unpacker
from spec.api.version import Version, VersionReply
from spec.base import pack
from spec.version import VERSION

TEXT = b"what holdd is made of\n"
SHA256 = "471850430270bbc34bffc3dfbc6d0a08fb64431683e54995dc770ffc291f499c"
OURS = ("daemon", "spec")


def run() -> int:
    """Print a line a check; the exit code, 1 when one failed."""
    print(f"holdd {VERSION}, Python {platform.python_version()}{', frozen' if hasattr(sys, 'frozen') else ''}")
    try:
        with tempfile.TemporaryDirectory(prefix="holdd-selftest-") as directory:
            return 1 if [name for name in CHECKS if not _passes(name, Path(directory, name))] else 0
    except OSError as exc:
        print(f"holdd: no temporary directory (TMPDIR): {exc.strerror}", file=sys.stderr)
        return 1


def _passes(name: str, place: Path) -> bool:
    place.mkdir()
    try:
        CHECKS[name](place)
    except Exception as exc:
        print(f"{name:12}failed: {type(exc).__name__}: {exc}")
        return False
    print(f"{name:12}ok")
    return True


def _expect(what: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise AssertionError(f"{what} is {found!r}, not {wanted!r}")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _modules(place: Path) -> None:
    for name in _names():
        importlib.import_module(name)


def _names() -> list[str]:
    """Those of our modules that this program has."""
    if hasattr(sys, "frozen"):
        found: list[str] = importlib.import_module("_imp")._frozen_module_names()
        return [name for name in found if name.partition(".")[0] in OURS]
    packages = [importlib.import_module(top) for top in OURS]
    walks = [pkgutil.walk_packages(package.__path__, f"{package.__name__}.") for package in packages]
    return [module.name for walk in walks for module in walk if not module.name.endswith("__main__")]


def _btrfs(place: Path) -> None:
    with _opened(place) as fd:
        btrfs.is_btrfs(fd)


def _cgroup(place: Path) -> None:
    (place / "memory.current").write_text("4096\n")
    with Reader([([str(place / "memory.current")], NUMBER, [("", 0)], 1)], 1) as reader:
        _expect("what is read", reader.read()[0], 4096)


def _fs(place: Path) -> None:
    (place / "a").write_bytes(TEXT)
    with _opened(place) as fd:
        fs.renameat2(fd, "a", fd, "b", fs.RENAME_NOREPLACE)
        os.close(fs.openat2(fd, "b", os.O_RDONLY | os.O_CLOEXEC, resolve=fs.RESOLVE_BENEATH))
        with contextlib.suppress(OSError):
            os.close(fs.openat2(fd, "..", os.O_PATH | os.O_CLOEXEC, resolve=fs.RESOLVE_BENEATH))
            raise AssertionError("openat2 left the directory")


def _mount(place: Path) -> None:
    try:
        mount.umount2(str(place))
    except OSError as exc:
        if exc.errno not in (errno.EINVAL, errno.EPERM):
            raise


def _layers(place: Path) -> None:
    """changes, pack, unpack and walk: the difference of two trees as an archive, unpacked, is the same tree."""
    for name in ("lower", "upper", "unpacked", "copied"):
        (place / name).mkdir()
    (place / "upper/file").write_bytes(TEXT)
    archive = bytearray()
    with _opened(place / "lower") as lower, _opened(place / "upper") as upper:  # noqa: SIM117
        with Changes(lower, upper) as changes, Packer(upper) as packer:
            while records := changes.read():
                packer.feed(records)
                archive += _drained(packer)
            packer.finish()
            archive += _drained(packer)
    with _opened(place / "unpacked") as root, _opened(place / "copied") as copied, Unpacker(root) as unpacker:
        unpacker.feed(bytes(archive))
        unpacker.finish()
        walk.copy(root, copied)
    _expect("what was unpacked", (place / "copied/file").read_bytes(), TEXT)


def _drained(packer: Packer) -> bytes:
    buffer, packed = memoryview(bytearray(1 << 16)), bytearray()
    while size := packer.readinto(buffer):
        packed += buffer[:size]
    return bytes(packed)


def _proc(place: Path) -> None:
    one = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    proc.close_range(one, one)
    with contextlib.suppress(OSError):
        os.fstat(one)
        raise AssertionError("close_range left a descriptor open")


def _pump(place: Path) -> None:
    (place / "source").write_bytes(TEXT)
    target = os.open(place / "target", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with _opened(place / "source") as source:
            _expect("what was copied", pump.copy(source, target), len(TEXT))
    finally:
        os.close(target)


def _shim(place: Path) -> None:
    """A nursery, which ends once nobody has its socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs, ours:
        pid = fork_nursery(theirs.fileno())
    _expect("the nursery's status", os.waitpid(pid, 0)[1], 0)


def _hashes(place: Path) -> None:
    _expect("sha256", hashlib.sha256(TEXT).hexdigest(), SHA256)
    _expect("the maker of sha256", type(hashlib.sha256()).__module__, "_hashlib")


def _isal(place: Path) -> None:
    packed = isal_zlib.compress(TEXT, wbits=31)
    _expect("gzip's first bytes", packed[:2], b"\x1f\x8b")
    _expect("what was inflated", isal_zlib.decompress(packed, wbits=31), TEXT)


def _lmdb(place: Path) -> None:
    with lmdb.open(str(place), map_size=1 << 20) as env:
        with env.begin(write=True) as txn:
            txn.put(b"key", TEXT)
        with env.begin() as txn:
            _expect("what is stored", txn.get(b"key"), TEXT)


def _messages(place: Path) -> None:
    _expect("a reply", Version.version.decode_reply(pack(VersionReply(version=VERSION))).version, VERSION)


def _tls(place: Path) -> None:
    ssl.create_default_context()


def _zstd(place: Path) -> None:
    packed = zstandard.ZstdCompressor().compress(TEXT)
    _expect("what was inflated", zstandard.ZstdDecompressor().decompress(packed), TEXT)


CHECKS: dict[str, Callable[[Path], None]] = {
    "modules": _modules,
    "btrfs": _btrfs,
    "cgroup": _cgroup,
    "fs": _fs,
    "layers": _layers,
    "mount": _mount,
    "proc": _proc,
    "pump": _pump,
    "shim": _shim,
    "hashes": _hashes,
    "isal": _isal,
    "lmdb": _lmdb,
    "messages": _messages,
    "tls": _tls,
    "zstd": _zstd,
}
