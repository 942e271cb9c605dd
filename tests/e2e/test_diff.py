"""Layers of changes through a real daemon: ctr snapshots diff, the diff service, programs as stream processors."""

import contextlib
import io
import os
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

from daemon.kit import mounting
from spec import digest as digests
from spec import errors, names
from spec.api import content, diff, leases, snapshots
from spec.oci.image import OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, Descriptor
from tests.daemon import BIN, Daemon

ROT = f"{OCI_LAYER}+rot"
CONFIG = f"""
[stream_processors.rot]
accepts = ["{ROT}"]
returns = "{OCI_LAYER}"
path = "sh"
args = ["-c", "test $(cat <&3) = key && tr '\\\\001-\\\\377\\\\000' '\\\\000-\\\\377'"]
[stream_processors.broken]
accepts = ["{ROT}+broken"]
returns = "{ROT}"
path = "/bin/sh"
args = ["-c", "cat; echo no key for $WHOM >&2; exit 3"]
env = ["WHOM=you"]
[stream_processors.slow]
accepts = ["{ROT}+slow"]
returns = "{OCI_LAYER}"
path = "sleep"
args = ["1000"]
"""
SNAPSHOTTERS = ("overlayfs", "native")
ROOT = {names.GC_ROOT: "test"}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    with Daemon(tmp_path_factory.mktemp("diff"), CONFIG) as daemon:
        yield daemon


@pytest.fixture(params=SNAPSHOTTERS)
def tree(request, daemon, tmp_path):
    """The snapshotter's name; it has "base", and "work" on top of it, which is other."""
    name = request.param
    place = tmp_path / "place"
    place.mkdir()
    with daemon.client() as client:
        changed(client, name, "base", "", place, {"d/f": b"1", "d/gone": b"1"})
        request = snapshots.CommitRequest(snapshotter=name, name="base", key="base active", labels=ROOT)
        client.snapshots.commit(request)
        changed(client, name, "work", "base", place, {"d/gone": None, "d/g": b"2"})
        before = blobs(client)
        yield name
        for key in ("work active", "base"):
            client.snapshots.remove(snapshots.RemoveRequest(snapshotter=name, key=key))
        for digest in blobs(client) - before:
            with contextlib.suppress(errors.NotFound):  # the collector may come first
                client.content.delete(content.DeleteRequest(digest=digest))


def changed(client, snapshotter, name, parent, place, files):
    """An active snapshot that has these files; None is for one that goes."""
    request = snapshots.PrepareRequest(snapshotter=snapshotter, key=f"{name} active", parent=parent, labels=ROOT)
    mounts = client.snapshots.prepare(request).mounts
    mounting.attach(mounts, str(place))
    try:
        for path, body in files.items():
            Path(place, path).parent.mkdir(exist_ok=True)
            Path(place, path).unlink() if body is None else Path(place, path).write_bytes(body)
    finally:
        mounting.detach(str(place))


def blobs(client):
    return {info.digest for block in client.content.list(content.ListRequest()) for info in block.info}


def keys(daemon, snapshotter):
    return set(daemon.ctr("snapshots", "--snapshotter", snapshotter, "ls", "-q").stdout.splitlines())


def bytes_of(daemon, *args, env=None):
    argv = [BIN / "ctr", "--address", daemon.address, *args]
    done = subprocess.run(argv, capture_output=True, check=True, env={**os.environ, **(env or {})}, timeout=60)
    return done.stdout, done.stderr.decode()


def listed(blob):
    with tarfile.open(fileobj=io.BytesIO(blob)) as tar:
        return [member.name for member in tar]


def test_ctr_writes_the_layer(daemon, tree):
    before = keys(daemon, tree)
    blob, _ = bytes_of(daemon, "snapshots", "--snapshotter", tree, "diff", "work active")
    assert blob.startswith(b"\x1f\x8b")
    assert listed(blob) == ["d", "d/g", "d/.wh.gone"]
    own = ("snapshots", "--snapshotter", tree, "diff", "--media-type", OCI_LAYER)
    plain, _ = bytes_of(daemon, *own, "base", "work active")
    assert listed(plain) == ["d", "d/g", "d/.wh.gone"]
    back, _ = bytes_of(daemon, *own, "work active", "base")
    assert listed(back) == ["d", "d/.wh.g", "d/gone"]
    whole, _ = bytes_of(daemon, *own, "base")
    assert listed(whole) == ["d", "d/f", "d/gone"]
    env = {"SOURCE_DATE_EPOCH": "86400"}
    early, _ = bytes_of(daemon, "snapshots", "--snapshotter", tree, "diff", "work active", env=env)
    with tarfile.open(fileobj=io.BytesIO(early)) as tar:
        assert [member.mtime for member in tar] == [86400, 86400, 0]
    assert keys(daemon, tree) == before
    with daemon.client() as client:
        assert not client.leases.list(leases.ListRequest()).leases


def test_ctr_keeps_the_blob(daemon, tree):
    args = ("snapshots", "--snapshotter", tree, "diff", "--keep", "--label", "a=b", "--ref", "mine", "work active")
    blob, said = bytes_of(daemon, *args)
    digest = digests.of(blob)
    assert said == f"{digest}\n"
    with daemon.client() as client:
        labels = client.content.info(content.InfoRequest(digest=digest)).labels
        assert labels.keys() == {"a", names.GC_ROOT, names.UNCOMPRESSED}


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("none",), "none not found"),
        (("base", "none"), "none not found"),
        (("--media-type", "text/plain", "base"), "media type 'text/plain'"),
    ],
)
def test_what_ctr_says_of_failures(daemon, tree, args, said):
    done = daemon.ctr("snapshots", "--snapshotter", tree, "diff", *args, check=False)
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("media_type", [OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD])
def test_a_layer_goes_round(daemon, tree, media_type):
    with daemon.client() as client:
        lease = client.leases.create(leases.CreateRequest())
        leased = client.using(lease=lease.id)
        right = client.snapshots.mounts(snapshots.MountsRequest(snapshotter=tree, key="work active")).mounts
        left = leased.snapshots.view(snapshots.ViewRequest(snapshotter=tree, key="look", parent="base")).mounts
        made = leased.diff.diff(diff.DiffRequest(left=left, right=right, media_type=media_type)).diff
        request = snapshots.PrepareRequest(snapshotter=tree, key="copy", parent="base")
        mounts = leased.snapshots.prepare(request).mounts
        reply = leased.diff.apply(diff.ApplyRequest(diff=made, mounts=mounts, sync_fs=True))
        info = client.content.info(content.InfoRequest(digest=made.digest))
        assert reply.applied.digest == info.labels[names.UNCOMPRESSED]
        assert reply.usage.inodes > 0
        again = leased.diff.diff(diff.DiffRequest(left=left, right=mounts, media_type=media_type)).diff
        assert again == made
        for key in ("copy", "look"):
            client.snapshots.remove(snapshots.RemoveRequest(snapshotter=tree, key=key))
        client.leases.delete(leases.DeleteRequest(id=lease.id))


def stored(client, blob, media_type):
    """A blob of this media type, kept."""
    digest = digests.of(blob)
    stream = client.content.write()
    stream.send(content.WriteRequest(action="commit", ref=digest, data=blob, labels=ROOT))
    stream.receive()
    stream.close()
    return Descriptor(media_type=media_type, digest=digest, size=len(blob))


def test_layers_that_programs_make_readable(daemon, tree):
    plain, _ = bytes_of(daemon, "snapshots", "--snapshotter", tree, "diff", "--media-type", OCI_LAYER, "work active")
    with daemon.client() as client:
        layer = stored(client, bytes((byte + 1) % 256 for byte in plain), ROT)
        request = snapshots.PrepareRequest(snapshotter=tree, key="copy", parent="base", labels=ROOT)
        mounts = client.snapshots.prepare(request).mounts
        reply = client.diff.apply(diff.ApplyRequest(diff=layer, mounts=mounts, payloads={"rot": b"key"}))
        assert reply.applied == Descriptor(media_type=OCI_LAYER, digest=digests.of(plain), size=len(plain))
        client.snapshots.remove(snapshots.RemoveRequest(snapshotter=tree, key="copy"))
        mounts = client.snapshots.prepare(request).mounts
        broken = Descriptor(media_type=f"{ROT}+broken", digest=layer.digest, size=layer.size)
        with pytest.raises(errors.Unknown, match=r"processor broken: exit status 3: no key for you"):
            client.diff.apply(diff.ApplyRequest(diff=broken, mounts=mounts, payloads={"rot": b"key"}))
        unknown = Descriptor(media_type="text/plain", digest=layer.digest, size=layer.size)
        with pytest.raises(errors.Unimplemented, match=r"text/plain"):
            client.diff.apply(diff.ApplyRequest(diff=unknown, mounts=mounts))
        client.snapshots.remove(snapshots.RemoveRequest(snapshotter=tree, key="copy"))


def test_a_call_that_ends_ends_its_program(daemon, tree):
    with daemon.client() as client:
        layer = stored(client, b"x", f"{ROT}+slow")
        mounts = client.snapshots.mounts(snapshots.MountsRequest(snapshotter=tree, key="work active")).mounts
        with pytest.raises(errors.DeadlineExceeded):
            client.using(timeout_s=0.5).diff.apply(diff.ApplyRequest(diff=layer, mounts=mounts))
    children = Path(f"/proc/{daemon.process.pid}/task").glob("*/children")
    deadline = time.monotonic() + 20
    while "sleep" in [name for path in children for name in map(command, path.read_text().split())]:
        assert time.monotonic() < deadline


def command(pid):
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except FileNotFoundError:
        return ""
