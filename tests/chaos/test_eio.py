"""A disk that does not take what is written: who wrote is told, what was acknowledged before stays."""

import contextlib
import os
import subprocess
from pathlib import Path

import pytest

from daemon.kit import mounting
from spec import digest as digests
from spec import errors
from spec.api import content, images, leases
from spec.api.version import VersionRequest
from spec.oci.image import Descriptor
from spec.records import Image
from spec.types import Mount
from tests.chaos.records import fsck
from tests.daemon import Daemon
from tests.disks import MIB, disk, fill

pytestmark = pytest.mark.e2e


@contextlib.contextmanager
def failing(tmp_path):
    """A filesystem on an image that has no room to grow once the function is called: then what it writes back fails,
    though it has room itself. Where it is mounted, the image, and the function."""
    with disk(tmp_path, "ext4", 200 * MIB) as outer:
        (outer / "inner").mkdir()
        with disk(outer / "inner", "ext4", 400 * MIB) as inner:
            yield inner, outer / "inner/disk.img", lambda: fill(outer)


def blob(client, data):
    request = content.WriteRequest(action="commit", ref=digests.of(data), data=data)
    with client.content.write() as stream:
        stream.send(request)
        stream.receive()


def kept(client):
    names = {image.name for image in client.images.list(images.ListRequest()).images}
    found = {info.digest for block in client.content.list(content.ListRequest()) for info in block.info}
    return names, found


def test_what_was_acknowledged_outlives_a_disk_that_fails(tmp_path):
    with failing(tmp_path) as (place, image, fail):
        daemon = Daemon(tmp_path)
        daemon.root = place / "root"
        names, found, refused = set(), set(), 0
        with daemon.start().client() as client:
            client.leases.create(leases.CreateRequest(id="mine"))
            leased = client.using(lease="mine")
            for number in range(100):
                if number == 20:
                    fail()
                data = os.urandom(MIB)
                with contextlib.suppress(errors.Error, EOFError):
                    refused += 1
                    blob(leased, data)
                    found.add(digests.of(data))
                    refused -= 1
                record = Image(name=f"i{number}", target=Descriptor(media_type="a/b", digest=digests.of(data), size=1))
                with contextlib.suppress(errors.Error):
                    client.images.create(images.CreateRequest(image=record))
                    names.add(record.name)
                if refused > 10:
                    break
            assert refused
            with contextlib.suppress(errors.Unavailable):  # it has given up, and that is fine too
                client.version.version(VersionRequest())
        if daemon.process.poll() is None:
            daemon.kill()
        mounting.detach(str(place))
        (Path(image).parent.parent / "filler").unlink()
        assert subprocess.run(["e2fsck", "-fy", image], capture_output=True, check=False).returncode in (0, 1)
        mounting.attach([Mount(type="ext4", source=str(image), options=("loop",))], str(place))
        fsck(daemon)
        with daemon, daemon.client() as client:
            there = kept(client)
            assert names <= there[0]
            assert found <= there[1]
            blob(client, b"new")
