"""Importing what other people's tools have exported: from a file, a directory and a pipe."""

import gzip
import json
import os
import select
import subprocess
from datetime import UTC, datetime

import pytest
import zstandard

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
        assert [image.name for image in client.images.list(images.ListRequest()).images] == [NAME, "other:1"]
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


# What docker save writes


@pytest.fixture(scope="module")
def saved(exported):
    """The same image as skopeo writes it for docker, with links in place of layers."""
    source, target = f"oci-archive:{exported}/archive.tar:{NAME}", f"docker-archive:{exported}/docker.tar:{NAME}"
    subprocess.run(["skopeo", "--insecure-policy", "copy", "--quiet", source, target], check=True)
    return exported


def layers(daemon, name):
    """Media types, digests and labels of an image's layers."""
    with daemon.client() as client:

        def read(digest):
            return json.loads(b"".join(part.data for part in client.content.read(content.ReadRequest(digest=digest))))

        manifest = read(client.images.get(images.GetRequest(name=name)).target.digest)
        diff_ids = read(manifest["config"]["digest"])["rootfs"]["diff_ids"]
        found = [(layer["mediaType"], layer["digest"]) for layer in manifest["layers"]]
        for (_, digest), diff_id in zip(found, diff_ids, strict=True):
            labels = client.content.info(content.InfoRequest(digest=digest)).labels
            assert labels["containerd.io/uncompressed"] == diff_id
        return found, diff_ids


@pytest.mark.parametrize("packed", ["", "gzip", "zstd"])
@pytest.mark.parametrize("way", ["file", "pipe"])
def test_a_docker_archive_is_imported_and_runs(daemon, saved, tmp_path, way, packed):
    archive = saved / "docker.tar"
    if packed:
        data = archive.read_bytes()
        archive = tmp_path / "packed"
        archive.write_bytes(gzip.compress(data, 1) if packed == "gzip" else zstandard.compress(data))
    if way == "pipe":
        piped(daemon, archive)
    else:
        daemon.ctr("images", "import", archive)
    assert daemon.ctr("images", "ls", "-q").stdout.split() == [NAME]
    assert daemon.ctr("run", "--rm", NAME, "c", "cat", "/etc/motd").stdout == "hello from team/app:1\n"
    found, diff_ids = layers(daemon, NAME)
    assert found == [("application/vnd.docker.image.rootfs.diff.tar", diff_id) for diff_id in diff_ids]


def test_dockers_layers_are_compressed_if_wanted(daemon, saved):
    daemon.ctr("images", "import", "--compress-blobs", saved / "docker.tar")
    found, diff_ids = layers(daemon, NAME)
    assert {media_type for media_type, _ in found} == {"application/vnd.docker.image.rootfs.diff.tar.gzip"}
    assert not {digest for _, digest in found} & set(diff_ids)
    assert daemon.ctr("run", "--rm", NAME, "c", "cat", "/etc/motd").stdout == "hello from team/app:1\n"


def test_names(daemon, saved, tmp_path):
    """One image without and with a whole name, by digest and by the index."""
    daemon.ctr("images", "import", "--no-unpack", "--digests", "--index-name", "all", saved / "docker.tar")
    with daemon.client() as client:
        named = {image.name: image.target.digest for image in client.images.list(images.ListRequest()).images}
    (by_digest,) = set(named) - {NAME, "all"}
    assert by_digest == f"{datetime.now(UTC):import-%Y-%m-%d}@{named[NAME]}"
    assert set(named.values()) == {named[NAME]}
    argv = ("images", "import", "--no-unpack", "--base-name")
    done = daemon.ctr(*argv, "example.org/team/ap", saved / "docker.tar", check=False)
    assert "no image of example.org/team/ap" in done.stderr
    daemon.ctr(*argv, "example.org/team", "--digests", "--skip-digest-for-named", saved / "docker.tar")
    assert len(daemon.ctr("images", "ls", "-q").stdout.split()) == 3


def test_the_index_of_several(daemon, exported, tmp_path):
    daemon.ctr("images", "import", "--quiet", exported / "archive.tar")
    daemon.ctr("images", "tag", NAME, "example.org/team/app:2")
    daemon.ctr("images", "import", "--quiet", "--index-name", "plain:3", saved_twice(exported, tmp_path))
    assert daemon.ctr("run", "--rm", "plain:3", "c", "cat", "/etc/motd").stdout == "hello from team/app:1\n"
    daemon.ctr("images", "export", "--quiet", "--all-platforms", tmp_path / "again.tar", "plain:3")


def saved_twice(exported, tmp_path):
    """A layout whose index names the same image as two: one of them has one more label."""
    subprocess.run(["cp", "-a", exported / "layout", tmp_path / "twice"], check=True)
    argv = ["umoci", "config", "--image", f"{tmp_path}/twice:{NAME}", "--tag", "second", "--config.label", "a=b"]
    subprocess.run(argv, check=True)
    return tmp_path / "twice"
