"""The unpacker fed what nobody would write: any entries in any order, any bytes in their headers, in any chunks.

Whatever comes of it, what is beside the root stays as it is, and the chunks make no difference.
"""

import contextlib
import os
import shutil
import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyx.unpack import Malformed, Truncated, Unpacker
from tests.tarball import archive, entry, file, folder, hardlink, long_name, pax, sealed, symlink

pytestmark = pytest.mark.root

PARTS = ("a", "b", "l", "etc", "victim", "..", ".", "", ".wh.a", ".wh.l", ".wh..wh..opq", "n" * 255, "\xff")
names = st.lists(st.sampled_from(PARTS), min_size=1, max_size=4).map("/".join)
targets = st.one_of(
    names, names.map("/".__add__), st.sampled_from(("/", "..", "../../..", "../victim", "/../victim", "../etc/passwd"))
)
modes = st.sampled_from((0o644, 0o4755, 0o1777, 0, 0o7777))
owners = st.sampled_from((0, 1, 65534, 4294967294))
bodies = st.binary(max_size=1500)


def _with_attribute(one):
    return pax(SCHILY__xattr__user__key="v") + one


plain_entries = st.one_of(
    st.builds(lambda name, mode, uid: folder(name, mode=mode, uid=uid), names, modes, owners),
    st.builds(lambda name, body, mode, uid: file(name, body, mode=mode, uid=uid), names, bodies, modes, owners),
    st.builds(symlink, names, targets),
    st.builds(hardlink, names, targets),
    st.builds(lambda name: entry(name, "6", mode=0o666), names),
    st.builds(lambda path, target: pax(path=path, linkpath=target) + symlink("x", "y"), names, targets),
    st.builds(lambda path, body: long_name(path) + file("x", body), names, bodies),
)
entries = st.one_of(plain_entries, plain_entries.map(_with_attribute))
archives = st.lists(entries, max_size=25).map(lambda many: archive(*many))
chunks = st.lists(st.sampled_from((1, 2, 511, 512, 513, 1024, 5000)), min_size=1, max_size=8)


class Rig:
    """A root to unpack into, beside a canary."""

    def __init__(self, stack):
        self.top = Path(tempfile.mkdtemp())
        stack.callback(shutil.rmtree, self.top)
        (self.top / "etc").mkdir()
        (self.top / "etc/passwd").write_bytes(b"the host's\n")
        (self.top / "etc/passwd").chmod(0o400)
        (self.top / "victim").mkdir()
        self.roots = []
        self.before = self.canary()

    def canary(self):
        return tree(self.top / "etc", times=True) + tree(self.top / "victim", times=True) + [*os.listdir("/")]

    def unpack(self, data, sizes=()):
        """How it ended, and the tree it left."""
        root = self.top / f"root{len(self.roots)}"
        root.mkdir()
        self.roots.append(root)
        fd = os.open(root, os.O_RDONLY)
        try:
            end = fed(fd, data, sizes)
        finally:
            os.close(fd)
        assert self.canary() == self.before
        assert {*os.listdir(self.top)} == {"etc", "victim", *(one.name for one in self.roots)}
        return end, tree(root)


def fed(fd, data, sizes):
    with Unpacker(fd) as unpacker:
        try:
            at = turn = 0
            while at < len(data):
                size = sizes[turn % len(sizes)] if sizes else len(data)
                unpacker.feed(data[at : at + size])
                at, turn = at + size, turn + 1
            return unpacker.finish()
        except (Malformed, Truncated) as exc:
            return type(exc), str(exc), exc.entry
        except OSError as exc:
            return exc.errno, exc.filename


def tree(root, times=False):
    """All that is below `root`: names, kinds, modes, owners, contents, targets; links to one inode have one number."""
    found, numbers = [], {}
    for base, folders, files in os.walk(os.fsencode(root)):
        folders.sort()
        for name in sorted(folders + files):
            path = os.path.join(base, name)
            info = os.lstat(path)
            what = os.readlink(path) if stat.S_ISLNK(info.st_mode) else b""
            if stat.S_ISREG(info.st_mode):
                what = Path(os.fsdecode(path)).read_bytes()
            number = numbers.setdefault(info.st_ino, len(numbers))
            row = (os.path.relpath(path, os.fsencode(root)), info.st_mode, info.st_uid, info.st_gid, number, what)
            found.append((*row, info.st_mtime_ns) if times else row)
    return found


@settings(max_examples=300, deadline=None)
@given(archives, chunks)
def test_any_entries_in_any_chunks(data, sizes):
    with contextlib.ExitStack() as stack:
        rig = Rig(stack)
        whole = rig.unpack(data)
        assert rig.unpack(data, sizes) == whole


@settings(max_examples=40, deadline=None)
@given(archives)
def test_byte_by_byte(data):
    with contextlib.ExitStack() as stack:
        rig = Rig(stack)
        assert rig.unpack(data, (1,)) == rig.unpack(data)


@settings(max_examples=300, deadline=None)
@given(archives, st.lists(st.tuples(st.integers(0, 1 << 20), st.binary(min_size=1, max_size=12)), max_size=6),
       st.booleans(), chunks)  # fmt: skip
def test_any_bytes_in_any_place(data, changes, seal, sizes):
    """Bytes overwritten anywhere, with the headers' checksums made right or left wrong; and the tail cut off."""
    damaged = bytearray(data)
    for at, new in changes:
        at %= len(damaged)
        damaged[at : at + len(new)] = new
    damaged = damaged[: len(data)]
    if seal:
        for at in range(0, len(damaged) - 511, 512):
            if damaged[at + 257 : at + 262] == b"ustar":
                damaged[at : at + 512] = sealed(damaged[at : at + 512])
    data = bytes(damaged)
    with contextlib.ExitStack() as stack:
        rig = Rig(stack)
        assert rig.unpack(data, sizes) == rig.unpack(data)


@settings(max_examples=150, deadline=None)
@given(st.lists(entries, max_size=40))
def test_entries_one_upon_the_other(many):
    """A layer each: an error ends nothing but its own entry, and the next finds what the ones before have prepared."""
    with contextlib.ExitStack() as stack:
        rig = Rig(stack)
        root = rig.top / "root"
        root.mkdir()
        rig.roots.append(root)
        fd = os.open(root, os.O_RDONLY)
        stack.callback(os.close, fd)
        for one in many:
            fed(fd, archive(one), ())
        assert rig.canary() == rig.before
        assert root.is_dir()
        assert not root.is_symlink()
