"""Conformance of appliers: layers of every kind onto mounts of every shape."""

import contextlib
import gzip
import io
import os

import pytest
import zstandard

from daemon.client import connect
from daemon.client.proxies import RemoteDiffer
from daemon.config import ProxyPlugin
from daemon.content.local import LocalContent
from daemon.diff.applier import ArchiveApplier
from daemon.diff.walking import WalkingDiffer
from daemon.events.exchange import Exchange
from daemon.kit import mounting
from daemon.kit.cancel import Token
from daemon.kit.dictkv import DictKV
from daemon.kit.threads import Pool
from daemon.metadata.store import Store
from daemon.proxy import ProxyDiffer
from daemon.scoped.content import ScopedContent
from daemon.services.diff import Diff
from daemon.snapshots.native import Native
from daemon.snapshots.overlay import Overlay
from spec import digest as digests
from spec import errors
from spec.api import diff as diff_api
from spec.oci.image import OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, Descriptor
from spec.types import Mount, Usage
from tests.echo import SECONDS, Server
from tests.tarball import archive, entry, file, folder, hardlink, pax, symlink

pytestmark = pytest.mark.root

KINDS = {OCI_LAYER: bytes, OCI_LAYER_GZIP: gzip.compress, OCI_LAYER_ZSTD: zstandard.compress}


@pytest.fixture(params=["overlay", "native"])
def snapshotter(request, tmp_path):
    made = {"overlay": Overlay, "native": Native}[request.param](str(tmp_path / "snapshots"), DictKV())
    yield made
    made.close()


@pytest.fixture(params=["local", "scoped", "remote", "proxied"])
def content(request, tmp_path):
    """A store; its `applier` is the one under test."""
    content = LocalContent(str(tmp_path / "content"))
    with contextlib.ExitStack() as stack:
        if request.param != "local":
            store = stack.enter_context(contextlib.closing(Store(str(tmp_path / "metadata"))))
            content = ScopedContent(content, store, Exchange(), "default")
        content.applier = differ = WalkingDiffer(content)
        if request.param in ("remote", "proxied"):
            service = Diff(lambda namespace, payloads: differ, stack.enter_context(Pool("diff", 2)))
            server = stack.enter_context(Server(extra=[(diff_api.Diff, service)]))
        if request.param == "proxied":
            plugin = ProxyPlugin(type="diff", address=server.path, timeout_s=SECONDS)
            content.applier = stack.enter_context(contextlib.closing(ProxyDiffer("mine", plugin, sync_fs=True)))
        if request.param == "remote":
            client = stack.enter_context(connect(server.path, "default", timeout_s=SECONDS))
            content.applier = RemoteDiffer(client, sync_fs=True)
        yield content


def layer(content, plain, media_type=OCI_LAYER_GZIP):
    blob = KINDS[media_type](plain)
    with content.writer("layer") as writer:
        writer.write(blob)
        return Descriptor(media_type=media_type, digest=writer.commit(), size=len(blob))


def apply(content, snapshotter, plain, parent="", name="", media_type=OCI_LAYER_GZIP, cancel=None):
    """Apply onto a new snapshot, and commit it as `name` when one is given."""
    mounts = snapshotter.prepare("active", parent)
    try:
        applied = content.applier.apply(layer(content, plain, media_type), mounts, cancel)
    except BaseException:
        snapshotter.remove("active")
        raise
    if name:
        snapshotter.commit(name, "active")
    return applied


def seen(snapshotter, parent):
    mounts = snapshotter.view("look", parent)
    try:
        with mounting.opened(mounts) as root:
            return sorted(os.listdir(root))
    finally:
        snapshotter.remove("look")


@pytest.mark.parametrize("media_type", KINDS)
def test_the_descriptor_is_of_the_plain_stream(content, snapshotter, media_type):
    plain = archive(folder("d"), file("d/f", b"1" * 5000)) + b"behind the end"
    applied = apply(content, snapshotter, plain, media_type=media_type)
    assert applied.descriptor.digest == digests.of(plain)
    assert applied.descriptor.size == len(plain)
    assert applied.usage.inodes == 2
    assert applied.usage.size >= 5000


def test_layers_hide_and_link_what_is_below(content, snapshotter):
    apply(content, snapshotter, archive(folder("d"), file("d/x", b"1"), file("gone"), file("f", b"1")), name="one")
    upper = archive(
        *(file(".wh.gone"), folder("d"), file("d/.wh..wh..opq"), file("d/y", b"2")),
        *(hardlink("link", "f"), symlink("s", "d")),
    )
    apply(content, snapshotter, upper, "one", "two")
    apply(content, snapshotter, archive(file("s/z", b"3")), "two", "three")
    assert seen(snapshotter, "three") == ["d", "f", "link", "s"]
    mounts = snapshotter.view("inside", "three")
    with mounting.opened(mounts) as root:
        fd = os.open("d", os.O_RDONLY, dir_fd=root)
        assert sorted(os.listdir(fd)) == ["y", "z"]
        os.close(fd)
        assert os.stat("f", dir_fd=root).st_nlink == 2
    assert seen(snapshotter, "one") == ["d", "f", "gone"]


def test_usage_through_a_mount_counts_what_that_makes(content, tmp_path):
    """A link to a file below and a whiteout: neither is told by the archive alone."""
    with contextlib.closing(Overlay(str(tmp_path / "snapshots"), DictKV())) as snapshots:
        below = archive(folder("d"), folder("d/e"), file("d/e/f", b"1" * 100_000), file("gone"), file("also"))
        apply(content, snapshots, below, name="below")
        mounts = snapshots.prepare("active", "below")
        empty = snapshots.usage("active")
        for entries in ((hardlink("d/e/link", "d/e/f"), file("d/e/.wh.gone"), file(".wh.gone")), (file(".wh.also"),)):
            before = snapshots.usage("active")
            applied = content.applier.apply(layer(content, archive(*entries)), mounts)
            after = snapshots.usage("active")
            assert applied.usage == Usage(size=after.size - before.size, inodes=after.inodes - before.inodes)
        assert after.inodes - empty.inodes == 5
        assert after.size - empty.size > 100_000


@pytest.mark.parametrize(
    ("plain", "kind"),
    [
        (entry("bad", size=-1), errors.InvalidArgument),
        (archive(file("a"), file("a/bad")), errors.InvalidArgument),
        (hardlink("bad", "nosuch"), errors.InvalidArgument),
        (file("bad", b"1" * 1000)[:700], errors.DataLoss),
        (archive(pax(SCHILY__xattr__user__key=b"v" * 200_000) + file("bad")), errors.InvalidArgument),
        (archive(file("a", b"1"), symlink("l", "l"), file("l/bad")), errors.InvalidArgument),
    ],
)
def test_errors_name_the_layer_and_the_entry(content, snapshotter, plain, kind):
    with pytest.raises(kind, match=r"sha256:[0-9a-f]{64}.* at '([al]/)?bad'"):
        apply(content, snapshotter, plain)


def test_a_blob_that_is_cut_off(content, snapshotter):
    blob = gzip.compress(archive(file("f", os.urandom(10_000))))[:5000]
    with content.writer("cut") as writer:
        writer.write(blob)
        descriptor = Descriptor(media_type=OCI_LAYER_GZIP, digest=writer.commit(), size=len(blob))
    with pytest.raises(errors.DataLoss, match=descriptor.digest):
        content.applier.apply(descriptor, snapshotter.prepare("k"))


def test_a_blob_that_is_not_there(content, snapshotter):
    with pytest.raises(errors.NotFound):
        content.applier.apply(
            Descriptor(media_type=OCI_LAYER, digest="sha256:" + "0" * 64), snapshotter.prepare("k")
        )


def test_cancelled(content, snapshotter):
    token = Token()
    token.cancel("enough")
    with pytest.raises(errors.Canceled, match="enough"):
        apply(content, snapshotter, archive(file("f")), cancel=token)


def test_cancelled_where_nothing_comes_of_what_is_read(content, snapshotter):
    class Once:
        """Cancelled at the second look."""

        looks = 0

        def check(self):
            self.looks += 1
            if self.looks > 1:
                raise errors.Canceled("enough")

    class Padding:
        """A member, then zeros for ever."""

        head = gzip.compress(archive(file("f")))

        def read(self, size, /):
            head, self.head = self.head, b""
            return head or bytes(size)

        def close(self):
            pass

    descriptor = Descriptor(media_type=OCI_LAYER_GZIP, digest="sha256:" + "0" * 64)
    with pytest.raises(errors.Canceled, match="enough"):
        ArchiveApplier(content).apply_stream(Padding(), descriptor, snapshotter.prepare("k"), Once())


def test_a_layer_is_no_way_to_make_what_steers_the_overlay(tmp_path, content):
    """The kernel refuses a whiteout device through the mount; attributes of its own are dropped, not stored."""
    snapshotter = Overlay(str(tmp_path / "snapshots"), DictKV())
    try:
        apply(content, snapshotter, archive(folder("d"), file("d/f", b"1")), name="one")
        opaque = pax(SCHILY__xattr__trusted__overlay__opaque=b"y", SCHILY__xattr__trusted__overlay__redirect=b"/x")
        apply(content, snapshotter, archive(opaque + folder("d"), file("d/g")), "one", "two")
        with mounting.opened(snapshotter.view("inside", "two")) as root:
            fd = os.open("d", os.O_RDONLY, dir_fd=root)
            assert sorted(os.listdir(fd)) == ["f", "g"]
            os.close(fd)
        with pytest.raises(errors.PermissionDenied, match="at 'd'"):
            apply(content, snapshotter, archive(entry("d", "3")), "one")
    finally:
        snapshotter.close()


def test_a_layer_apart_from_those_below(content, tmp_path):
    """Whoever can settle what it implies is told what that is; whoever cannot is told to apply it in order."""
    upper = Mount(type="overlay", source="overlay", options=(f"upperdir={tmp_path / 'upper'}",))
    (tmp_path / "upper").mkdir()
    alone, implying = (layer(content, archive(*entries)) for entries in ((folder("d"), file("d/f")), (file("d/f"),)))
    if isinstance(content.applier, ProxyDiffer):
        with pytest.raises(errors.FailedPrecondition, match="needs the layers below"):
            content.applier.apply(alone, [upper])
        return
    assert not content.applier.apply(alone, [upper]).implied
    (tmp_path / "upper/d/f").unlink()
    (tmp_path / "upper/d").rmdir()
    if isinstance(content.applier, RemoteDiffer):
        with pytest.raises(errors.FailedPrecondition, match="needs the layers below"):
            content.applier.apply(implying, [upper])
    else:
        assert content.applier.apply(implying, [upper]).implied == (b"d",)


class Layers:
    """An applier, and layers of an overlay below a directory, lowest first."""

    def __init__(self, directory):
        self._directory = directory
        self._content = LocalContent(str(directory / "content"), False)
        self.applier = ArchiveApplier(self._content)
        self.paths = []

    def base(self, *entries):
        path = self._new()
        self.applier.apply_stream(io.BytesIO(archive(*entries)), PLAIN, bound(path))
        return path

    def apart(self, *entries):
        """What came of a layer that is unpacked without those below."""
        path = self._new()
        return self.applier.apply_stream(io.BytesIO(archive(*entries)), PLAIN, upper_of(path))

    def direct(self, *entries):
        """The same on top of all others, which are known."""
        below = ":".join(str(path) for path in reversed(self.paths))
        path = self._new()
        work = path.with_name(f"{path.name}-work")
        work.mkdir()
        options = (f"upperdir={path}", f"workdir={work}", f"lowerdir={below}", "index=off")
        mounts = [Mount(type="overlay", source="overlay", options=options)]
        return self.applier.apply(layer(self._content, archive(*entries), OCI_LAYER), mounts)

    def _new(self):
        path = self._directory / f"layer{len(self.paths)}"
        path.mkdir()
        self.paths.append(path)
        return path


PLAIN = Descriptor(media_type=OCI_LAYER, digest="sha256:" + "0" * 64)


def bound(path):
    return [Mount(type="bind", source=str(path), options=("rbind", "rw"))]


def upper_of(path):
    return [Mount(type="overlay", source="overlay", options=(f"upperdir={path}",))]


@pytest.fixture
def layers(tmp_path):
    return Layers(tmp_path)


def test_implied_directories_become_as_those_below(layers):
    key = pax(SCHILY__xattr__user__key="v")
    base = layers.base(key + folder("a", mode=0o2750, uid=1, gid=2, mtime=5), folder("a/b", mode=0o700, mtime=6))
    applied = layers.apart(file("a/b/c/f", b"1"), file("a/.wh.gone"), folder("d"))
    assert applied.implied == (b"a", b"a/b", b"a/b/c")
    assert layers.applier.settle(applied, bound(base))
    upper = layers.paths[-1]
    for name in ("a", "a/b"):
        found, wanted = (upper / name).stat(), (base / name).stat()
        assert (found.st_mode, found.st_uid, found.st_gid) == (wanted.st_mode, wanted.st_uid, wanted.st_gid)
        assert found.st_mtime == wanted.st_mtime
    assert os.getxattr(upper / "a", "user.key") == b"v"
    assert (upper / "a/b/c").stat().st_mode & 0o7777 == 0o755
    assert sorted(os.listdir(upper / "a")) == ["b", "gone"]


@pytest.mark.parametrize(
    ("below", "entries"),
    [
        ((symlink("a", "b"), folder("b")), (file("a/f"),)),
        ((file("a"),), (file("a/f"),)),
        ((folder("b"),), (file("a/.wh.f"),)),
        ((folder("b"),), (file("a/.wh..wh..opq"),)),
        ((symlink("a", "b"), folder("b")), (file("a/f"), folder("a"))),
        ((folder("a"), symlink("a/b", ".")), (file("a/b/.wh.c"),)),
    ],
)
def test_layers_that_mean_something_else_on_top_of_others(layers, below, entries):
    base = layers.base(*below)
    assert not layers.applier.settle(layers.apart(*entries), bound(base))


def test_whiteouts_that_nothing_is_below_of_are_not_seen(layers):
    """overlayfs looks for them only where it merges."""
    base = layers.base(folder("a"), file("a/x"))
    applied = layers.apart(folder("a"), file("a/.wh.x"), folder("d", mtime=7), file("d/.wh.y"), file("d/z"))
    assert layers.applier.settle(applied, bound(base))
    upper = layers.paths[-1]
    assert os.listdir(upper / "a") == ["x"]
    assert os.listdir(upper / "d") == ["z"]
    assert (upper / "d").stat().st_mtime == 7


def test_a_layer_apart_from_those_it_needs(layers):
    layers.base(file("f", b"1"))
    with pytest.raises(errors.FailedPrecondition, match=r"needs the layers below: .* at 'l'"):
        layers.apart(hardlink("l", "f"))
    with pytest.raises(errors.InvalidArgument, match="not empty"):
        layers.applier.apply_stream(io.BytesIO(archive()), PLAIN, upper_of(layers.paths[0]))


@pytest.mark.parametrize(
    ("entries", "mounted"),
    [
        ((folder("d"), file("d/.wh.f"), file("d/g", b"2"), file("s/h")), True),
        ((folder("d"), file("d/.wh.f"), file("d/g", b"2")), False),
        ((hardlink("d/l", "d/f"),), True),
    ],
)
def test_on_top_of_known_layers(layers, entries, mounted):
    """Written straight into the upper directory where that is enough: then nothing has overlay's traces of a copy."""
    layers.base(folder("d", mode=0o700), file("d/f", b"1"), folder("t"), symlink("s", "t"))
    applied = layers.direct(*entries)
    assert not applied.implied
    upper = layers.paths[-1]
    assert (upper / "d").stat().st_mode & 0o7777 == (0o700 if entries[0][:3] == b"d/l" else 0o755)
    traces = [name for name in os.listxattr(upper / "d") if name.startswith("trusted.overlay.")]
    assert bool(traces) == mounted


def test_syncing(layers):
    layers.base(file("f"))
    layers.apart(file("g"))
    layers.applier.sync(bound(layers.paths[0]))
    layers.applier.sync(upper_of(layers.paths[1]))
    with pytest.raises(errors.NotFound):
        layers.applier.sync(upper_of(layers.paths[1] / "nowhere"))


def test_attributes_that_have_no_place(layers, tmp_path, caplog):
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    place = tmp_path / "ramfs"
    place.mkdir()
    mounting.attach([Mount(type="ramfs", source="ramfs")], str(place))
    try:
        entries = (pax(SCHILY__xattr__security__capability=capability, SCHILY__xattr__user__k="v") + file("ping"),)
        layers.applier.apply_stream(io.BytesIO(archive(*entries)), PLAIN, bound(place))
        assert (place / "ping").exists()
    finally:
        mounting.detach(str(place))
    assert "2 attributes left out" in caplog.text


@pytest.mark.parametrize("position", [0, 5, 40])
def test_what_is_wrong_far_behind_the_beginning(layers, position):
    """Where a thread of its own writes."""
    good = b"".join(file(f"f{turn}", b"x" * 300_000) for turn in range(position))
    with pytest.raises(errors.InvalidArgument, match="at 'bad'"):
        layers.base(good, hardlink("bad", "nowhere"), *(file(f"g{turn}", b"y" * 300_000) for turn in range(40)))
