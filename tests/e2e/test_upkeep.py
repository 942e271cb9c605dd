"""holdd fsck, backup and restore beside a daemon and without one; a daemon whose records are damaged; a full disk."""

import os
import subprocess

import pytest

from spec import errors
from spec.api import content, images, leases, transfer
from tests.daemon import BIN, Daemon
from tests.disks import MIB, disk
from tests.fake import Fake
from tests.root.test_full_disk import fill

EAGER = "[gc]\ndeletion_threshold = 1\nstartup_delay_s = 0\n"


@pytest.fixture
def fake():
    with Fake() as fake:
        fake.image("1", {"bin/a": os.urandom(2_000_000)})
        yield fake


def pull(daemon, fake, tag="1"):
    name = f"{fake.host}/app:{tag}"
    request = transfer.TransferRequest(
        source=transfer.Registry(reference=name, plain_http=True),
        destination=transfer.ImageStore(name=name, unpacks=[transfer.Unpack()]),
    )
    with daemon.client() as client:
        list(client.transfer.transfer(request))
    return name


def names(daemon):
    with daemon.client() as client:
        return [image.name for image in client.images.list(images.ListRequest()).images]


def holdd(daemon, *args):
    argv = [BIN / "holdd", *args, "--root", daemon.root, "--config", daemon.config]
    return subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)


def start(daemon):
    argv = [BIN / "holdd", "--root", daemon.root, "--state", daemon.state, "--config", daemon.config]
    return subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)


def test_a_damaged_store_stops_the_daemon_with_the_way_back(daemon, fake):
    name = pull(daemon, fake)
    assert (holdd(daemon, "fsck", "--hash").stdout, holdd(daemon, "fsck").returncode) == ("", 0)
    assert "another daemon has it" in holdd(daemon, "fsck", "--rebuild").stderr
    daemon.kill()
    data = daemon.root / "metadata/data.mdb"
    data.write_bytes(data.read_bytes()[:6000])
    kept = {path: path.read_bytes() for path in daemon.root.rglob("*") if path.is_file() and path.suffix != ".lock"}
    for _ in range(2):
        done = start(daemon)
        assert done.returncode == 65
        assert "it is damaged: " in done.stderr
        assert "holdd fsck --rebuild" in done.stderr
        assert "Traceback" not in done.stderr
    assert {path: path.read_bytes() for path in kept if path.exists()} == kept
    assert holdd(daemon, "fsck").returncode == 1
    rebuilt = holdd(daemon, "fsck", "--rebuild")
    assert (rebuilt.returncode, rebuilt.stdout) == (0, "")
    daemon.start()
    assert names(daemon) == [name]
    assert (holdd(daemon, "fsck", "--hash").stdout, holdd(daemon, "fsck").returncode) == ("", 0)
    assert daemon.ctr("images", "check").returncode == 0


def test_a_backup_beside_a_daemon_and_back(daemon, fake, tmp_path):
    name = pull(daemon, fake)
    assert holdd(daemon, "backup", tmp_path / "saved").returncode == 0
    with daemon.client() as client:
        client.images.delete(images.DeleteRequest(name=name))
    assert "another daemon has it" in holdd(daemon, "restore", tmp_path / "saved").stderr
    daemon.stop()
    assert holdd(daemon, "restore", tmp_path / "saved").returncode == 0
    daemon.start()
    assert names(daemon) == [name]
    assert holdd(daemon, "fsck", "--hash").returncode == 0


def test_blobs_alone_are_an_image_again(daemon, fake):
    name = pull(daemon, fake)
    with daemon.client() as client:
        target = client.images.get(images.GetRequest(name=name)).target
    daemon.stop()
    for file in ("data.mdb", "journal"):
        (daemon.root / "metadata" / file).unlink()
    assert f"images/recovered@{target.digest} made" in holdd(daemon, "fsck", "--rebuild").stdout
    daemon.config.write_text(EAGER)
    daemon.start()
    with daemon.client() as client:
        lease = client.leases.create(leases.CreateRequest())
        client.leases.delete(leases.DeleteRequest(id=lease.id, sync=True))  # collects
    assert names(daemon) == [f"recovered@{target.digest}"]
    assert holdd(daemon, "fsck", "--hash").returncode == 0


def test_on_a_full_disk_images_are_removed_and_their_room_is_used_at_once(fake, tmp_path):
    with disk(tmp_path, "ext4", 48 * MIB) as place:
        daemon = Daemon(tmp_path, EAGER)
        daemon.root = place / "root"
        with daemon:
            fake.image("2", {"bin/b": os.urandom(4_000_000)})
            name, other = pull(daemon, fake), pull(daemon, fake, "2")
            filler = fill(place)
            with daemon.client() as client, client.content.write() as stream:
                stream.send(content.WriteRequest(action="commit", ref="r", data=os.urandom(2_000_000)))
                with pytest.raises(errors.ResourceExhausted):
                    stream.receive()
            daemon.kill()
            daemon.start()
            with daemon.client() as client:
                client.images.delete(images.DeleteRequest(name=other))
                client.images.delete(images.DeleteRequest(name=name, sync=True))
                assert not list(client.content.list(content.ListRequest()))
            assert not list((daemon.root / "content/blobs/sha256").iterdir())
            assert pull(daemon, fake) == name
            assert holdd(daemon, "fsck", "--hash", "-q").stdout == ""
            filler.unlink()
