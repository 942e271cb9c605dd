"""Conformance of appliers: layers of every kind onto mounts of every shape."""

import contextlib
import gzip
import os

import pytest
import zstandard

from daemon.client import connect
from daemon.client.proxies import RemoteDiffer
from daemon.content.local import LocalContent
from daemon.diff.applier import ArchiveApplier
from daemon.diff.walking import WalkingDiffer
from daemon.events.exchange import Exchange
from daemon.kit import mounting
from daemon.kit.cancel import Token
from daemon.kit.dictkv import DictKV
from daemon.kit.threads import Pool
from daemon.metadata.store import Store
from daemon.scoped.content import ScopedContent
from daemon.services.diff import Diff
from daemon.snapshots.native import Native
from daemon.snapshots.overlay import Overlay
from spec import digest as digests
from spec import errors
from spec.api import diff as diff_api
from spec.oci.image import OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, Descriptor
from spec.types import Mount
from tests.echo import SECONDS, Server
from tests.tarball import archive, entry, file, folder, hardlink, pax, symlink

pytestmark = pytest.mark.root

KINDS = {OCI_LAYER: bytes, OCI_LAYER_GZIP: gzip.compress, OCI_LAYER_ZSTD: zstandard.compress}


@pytest.fixture(params=["overlay", "native"])
def snapshotter(request, tmp_path):
    made = {"overlay": Overlay, "native": Native}[request.param](str(tmp_path / "snapshots"), DictKV())
    yield made
    made.close()


@pytest.fixture(params=["local", "scoped", "remote"])
def content(request, tmp_path):
    """A store; its `applier` is the one under test."""
    content = LocalContent(str(tmp_path / "content"))
    with contextlib.ExitStack() as stack:
        if request.param != "local":
            store = stack.enter_context(contextlib.closing(Store(str(tmp_path / "metadata"))))
            content = ScopedContent(content, store, Exchange(), "default")
        content.applier = differ = WalkingDiffer(content)
        if request.param == "remote":
            service = Diff(lambda namespace, payloads: differ, stack.enter_context(Pool("diff", 2)))
            server = stack.enter_context(Server(extra=[(diff_api.Diff, service)]))
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
    assert not content.applier.apply(alone, [upper]).implied
    (tmp_path / "upper/d/f").unlink()
    (tmp_path / "upper/d").rmdir()
    if isinstance(content.applier, RemoteDiffer):
        with pytest.raises(errors.FailedPrecondition, match="needs the layers below"):
            content.applier.apply(implying, [upper])
    else:
        assert content.applier.apply(implying, [upper]).implied == (b"d",)
