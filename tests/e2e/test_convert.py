"""An image in another form runs, is pushed, and is what other people's tools take it for."""

import json
import subprocess

import pytest

from spec.api import content, images
from tests.registry import Registry, make_image

NAME = "example.org/team/app:1"


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A docker archive: Docker's media types, layers that are not compressed."""
    directory = tmp_path_factory.mktemp("archive")
    with Registry(directory / "registry") as registry:
        make_image(directory, registry, "team/app:1")
        skopeo(f"docker://{registry.host}/team/app:1", f"docker-archive:{directory}/docker.tar:{NAME}")
    return directory / "docker.tar"


def skopeo(*arguments):
    argv = ["skopeo", "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", *map(str, arguments)]
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)


def manifest(daemon, name):
    with daemon.client() as client:
        target = client.images.get(images.GetRequest(name=name)).target
        body = b"".join(part.data for part in client.content.read(content.ReadRequest(digest=target.digest)))
    return target, json.loads(body)


def test_converted_pushed_pulled_run(daemon, archive, tmp_path):
    daemon.ctr("images", "import", "--quiet", "--no-unpack", archive)
    told = daemon.ctr("images", "convert", "--oci", "--zstd", "--json", NAME, "new:zstd").stdout.splitlines()
    assert [json.loads(line)["event"] for line in told][-2:] == ["Completed conversion", "saved"]
    target, document = manifest(daemon, "new:zstd")
    assert target.media_type == "application/vnd.oci.image.manifest.v1+json"
    assert {layer["mediaType"] for layer in document["layers"]} == {"application/vnd.oci.image.layer.v1.tar+zstd"}
    daemon.ctr("images", "rm", "--sync", NAME)
    daemon.ctr("images", "unpack", "new:zstd")
    assert daemon.ctr("run", "--rm", "new:zstd", "c", "cat", "/etc/motd").stdout == "hello from team/app:1\n"
    with Registry(tmp_path / "registry") as registry:
        remote = f"{registry.host}/team/app:zstd"
        daemon.ctr("images", "push", "--quiet", "--plain-http", remote, "new:zstd")
        skopeo(f"docker://{remote}", f"dir:{tmp_path}/dir")
        assert json.loads((tmp_path / "dir/manifest.json").read_bytes()) == document
        daemon.ctr("images", "rm", "--sync", "new:zstd")
        daemon.ctr("images", "pull", "--quiet", "--plain-http", remote)
        assert daemon.ctr("run", "--rm", remote, "c", "cat", "/etc/motd").stdout == "hello from team/app:1\n"


def test_what_is_so_already_is_one_more_name(daemon, archive):
    daemon.ctr("images", "import", "--quiet", archive)
    for flag in ("--uncompress", "--gzip", "--gzip"):
        daemon.ctr("images", "convert", "--quiet", flag, NAME, "same:1")
        same = manifest(daemon, "same:1")[0].digest == manifest(daemon, NAME)[0].digest
        assert same == (flag == "--uncompress")
    assert daemon.ctr("run", "--rm", "same:1", "c", "true").returncode == 0
    done = daemon.ctr("images", "convert", "nosuch:1", "same:1", check=False)
    assert "nosuch:1" in done.stderr
    assert daemon.ctr("images", "convert", "--gzip", "--zstd", NAME, "b:1", check=False).returncode == 2
