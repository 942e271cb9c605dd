"""Importing what other people's tools have exported: from a file, a directory and a pipe."""

import os
import select
import subprocess

import pytest

from spec import errors
from spec.api import content, images, snapshots, transfer
from tests.registry import Registry, make_image

NAME = "example.org/team/app:1"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The same image as a directory and as a tar."""
    directory = tmp_path_factory.mktemp("exported")
    with Registry(directory / "registry") as registry:
        make_image(directory, registry, "team/app:1")
        for target in (f"oci:{directory}/layout:{NAME}", f"oci-archive:{directory}/archive.tar:{NAME}"):
            source = f"docker://{registry.host}/team/app:1"
            argv = ["skopeo", "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", source, target]
            subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
    return directory


def piped(daemon, path, *args):
    with path.open("rb") as source, subprocess.Popen(["cat"], stdin=source, stdout=subprocess.PIPE) as cat:
        return daemon.ctr("images", "import", *args, "-", stdin=cat.stdout)


@pytest.mark.parametrize("way", ["archive.tar", "layout", "pipe"])
def test_an_image_is_imported_and_runs(daemon, exported, way):
    if way == "pipe":
        piped(daemon, exported / "archive.tar")
    else:
        daemon.ctr("images", "import", exported / way)
    assert daemon.ctr("images", "ls", "-q").stdout.split() == [NAME]
    assert daemon.ctr("run", "--rm", NAME, "c", "cat", "/etc/motd").stdout == "hello from team/app:1\n"


def test_content_alone(daemon, exported):
    daemon.ctr("images", "import", "--no-unpack", "--index-name", "other:1", exported / "layout")
    with daemon.client() as client:
        assert [image.name for image in client.images.list(images.ListRequest()).images] == ["other:1"]
        assert not [*client.snapshots.list(snapshots.ListRequest(snapshotter="overlayfs"))]


def test_a_bad_blob_leaves_nothing(daemon, exported, tmp_path):
    subprocess.run(["cp", "-a", exported / "layout", tmp_path / "bad"], check=True)
    largest = max((tmp_path / "bad/blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1] + b"x")
    done = daemon.ctr("images", "import", tmp_path / "bad", check=False)
    assert done.returncode
    assert largest.name in done.stderr
    with daemon.client() as client:
        assert not client.images.list(images.ListRequest()).images
        kept = [info.digest for block in client.content.list(content.ListRequest()) for info in block.info]
        assert f"sha256:{largest.name}" not in kept


def test_what_is_no_archive(daemon, tmp_path):
    (tmp_path / "text").write_text("no tar" * 1000)
    done = daemon.ctr("images", "import", tmp_path / "text", check=False)
    assert done.returncode
    assert "tar" in done.stderr
    assert "No such file" in daemon.ctr("images", "import", tmp_path / "nosuch", check=False).stderr
    request = transfer.TransferRequest(source=transfer.Archive(), destination=transfer.ImageStore())
    with daemon.client() as client, pytest.raises(errors.InvalidArgument, match="one descriptor"):
        list(client.transfer.transfer(request))


def test_who_gives_up_while_a_pipe_is_silent(daemon):
    """Nothing is left open: the daemon lets go of its end."""
    read, write = os.pipe()
    request = transfer.TransferRequest(source=transfer.Archive(), destination=transfer.ImageStore())
    with daemon.client() as client:
        stream = client.transfer.transfer(request, [read])
        os.close(read)
        stream.close()
        poll = select.poll()
        poll.register(write, 0)
        assert poll.poll(30_000) == [(write, select.POLLERR)]
    os.close(write)
