"""The unpacker fed what nobody would write: any entries in any order, any bytes in their headers, in any chunks.

Whatever comes of it, what is beside the root stays as it is, the chunks make no difference, and neither does the way
that a layer takes onto those below.
"""

import contextlib
import os
import shutil
import stat
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.kit import mounting
from pyx.unpack import Malformed, Truncated, Unpacker
from spec import errors
from spec.types import Mount
from tests.tarball import archive, entry, file, folder, hardlink, long_name, pax, sealed, symlink
from tests.ways import WAYS, Canary, Stack, tree

pytestmark = pytest.mark.root

MORE = int(os.environ.get("HOLDD_FUZZ", "1"))  # times as many examples, by chance then and not always the same


def examples(count):
    return settings(max_examples=count * MORE, derandomize=MORE == 1, deadline=None, database=None)

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


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory):
    """In memory: it is thousands of small trees."""
    path = tmp_path_factory.mktemp("fuzz")
    mounting.attach([Mount(type="tmpfs", source="tmpfs")], str(path))
    yield path
    mounting.detach(str(path))


class Rig:
    """A root to unpack into, beside a canary."""

    def __init__(self, stack, place):
        self.top = Path(tempfile.mkdtemp(dir=place))
        stack.callback(shutil.rmtree, self.top)
        self.canary = Canary(self.top)
        self.count = 0

    def root(self):
        self.count += 1
        root = self.canary.place(f"root{self.count}")
        root.mkdir()
        return root

    def unpack(self, data, sizes=()):
        """How it ended, and the tree it left."""
        root = self.root()
        fd = os.open(root, os.O_RDONLY)
        try:
            end = fed(fd, data, sizes)
        finally:
            os.close(fd)
        self.canary.check()
        return end, settled(root)


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


def settled(root):
    """The tree, but the times of directories that nobody has set."""
    return {path: row[:-1] if stat.S_ISDIR(row[0]) else row for path, row in tree(root).items()}


@examples(300)
@given(archives, chunks)
def test_any_entries_in_any_chunks(place, data, sizes):
    with contextlib.ExitStack() as stack:
        rig = Rig(stack, place)
        whole = rig.unpack(data)
        assert rig.unpack(data, sizes) == whole


@examples(40)
@given(archives)
def test_byte_by_byte(place, data):
    with contextlib.ExitStack() as stack:
        rig = Rig(stack, place)
        assert rig.unpack(data, (1,)) == rig.unpack(data)


@examples(300)
@given(archives, st.lists(st.tuples(st.integers(0, 1 << 20), st.binary(min_size=1, max_size=12)), max_size=6),
       st.booleans(), chunks)  # fmt: skip
def test_any_bytes_in_any_place(place, data, changes, seal, sizes):
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
        rig = Rig(stack, place)
        assert rig.unpack(data, sizes) == rig.unpack(data)


@examples(150)
@given(st.lists(entries, max_size=40))
def test_entries_one_upon_the_other(place, many):
    """A layer each: an error ends nothing but its own entry, and the next finds what the ones before have prepared."""
    with contextlib.ExitStack() as stack:
        rig = Rig(stack, place)
        root = rig.root()
        fd = os.open(root, os.O_RDONLY)
        stack.callback(os.close, fd)
        for one in many:
            fed(fd, archive(one), ())
        rig.canary.check()
        assert root.is_dir()
        assert not root.is_symlink()


# Layers that fit together more often than not: few names, links mostly to what was made before.

WAY = ("a", "b", "l")
LAST = ("a", "b", "c", "d", "l")
OLD = time.time_ns() - 86400 * 10**9
paths = st.builds(
    lambda way, last: "/".join([*way, last]), st.lists(st.sampled_from(WAY), max_size=3), st.sampled_from(LAST)
)
mtimes = st.sampled_from((0, 1, 10**9))
links = st.one_of(paths, paths.map("/".__add__), st.sampled_from(("..", "/", "../b", "../../a", "nowhere/x", "l")))


class Told(bytes):
    """An entry that says how it was made."""

    def __new__(cls, make, *args, **more):
        made = super().__new__(cls, make(*args, **more))
        words = [*map(repr, args), *(f"{key}={value!r}" for key, value in more.items())]
        made.text = f"{make.__name__}({', '.join(words)})"
        return made

    def __repr__(self):
        return self.text


def with_attributes(make, path, value, **more):
    return pax(SCHILY__xattr__user__key=value, SCHILY__xattr__trusted__overlay__opaque="y") + make(path, **more)


def folder_with(path, value, **more):
    return with_attributes(folder, path, value, **more)


def file_with(path, value, **more):
    return with_attributes(file, path, value, **more)


@st.composite
def layers(draw):
    """The entries of a few layers."""
    made = []  # files
    return [draw(_layer(made)) for _ in range(draw(st.integers(2, 3)))]


@st.composite
def _layer(draw, made):
    return [draw(_told(made)) for _ in range(draw(st.integers(1, 12)))]


@st.composite
def _told(draw, made):
    kind = draw(st.sampled_from("5500012whho6xX"))
    path = draw(paths)
    base, name = os.path.split(path)
    looks = {"mode": draw(modes), "uid": draw(owners), "mtime": draw(mtimes)} if kind in "506xX" else {}
    if kind == "0":
        made.append(path)
        return Told(file, path, draw(st.binary(max_size=3)), **looks)
    if kind == "1":
        return Told(hardlink, path, draw(st.sampled_from(made) if made and draw(st.booleans()) else paths))
    if kind == "2":
        return Told(symlink, path, draw(links), uid=draw(owners), mtime=draw(mtimes))
    if kind in "xX":
        return Told(folder_with if kind == "x" else file_with, path, draw(st.binary(max_size=3)), **looks)
    if kind in "56":
        return Told(folder, path, **looks) if kind == "5" else Told(entry, path, kind, **looks)
    return Told(file, os.path.join(base, ".wh..wh..opq" if kind == "o" else f".wh.{name}"))


def _alike(way, found, wanted):
    """The merged tree is the measure, but for what differs between a plain directory and an overlay: there a directory
    that a layer has anew keeps attributes of the one below and loses hard links to files below. A directory whose time
    the merged way left alone has it in the others as well."""
    assert list(found) == list(wanted), way
    for path, row in wanted.items():
        *info, number, what, attributes, mtime = found[path]
        *info_wanted, number_wanted, what_wanted, attributes_wanted, mtime_wanted = row
        if stat.S_ISDIR(row[0]):
            attributes = attributes_wanted | attributes
        assert (info, what, attributes) == (info_wanted, what_wanted, attributes_wanted), (way, path)
        assert way == "bare" or number == number_wanted, (way, path)
        if not stat.S_ISDIR(row[0]) or mtime_wanted < OLD:
            assert mtime == mtime_wanted, (way, path)


@examples(200)
@given(layers(), chunks)
def test_every_way_to_apply_layers_comes_to_the_same(place, many, sizes):
    with contextlib.ExitStack() as stack:
        rig = Rig(stack, place)
        ways = {way: Stack(rig.canary.place(way), way) for way in WAYS}
        for layer in many:
            data = archive(*layer)
            ends = {way: _end(one, data, sizes if way == "apart" else ()) for way, one in ways.items()}
            rig.canary.check()
            if ends["merged"]:
                ways.pop("bare", None)  # it keeps half of what failed
            assert len(set(ends.values())) == 1, ends
            with contextlib.ExitStack() as views:
                trees = {way: tree(views.enter_context(one.seen())) for way, one in ways.items() if one.height}
            for way, found in trees.items():
                _alike(way, found, trees["merged"])


def _end(stack, data, sizes):
    try:
        stack.apply_data(data, sizes)
    except errors.Error as exc:
        return type(exc)
    return None
