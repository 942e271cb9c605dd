"""A disk that does not take what is written: who wrote is told, what was acknowledged before stays."""

import contextlib
import os

import pytest

from daemon.kit import mounting
from spec import digest as digests
from spec import errors
from spec.api import content, images, introspection, leases
from spec.oci.image import Descriptor
from spec.records import Image
from tests.chaos.records import fsck
from tests.daemon import Daemon
from tests.disks import MIB, failing

pytestmark = pytest.mark.e2e
SIZE = MIB // 4


def blob(client, data):
    request = content.WriteRequest(action="commit", ref=digests.of(data), data=data)
    with client.content.write() as stream:
        stream.send(request)
        stream.receive()


def kept(client):
    names = {image.name for image in client.images.list(images.ListRequest()).images}
    found = {info.digest for block in client.content.list(content.ListRequest()) for info in block.info}
    return names, found


def metadata(client):
    """What the daemon says of its records: a status, and why."""
    for plugin in client.introspection.plugins(introspection.PluginsRequest()).plugins:
        if plugin.type == "io.holdd.metadata.v1":
            return plugin.status, plugin.init_error
    raise AssertionError("there is no such plugin")


class Writer:
    """Writes blobs and images, and knows what was acknowledged, and the last error."""

    def __init__(self, client):
        client.leases.create(leases.CreateRequest(id="mine"))
        self.client = client
        self.leased = client.using(lease="mine")
        self.names, self.found, self.error = set(), set(), None

    def write(self, number):
        data = os.urandom(SIZE)
        digest = digests.of(data)
        with self.acknowledging(self.found, digest):
            blob(self.leased, data)
        target = Descriptor(media_type="a/b", digest=digest, size=1)
        with self.acknowledging(self.names, f"i{number}"):
            self.client.images.create(images.CreateRequest(image=Image(name=f"i{number}", target=target)))

    @contextlib.contextmanager
    def acknowledging(self, among, what):
        try:
            yield
            among.add(what)
        except (errors.Error, EOFError) as exc:
            self.error = exc


@contextlib.contextmanager
def ended(daemon):
    """Whatever becomes of the block, the daemon is gone afterwards, with what it has mounted."""
    try:
        yield
    finally:
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.kill()
        if os.path.ismount(daemon.state):
            mounting.detach(str(daemon.state))


@pytest.mark.parametrize("at", [7, 20])
@pytest.mark.parametrize("way", ["fail", "end"])
def test_what_was_acknowledged_outlives_a_disk_that_fails(tmp_path, way, at):
    daemon = Daemon(tmp_path)
    with failing(tmp_path) as disk, ended(daemon):
        daemon.root = disk.path / "root"
        with daemon.start().client() as client:
            writer = Writer(client)
            for number in range(at):
                writer.write(number)
            assert writer.error is None
            (disk.fail if way == "fail" else disk.end)()
            for number in range(at, at + 500):
                writer.write(number)
                if metadata(client)[0] == "error":
                    break
            assert "nothing is written" in metadata(client)[1]
            assert metadata(client)[1] in daemon.log.read_text()
            names = set(writer.names)
            writer.write(1000)
            assert isinstance(writer.error, errors.DataLoss)
            assert kept(client)[0] >= names, "reads go on"
        daemon.kill()
        if way == "fail":
            disk.mend()
        disk.again()
        fsck(daemon)
        with daemon, daemon.client() as client:
            there = kept(client)
            assert writer.names <= there[0]
            assert writer.found <= there[1]
            assert metadata(client) == ("ok", "")
            blob(client, b"new")
