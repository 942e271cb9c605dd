"""Checks of images whose blobs and snapshots are damaged in every way there is, and their repair."""

import contextlib
import json
import os
import shutil
import stat
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from daemon.content.local import LocalContent
from daemon.diff.applier import ArchiveApplier
from daemon.events.exchange import Exchange
from daemon.flows.crew import Crew
from daemon.flows.pull import Target
from daemon.flows.stored import Unpacking
from daemon.flows.unpack import Unpacker
from daemon.flows.verify import Check, Place, verify_blob
from daemon.kit import mounting
from daemon.kit.cancel import Token
from daemon.kit.dictkv import DictKV
from daemon.kit.keylock import KeyLock, Once
from daemon.metadata.store import Store
from daemon.scoped.content import ScopedContent
from daemon.scoped.snapshots import ScopedSnapshots
from daemon.snapshots.btrfs import Btrfs
from daemon.snapshots.native import Native
from daemon.snapshots.overlay import Overlay
from spec import digest as digests
from spec import errors, platforms
from spec.oci.image import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Descriptor
from spec.types import Mount
from tests.tarball import archive, entry, file, folder, hardlink, pax, symlink

pytestmark = pytest.mark.root

BASE = archive(
    folder("etc", mode=0o755, uid=3), file("etc/a", "a"), file("etc/b", b"b" * 3_000_000), file("etc/gone", "x"),
    folder("lower"), file("lower/one", "1"), folder("lower/sub"), file("lower/sub/two", "2"),
    folder("hidden"), file("hidden/h", "h"), file("plain", "p", mode=0o644),
)  # fmt: skip
TOP = archive(
    folder("etc", mode=0o750, uid=4), file("etc/a", "new", mtime=5), entry("etc/.wh.gone"),
    file("exe", b"e" * 2_000_000, mode=0o4755, uid=1, gid=2, mtime=1000), pax(SCHILY__xattr__user__k="v"),
    file("attributed", "k"), symlink("link", "exe"), folder("one"), folder("one/two"), file("one/two/three", "3"),
    file("one/four", "4"), hardlink("one/five", "one/four"), entry("null", "3", major=1, minor=3), entry("pipe", "6"),
    folder("hidden"), entry("hidden/.wh..wh..opq"), file("hidden/mine", "m"), file("b\xff".encode("latin-1"), "f"),
)  # fmt: skip
LAYERS = (BASE, TOP)


class World:
    """An image of LAYERS in a store, unpacked."""

    def __init__(self, directory, kind, store):
        self.raw = LocalContent(str(directory / "content"), sync=False)
        self.content = ScopedContent(self.raw, store, Exchange(), "ns")
        made = {"overlay": Overlay, "native": Native, "btrfs": Btrfs}[kind](str(directory / "snapshots"), DictKV())
        self.snapshotter = ScopedSnapshots(made, kind, Exchange(), "ns")
        self.directory = directory
        self.kind = kind
        self.applier = ArchiveApplier(self.content)
        self.locks = KeyLock()
        self.layers = [self.put(OCI_LAYER, data) for data in LAYERS]
        diff_ids = [layer.digest for layer in self.layers]
        self.chain = digests.chain_ids(diff_ids)
        host = platforms.default()
        self.config = self.document(
            OCI_CONFIG,
            {"os": host.os, "architecture": host.architecture, "rootfs": {"type": "layers", "diff_ids": diff_ids}},
        )
        self.target = self.document(
            OCI_MANIFEST,
            {"schemaVersion": 2, "config": said(self.config), "layers": [said(layer) for layer in self.layers]},
        )
        with ThreadPoolExecutor(2) as pool:
            unpacker = Unpacker(kind, self.snapshotter, self.applier, Once(), "ns", Crew(pool, 2), sync=False)
            targets = [Target(unpacker, platforms.only(host))]
            Unpacking("i", self.target, self.content, targets, lambda _: None, Token()).run()

    def put(self, media_type, data):
        with self.content.writer("w") as writer:
            writer.write(data)
            return Descriptor(media_type=media_type, digest=writer.commit(), size=len(data))

    def document(self, media_type, tree):
        return self.put(media_type, json.dumps(tree).encode())

    def blob(self, descriptor):
        return self.directory / "content" / "blobs" / descriptor.digest.replace(":", "/")

    def check(self, repair=False, cancel=None):
        """What is found, and what is told meanwhile."""
        found, told = [], []
        place = Place(self.kind, self.snapshotter, self.applier, self.locks, "ns")
        with ThreadPoolExecutor(2) as pool:
            Check(
                name="i",
                target=self.target,
                content=self.content,
                place=place,
                matcher=platforms.only(platforms.default()),
                pool=pool,
                sink=told.append,
                found=found.append,
                cancel=cancel or Token(),
                repair=repair,
            ).run()
        assert {info.name for info in self.snapshotter.list()} == set(self.chain), "the passing snapshots are gone"
        return found, told

    def differences(self, repair=False):
        found, _ = self.check(repair)
        assert all(finding.kind == "snapshot" and finding.repaired == repair for finding in found)
        return {(self.chain.index(finding.object), finding.path): set(finding.what) for finding in found}

    def own(self, level=1):
        """Where a snapshot's own tree is."""
        (mount,) = self.snapshotter.view("own", self.chain[level])
        self.snapshotter.remove("own")
        lowers = [option.removeprefix("lowerdir=") for option in mount.options if option.startswith("lowerdir=")]
        return lowers[0].split(":")[0] if lowers else mount.source

    def tree(self):
        """All that the top snapshot shows."""
        mounts = self.snapshotter.view("tree", self.chain[-1])
        try:
            with mounting.opened(mounts) as root:
                return dict(listing(root, f"/proc/self/fd/{root}"))
        finally:
            self.snapshotter.remove("tree")


def said(descriptor):
    return {"mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size}


def listing(root, top):
    links = {}
    for directory, folders, files in os.walk(os.fsencode(top) + b"/."):
        folders.sort()
        for name in (b".", *folders, *sorted(files)):
            path = os.path.join(directory, name)
            info = os.lstat(path)
            kind = stat.S_IFMT(info.st_mode)
            body = b""
            if kind == stat.S_IFREG:
                with open(path, "rb") as opened:
                    body = opened.read()
            elif kind == stat.S_IFLNK:
                body = os.readlink(path)
            xattrs = {
                key: os.getxattr(path, key, follow_symlinks=False) for key in os.listxattr(path, follow_symlinks=False)
            }
            relative = os.path.relpath(path, os.fsencode(top))
            first = links.setdefault(info.st_ino, relative) if kind != stat.S_IFDIR else b""
            mtime = info.st_mtime_ns if kind != stat.S_IFDIR else 0
            yield relative, (info.st_mode, info.st_uid, info.st_gid, info.st_rdev, body, xattrs, first, mtime)


@pytest.fixture(params=["overlay", "native"])
def world(request, tmp_path):
    with contextlib.closing(Store(str(tmp_path / "metadata"), sync=False)) as store:
        yield World(tmp_path, request.param, store)


@pytest.fixture(scope="module", params=["overlay", "native"])
def mended(request, tmp_path_factory):
    """One for many tests, each of which leaves it whole."""
    directory = tmp_path_factory.mktemp("verify")
    with contextlib.closing(Store(str(directory / "metadata"), sync=False)) as store:
        world = World(directory, request.param, store)
        assert world.differences() == {}
        yield world


def flip(path):
    """Another byte, as a disk would: nothing else changes."""
    info = os.stat(path)
    with open(path, "r+b") as opened:
        opened.seek(-1, os.SEEK_END)
        opened.write(b"!")
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


def replace(path, make):
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.remove(path)
    make(path)


def broken_link(path):
    os.rename(path, path + "-")
    shutil.copy2(path + "-", path)
    os.remove(path + "-")


def aside(path):
    """The bytes are right, but somebody else's."""
    os.rename(path, f"{path}.aside")
    os.symlink(f"{path}.aside", path)


def tree_at(path):
    os.makedirs(os.path.join(path, "deep"))
    with open(os.path.join(path, "deep", "er"), "w") as opened:
        opened.write("x")


def linked(path):
    os.symlink("x", path)


def emptied(path):
    with open(path, "wb"):
        pass


def shown_again(path):
    """What a layer hides, either way."""
    if "trusted.overlay.opaque" in os.listxattr(path):
        os.removexattr(path, "trusted.overlay.opaque")
    else:
        os.remove(os.path.join(path, "h"))


DAMAGES = {
    "a flipped byte": ("exe", flip, {"exe": {"content"}}),
    "an empty file": ("one/two/three", emptied, {"one/two/three": {"content", "time"}}),
    "a mode": ("exe", lambda path: os.chmod(path, 0o755), {"exe": {"mode"}}),
    "an owner": ("exe", lambda path: (os.chown(path, 9, 9), os.chmod(path, 0o4755)), {"exe": {"owner"}}),
    "a time": ("exe", lambda path: os.utime(path, ns=(0, 1)), {"exe": {"time"}}),
    "an attribute": ("attributed", lambda path: os.setxattr(path, "user.k", b"w"), {"attributed": {"xattr"}}),
    "an attribute less": ("attributed", lambda path: os.removexattr(path, "user.k"), {"attributed": {"xattr"}}),
    "an attribute more": ("one", lambda path: os.setxattr(path, "user.m", b"w"), {"one": {"xattr"}}),
    "a directory's mode": ("one/two", lambda path: os.chmod(path, 0o700), {"one/two": {"mode"}}),
    "a directory's owner": ("etc", lambda path: os.chown(path, 8, 8), {"etc": {"owner"}}),
    "the root's mode": (".", lambda path: os.chmod(path, 0o700), {".": {"mode"}}),
    "a file that is gone": ("one/two/three", os.remove, {"one/two/three": {"missing"}}),
    "a directory that is gone": ("one/two", shutil.rmtree, {"one/two": {"missing"}}),
    "a file too much": ("one/new", emptied, {"one/new": {"extra"}}),
    "a directory too much": ("one/new", tree_at, {"one/new": {"extra"}}),
    "a link's target": ("link", lambda path: replace(path, linked), {"link": {"target", "time"}}),
    "a link for a file": ("exe", lambda path: replace(path, linked), {"exe": {"type"}}),
    "a tree for a file": ("exe", lambda path: replace(path, tree_at), {"exe": {"type"}}),
    "a file for a tree": ("one", lambda path: replace(path, emptied), {"one": {"type"}}),
    "another device": (
        "null",
        lambda path: replace(path, lambda to: os.mknod(to, 0o755 | stat.S_IFCHR, os.makedev(1, 5))),
        {"null": {"device", "time"}},
    ),
    "a hard link that is two files": ("one/four", broken_link, {"one/four": {"link"}}),
    "a name that is no text": (b"b\xff", lambda path: flip(path), {b"b\xff": {"content"}}),
}  # fmt: skip
# Of layers as overlay has them.
OVERLAYS = {
    "a whiteout that is gone": ("etc/gone", os.remove, {"etc/gone": {"extra"}}),
    "a file for a whiteout": ("etc/gone", lambda path: replace(path, emptied), {"etc/gone": {"extra"}}),
    "a whiteout too much": ("plain", lambda path: os.mknod(path, stat.S_IFCHR), {"plain": {"missing"}}),
    "a whiteout of nothing": ("etc/no", lambda path: os.mknod(path, stat.S_IFCHR), {}),
    "a directory that hides": (
        "lower",
        lambda path: (os.mkdir(path), os.chmod(path, 0o755), os.setxattr(path, "trusted.overlay.opaque", b"y")),
        {"lower/one": {"missing"}, "lower/sub": {"missing"}},
    ),
    "one that hides no more": (
        "hidden",
        shown_again,
        {"hidden/h": {"extra"}},
    ),
    "a file that shows what is below": ("etc/a", os.remove, {"etc/a": {"content", "time"}}),
    "a directory said again": ("lower/sub", lambda path: shutil.copytree(below(path), path), {}),
    "marks of overlay": ("one", lambda path: os.setxattr(path, "trusted.overlay.impure", b"y"), {}),
}


def below(path):
    """The same path in the tree of the other layer: which of the two has which number is up to their race."""
    trees, _, inside = path.rpartition("/snapshots/")
    own, rest = inside.split("/", 1)
    (other,) = set(os.listdir(f"{trees}/snapshots")) - {own}
    return f"{trees}/snapshots/{other}/{rest}"


def damaged(world, name, damage):
    path = os.path.join(world.own(), os.fsdecode(name))
    damage(path)


def expected(differences):
    return {(1, os.fsencode(path)): what for path, what in differences.items()}


@pytest.mark.parametrize("name", [*DAMAGES, *OVERLAYS])
def test_a_snapshot_that_is_damaged(mended, name):
    world = mended
    if name in OVERLAYS and world.kind != "overlay":
        pytest.skip("only overlay has layers")
    path, damage, differences = {**DAMAGES, **OVERLAYS}[name]
    before = world.tree()
    damaged(world, path, damage)
    assert world.differences() == expected(differences)
    assert world.differences(repair=True) == expected(differences)
    assert world.differences() == {}
    assert world.tree() == before


def test_several_damages_at_once(mended):
    world = mended
    before = world.tree()
    names = ["exe", "attributed", "one/two", "link", "null"]
    picked = {"exe": flip, "attributed": emptied, "one/two": shutil.rmtree, "link": os.remove, "null": os.remove}
    for name in names:
        damaged(world, name, picked[name])
    assert len(world.differences(repair=True)) == len(names)
    assert world.tree() == before


def test_a_lower_snapshot_is_repaired_for_those_that_stand_on_it(world):
    before = world.tree()
    flip(os.path.join(world.own(0), "etc/b"))
    if world.kind == "native":  # each holds all
        flip(os.path.join(world.own(1), "etc/b"))
    found = world.differences(repair=True)
    assert found[0, b"etc/b"] == {"content"}
    assert world.tree() == before
    assert world.differences() == {}


def test_directories_keep_their_times(mended):
    world = mended
    path = os.path.join(world.own(), "one/two")
    before = os.stat(path).st_mtime_ns
    os.remove(os.path.join(path, "three"))
    world.check(repair=True)
    assert os.stat(path).st_mtime_ns == before


@pytest.mark.parametrize("damage", [flip, emptied, os.remove, aside])
@pytest.mark.parametrize("part", ["layer", "config", "manifest"])
def test_a_blob_that_is_damaged(world, part, damage):
    """Nothing is repaired from it."""
    descriptor = {"layer": world.layers[1], "config": world.config, "manifest": world.target}[part]
    damage(world.blob(descriptor))
    flip(os.path.join(world.own(), "exe"))
    before = world.tree()
    found, _ = world.check(repair=True)
    assert (found[0].kind, found[0].object, found[0].what) == ("content", descriptor.digest, ("damaged",))
    assert descriptor.digest in found[0].detail
    if part == "layer":
        assert [(finding.object, finding.what) for finding in found[1:]] == [(world.chain[1], ("unchecked",))]
    else:
        assert len(found) == 1
    assert not any(finding.repaired for finding in found)
    assert world.tree() == before
    with pytest.raises(errors.DataLoss, match=descriptor.digest):
        verify_blob(world.content, descriptor.digest, None)


def test_a_blob_that_nobody_has(world):
    world.content.delete(world.layers[0].digest)
    found, _ = world.check()
    assert [(finding.object, finding.what) for finding in found] == [
        (world.layers[0].digest, ("missing",)), (world.chain[0], ("unchecked",))
    ]  # fmt: skip
    with pytest.raises(errors.NotFound):
        verify_blob(world.content, world.layers[0].digest, None)


def test_an_image_that_is_not_unpacked_is_no_worse_for_it(world):
    for name in reversed(world.chain):
        world.snapshotter.remove(name)
    world.chain = []
    found, told = world.check()
    assert found == []
    assert {progress.name for progress in told if progress.event == "verified"} == {
        descriptor.digest for descriptor in (*world.layers, world.config, world.target)
    }


def test_a_check_that_is_cancelled_leaves_nothing(world):
    token = Token()
    token.cancel("enough")
    with pytest.raises(errors.Canceled):
        world.check(cancel=token)
    assert {info.name for info in world.snapshotter.list()} == set(world.chain)


class Elsewhere:
    """A snapshotter whose mounts name no directory that can be read as it lies."""

    def __init__(self, raw, spare):
        self._raw = raw
        self._spare = Mount(type="bind", source=str(spare), target="etc", options=("bind",))

    def __getattr__(self, name):
        return getattr(self._raw, name)

    def prepare(self, *args):
        return (*self._raw.prepare(*args), self._spare)

    def view(self, *args):
        return (*self._raw.view(*args), self._spare)


def test_where_no_directory_is_shown_whole_trees_are_compared(world, tmp_path):
    flip(os.path.join(world.own(), "exe"))
    (tmp_path / "spare").mkdir()
    world.snapshotter = Elsewhere(world.snapshotter, tmp_path / "spare")
    world.applier = Blind(world.applier)
    assert world.differences() == {(1, b"exe"): {"content"}}
    found, _ = world.check(repair=True)
    assert [(finding.path, finding.repaired) for finding in found] == [(b"exe", False)]
    assert {info.name for info in world.snapshotter.list()} == set(world.chain)


class Blind:
    """An applier that does not see what `Elsewhere` adds."""

    def __init__(self, raw):
        self._raw = raw

    def apply(self, layer, mounts, cancel=None):
        return self._raw.apply(layer, mounts[:1], cancel)


def test_subvolumes_are_compared_and_left_alone(disks):
    if "btrfs" not in disks:
        pytest.skip("there is no btrfs here")
    with contextlib.ExitStack() as stack:
        made = tempfile.TemporaryDirectory(dir=disks["btrfs"], ignore_cleanup_errors=True)  # subvolumes stay
        directory = Path(stack.enter_context(made))
        store = stack.enter_context(contextlib.closing(Store(str(directory / "metadata"), sync=False)))
        world = World(directory, "btrfs", store)
        assert world.differences() == {}
        subprocess.run(["btrfs", "property", "set", world.own(), "ro", "false"], check=True)
        flip(os.path.join(world.own(), "exe"))
        for repair in (False, True):
            found, _ = world.check(repair)
            assert [(finding.path, finding.what, finding.repaired) for finding in found] == [
                (b"exe", ("content",), False)
            ]
