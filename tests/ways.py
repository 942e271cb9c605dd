"""The ways a layer gets onto what is below it: what they make must look the same.

`bare`: onto a plain directory, where whiteouts delete. `merged`: into a mounted overlay. `direct`: into an overlay's
upper directory, with the layers below known. `apart`: into an upper directory alone, and settled with the layers below
afterwards; where that cannot be, again in the direct way.
"""

import contextlib
import os
import stat
from pathlib import Path

from msgspec.structs import replace

from daemon.content.local import LocalContent
from daemon.diff.applier import ArchiveApplier
from daemon.kit import mounting
from pyx import walk
from spec import digest as digests
from spec import errors
from spec.oci.image import OCI_LAYER_GZIP, Descriptor
from spec.types import Mount
from tests.tarball import archive

WAYS = ("bare", "merged", "direct", "apart")
LAYER = Descriptor(media_type=OCI_LAYER_GZIP, digest="sha256:" + "0" * 64)  # or zstd, or plain: the bytes say it


class Chunks:
    """A source that gives its bytes in pieces of these sizes, over and over; whole without any."""

    def __init__(self, data, sizes=()):
        self._data = memoryview(data)
        self._sizes = sizes or (len(data),)
        self._turn = 0

    def read(self, size, /):
        size = min(size, self._sizes[self._turn % len(self._sizes)])
        self._turn += 1
        data, self._data = bytes(self._data[:size]), self._data[size:]
        return data

    def close(self):
        pass


class Stack:
    """Layers one upon the other below the directory `top`, each applied in one of the WAYS."""

    def __init__(self, top, way):
        self.top = Path(top)
        self.way = way
        self.anew = 0  # layers that were not understood apart from those below
        self._layers = []  # lowest first; `bare` has one for all
        for name in ("mounted", "content", *(["bare"] if way == "bare" else [])):
            (self.top / name).mkdir(parents=True)
        self._content = LocalContent(str(self.top / "content"), False)
        self._applier = ArchiveApplier(self._content)

    @property
    def height(self):
        """How many layers it has."""
        return len(self._layers)

    def apply(self, *entries):
        """A layer of these entries."""
        return self.apply_data(archive(*entries))

    def apply_data(self, data, sizes=()):
        """A layer of these bytes in chunks of these sizes. What fails is taken away again, but by `bare`."""
        if self.way == "bare":
            self._layers = [self.top / "bare"]
            return self._apply(data, sizes, _bind(self._layers[0], "rw"))
        upper = self.top / f"{len(self._layers)}"
        (upper / "fs").mkdir(parents=True)
        (upper / "work").mkdir()
        self._layers.append(upper / "fs")
        try:
            return getattr(self, f"_{self.way}")(upper, data, sizes)
        except BaseException:
            self._layers.pop()
            _emptied(upper, keep=False)
            raise

    @contextlib.contextmanager
    def seen(self):
        """Where the stack is mounted, as long as the block runs."""
        with self._at(self._view()) as path:
            yield path

    def _apply(self, data, sizes, mounts):
        return self._applier.apply_stream(Chunks(data, sizes), LAYER, mounts)

    def _merged(self, upper, data, sizes):
        below = self._layers[:-1]
        with self._at(_overlay(below, upper) if below else _bind(upper / "fs", "rw")) as path:
            return self._apply(data, sizes, _bind(path, "rw"))

    def _direct(self, upper, data, sizes):
        """Of a blob that is in the store: it may have to be read twice."""
        below = self._layers[:-1]
        mounts = _overlay(below, upper) if below else _bind(upper / "fs", "rw")
        with contextlib.suppress(errors.AlreadyExists), self._content.writer(str(upper)) as writer:
            writer.write(data)
            writer.commit()
        return self._applier.apply(replace(LAYER, digest=digests.of(data)), mounts)

    def _apart(self, upper, data, sizes):
        below = self._layers[:-1]
        if not below:
            return self._direct(upper, data, sizes)
        with contextlib.suppress(errors.FailedPrecondition):
            alone = (Mount(type="overlay", source="overlay", options=(f"upperdir={upper / 'fs'}",)),)
            applied = self._apply(data, sizes, alone)
            if self._applier.settle(applied, self._view(below)):
                return applied
        self.anew += 1
        _emptied(upper / "fs")
        return self._direct(upper, data, sizes)

    def _view(self, layers=None):
        layers = self._layers if layers is None else layers
        if len(layers) == 1:
            return _bind(layers[0], "ro")
        option = "lowerdir=" + ":".join(str(layer) for layer in reversed(layers))
        return (Mount(type="overlay", source="overlay", options=(option,)),)

    @contextlib.contextmanager
    def _at(self, mounts):
        mounting.attach(mounts, str(self.top / "mounted"))
        try:
            yield self.top / "mounted"
        finally:
            mounting.detach(str(self.top / "mounted"))


def _bind(path, how):
    return (Mount(type="bind", source=str(path), options=(how, "rbind")),)


def _overlay(below, upper):
    lower = ":".join(str(layer) for layer in reversed(below))
    options = (f"workdir={upper / 'work'}", f"upperdir={upper / 'fs'}", f"lowerdir={lower}", "index=off")
    return (Mount(type="overlay", source="overlay", options=options),)


def _emptied(path, keep=True):
    """Deeper than shutil.rmtree can go, and kept itself."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for name in os.listdir(fd):
            walk.remove(fd, name)
    finally:
        os.close(fd)
    if not keep:
        os.rmdir(path)


def tree(root):
    """All that is below `root`, by path: mode, owners, device, attributes, number of the inode in order of sight,
    content or target, and times (a directory's apart)."""
    found, numbers = {}, {}
    for base, folders, files in os.walk(os.fsencode(root)):
        folders.sort()
        for name in sorted([*folders, *files]):
            path = os.path.join(base, name)
            info = os.lstat(path)
            what = b""
            if stat.S_ISLNK(info.st_mode):
                what = os.readlink(path)
            elif stat.S_ISREG(info.st_mode):
                what = Path(os.fsdecode(path)).read_bytes()
            number = 0 if stat.S_ISDIR(info.st_mode) else numbers.setdefault(info.st_ino, len(numbers) + 1)
            attributes = {key: os.getxattr(path, key, follow_symlinks=False) for key in _attributes(path)}
            device = info.st_rdev if stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode) else 0
            found[os.path.relpath(path, os.fsencode(root))] = (
                info.st_mode, info.st_uid, info.st_gid, device, number, what, attributes, info.st_mtime_ns,
            )  # fmt: skip
    return found


def _attributes(path):
    return sorted(os.listxattr(path, follow_symlinks=False))


class Canary:
    """What is around the stacks: it must not change, whatever they are given."""

    def __init__(self, top):
        self.top = Path(top)
        for base in (self.top, self.top / "a", self.top / "a/b"):
            (base / "etc").mkdir(parents=True)
            (base / "etc/passwd").write_bytes(b"the host's\n")
            (base / "etc/passwd").chmod(0o400)
            (base / "victim").mkdir()
            (base / "f").write_bytes(b"the host's\n")
        self.host = self.top / "etc/passwd"
        self._before = self._now()

    def place(self, name):
        """A directory for a stack: two levels down, where `..` leads to other canaries."""
        return self.top / "a/b" / name

    def check(self):
        after = self._now()
        assert after == self._before

    def _now(self):
        bases = (self.top, self.top / "a", self.top / "a/b")
        around = [tree(base / name) for base in bases for name in ("etc", "victim")]
        names = [sorted(os.listdir(self.top)), sorted(os.listdir(self.top / "a")), sorted(os.listdir("/")),
                 sorted(os.listdir("/etc")), os.path.lexists("/tmp/X")]  # fmt: skip
        host = [(os.lstat(path).st_mode, os.lstat(path).st_mtime_ns) for path in ("/etc/passwd", "/etc", "/")]
        return around, names, host
