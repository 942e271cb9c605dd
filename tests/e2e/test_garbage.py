"""What goes when nothing keeps it, what stays, and who says so: with a real daemon and pulled images."""

import os
import threading

import pytest

from spec import errors
from spec.api import content, images, leases, snapshots, transfer
from spec.records import LeaseResource
from tests.fake import Fake

EAGER = "[gc]\ndeletion_threshold = 1\nstartup_delay_s = 0\n"


@pytest.fixture
def fake():
    with Fake() as fake:
        yield fake


@pytest.fixture
def pulled(daemon, fake):
    """`pulled(tag)`: the name of an image that is here, unpacked."""

    def pull(tag="1"):
        fake.image(tag, {"bin/a": os.urandom(100_000), tag: b"x"})
        name = f"{fake.host}/app:{tag}"
        with daemon.client() as client:
            list(client.transfer.transfer(request(name)))
        return name

    return pull


def request(name):
    return transfer.TransferRequest(
        source=transfer.Registry(reference=name, plain_http=True),
        destination=transfer.ImageStore(name=name, unpacks=[transfer.Unpack()]),
    )


def blobs(daemon):
    """Digests of the records, and of the files."""
    with daemon.client() as client:
        rows = {info.digest for block in client.content.list(content.ListRequest()) for info in block.info}
    files = {f"sha256:{path.name}" for path in (daemon.root / "content/blobs/sha256").iterdir()}
    return rows, files


def trees(daemon):
    """Names of the snapshots, and how many directories there are."""
    with daemon.client() as client:
        request = snapshots.ListRequest(snapshotter="overlayfs")
        names = [info.name for block in client.snapshots.list(request) for info in block.info]
    return names, len(list((daemon.root / "snapshots/overlayfs/snapshots").iterdir()))


def collect(daemon):
    """A collection from begin to end."""
    with daemon.client() as client:
        lease = client.leases.create(leases.CreateRequest())
        client.leases.delete(leases.DeleteRequest(id=lease.id, sync=True))


def test_an_image_keeps_what_it_is_made_of_and_no_more(daemon, pulled):
    one, two = pulled("1"), pulled("2")
    rows, files = blobs(daemon)
    assert rows == files
    assert len(rows) == 6
    with daemon.client() as client:
        assert not client.leases.list(leases.ListRequest()).leases
    collect(daemon)
    assert blobs(daemon) == (rows, files)
    assert len(trees(daemon)[0]) == 2
    daemon.ctr("images", "rm", "--sync", one)
    assert [len(found) for found in blobs(daemon)] == [3, 3]
    assert (len(trees(daemon)[0]), trees(daemon)[1]) == (1, 1)
    daemon.ctr("images", "rm", "--sync", two)
    assert blobs(daemon) == (set(), set())
    assert trees(daemon) == ([], 0)


def test_a_container_keeps_its_snapshots(daemon, pulled):
    name = pulled()
    daemon.ctr("containers", "create", name, "c", "/bin/a")
    daemon.ctr("images", "rm", "--sync", name)
    assert blobs(daemon) == (set(), set())
    assert len(trees(daemon)[0]) == 2
    daemon.ctr("containers", "rm", "--keep-snapshot", "c")
    collect(daemon)
    assert len(trees(daemon)[0]) == 2
    daemon.ctr("snapshots", "label", "c", "containerd.io/gc.root=")
    collect(daemon)
    assert trees(daemon) == ([], 0)


def test_a_lease_keeps_what_was_made_under_it(daemon):
    with daemon.client() as client:
        lease = client.leases.create(leases.CreateRequest()).id
        with client.using(lease=lease) as under:
            with under.content.write() as stream:
                stream.send(content.WriteRequest(ref="r", action="commit", data=b"kept"))
                digest = stream.receive().digest
            under.snapshots.prepare(snapshots.PrepareRequest(snapshotter="overlayfs", key="s"))
        with client.content.write() as stream:
            stream.send(content.WriteRequest(ref="r2", action="commit", data=b"not kept"))
            stream.receive()
        client.snapshots.prepare(snapshots.PrepareRequest(snapshotter="overlayfs", key="s2"))
        collect(daemon)
        assert blobs(daemon) == ({digest}, {digest})
        assert trees(daemon)[0] == ["s"]
        (block,) = client.leases.list_resources(leases.ListResourcesRequest(id=lease))
        assert LeaseResource(id=digest, type="content") in block.resources
        client.leases.delete(leases.DeleteRequest(id=lease, sync=True))
        assert blobs(daemon) == (set(), set())
        assert trees(daemon) == ([], 0)
        with pytest.raises(errors.NotFound, match=f"lease {lease}"), client.using(lease=lease) as under:
            under.snapshots.prepare(snapshots.PrepareRequest(snapshotter="overlayfs", key="s3"))


def test_a_lease_keeps_what_a_pull_under_it_found(daemon, pulled):
    name = pulled()
    with daemon.client() as client:
        lease = client.leases.create(leases.CreateRequest()).id
        with client.using(lease=lease) as under:
            list(under.transfer.transfer(request(name)))
        (block,) = client.leases.list_resources(leases.ListResourcesRequest(id=lease))
        assert {one.id for one in block.resources if one.type == "snapshots/overlayfs"} == set(trees(daemon)[0])
        client.images.delete(images.DeleteRequest(name=name))
        before = blobs(daemon), trees(daemon)
        collect(daemon)
        assert (blobs(daemon), trees(daemon)) == before
        client.leases.delete(leases.DeleteRequest(id=lease, sync=True))
        assert (blobs(daemon), trees(daemon)) == ((set(), set()), ([], 0))


def test_a_lease_that_a_connection_holds(daemon):
    with daemon.client() as client:
        client.leases.create(leases.CreateRequest(id="l"))
        stream = client.leases.hold(leases.HoldRequest(id="l", delete=True))
        with pytest.raises(errors.FailedPrecondition, match="a connection holds it"):
            client.leases.delete(leases.DeleteRequest(id="l"))
        stream.close()
        gone = threading.Event()
        for _ in range(1000):
            if not client.leases.list(leases.ListRequest()).leases:
                gone.set()
                break
            gone.wait(0.01)
        assert gone.is_set()


def test_why_and_prune(daemon, pulled):
    name = pulled()
    with daemon.client() as client:
        target = client.images.get(images.GetRequest(name=name)).target.digest
    rows, _ = blobs(daemon)
    told = {digest: daemon.ctr("content", "why", digest).stdout for digest in rows}
    assert told[target] == f"images {name} > content {target}\n"
    assert all(line.startswith(f"images {name} > content {target}") for line in told.values())
    assert daemon.ctr("content", "why", "sha256:" + "0" * 64, check=False).returncode == 1
    dry = daemon.ctr("content", "prune", "references", "--dry").stdout
    assert blobs(daemon)[0] == rows
    assert daemon.ctr("content", "prune", "references").stdout == dry
    left, files = blobs(daemon)
    assert (len(left), left) == (2, files)
    assert len(trees(daemon)[0]) == 1
    assert "--all" in daemon.ctr("images", "prune").stdout
    assert daemon.ctr("images", "prune", "--all").stdout == f"{name}\n"
    assert blobs(daemon) == (set(), set())


def test_ctr_leases(daemon):
    ctr = daemon.ctr
    assert ctr("leases", "create", "--id", "l", "-x", "1h30m", "a=b").stdout == "l\n"
    ctr("leases", "create", "--id", "m", "--expires", "0")
    rows = ctr("leases", "ls").stdout.splitlines()
    assert rows[0].split() == ["ID", "CREATED", "AT", "LABELS"]
    assert "a=b,containerd.io/gc.expire=" in rows[1]
    assert rows[2].split()[2] == "-"
    assert ctr("leases", "ls", "-q", "labels.a==b").stdout == "l\n"
    ctr("leases", "add", "l", "snapshots/overlayfs", "s")
    assert ctr("leases", "resources", "l").stdout.splitlines()[1].split() == ["snapshots/overlayfs", "s"]
    ctr("leases", "drop", "l", "snapshots/overlayfs", "s")
    assert ctr("leases", "resources", "-q", "l").stdout == ""
    failed = ctr("leases", "rm", "--sync", "l", "none", "m", check=False)
    assert (failed.returncode, failed.stdout) == (1, "l\nm\n")
    assert "lease none in namespace default not found" in failed.stderr
    assert ctr("leases", "create", "-x", "soon", check=False).returncode == 2


def test_bytes_of_no_record_go_at_the_start(daemon):
    daemon.stop()
    folder = daemon.root / "content/blobs/sha256"
    folder.mkdir(exist_ok=True)
    (folder / ("0" * 64)).write_bytes(b"rubbish")
    daemon.config.write_text(EAGER)
    daemon.start()
    collect(daemon)
    assert list(folder.iterdir()) == []
