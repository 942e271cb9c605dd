"""Exporting, and what other people's tools make of it: skopeo, umoci, containerd, and ourselves."""

import hashlib
import json
import os
import shutil
import subprocess
import tarfile

import pytest

from spec import errors
from spec.api import content, images, transfer
from tests.bench import containerd
from tests.daemon import Daemon
from tests.registry import Registry, make_image

NAME = "example.org/team/app:1"
OTHER = "example.org/team/other:2"


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """Two images that share a layer, as OCI archives."""
    directory = tmp_path_factory.mktemp("origin")
    with Registry(directory / "registry") as registry:
        for name, tag in ((NAME, "app:1"), (OTHER, "other:2")):
            make_image(directory, registry, f"team/{tag}")
            skopeo(f"docker://{registry.host}/team/{tag}", f"oci-archive:{directory}/{tag[:-2]}.tar:{name}")
    return directory


@pytest.fixture
def daemon(tmp_path, origin):
    with Daemon(tmp_path, "[gc]\npause_threshold = 0\nstartup_delay_s = 3600\n") as daemon:
        for name in ("app", "other"):
            daemon.ctr("images", "import", "--quiet", origin / f"{name}.tar")
        yield daemon


def skopeo(*arguments):
    argv = ["skopeo", "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", *map(str, arguments)]
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)


def members(path):
    with tarfile.open(path) as archive:
        return {info.name: archive.extractfile(info).read() for info in archive if info.isfile()}


def digest(daemon, name):
    with daemon.client() as client:
        return client.images.get(images.GetRequest(name=name)).target.digest


def test_a_round_trip_is_the_same_to_the_byte(daemon, origin, tmp_path):
    daemon.ctr("images", "export", tmp_path / "one.tar", NAME, OTHER)
    made = members(tmp_path / "one.tar")
    for name, body in made.items():
        if name.startswith("blobs/"):
            assert hashlib.sha256(body).hexdigest() == name.rpartition("/")[2]
    for name in ("app", "other"):
        theirs = {key: body for key, body in members(origin / f"{name}.tar").items() if key.startswith("blobs/")}
        assert theirs.items() <= made.items()
    assert list(made) == sorted(made)
    (tmp_path / "second").mkdir()
    with Daemon(tmp_path / "second") as second:
        second.ctr("images", "import", tmp_path / "one.tar")
        for name in (NAME, OTHER):
            assert digest(second, name) == digest(daemon, name)
        assert second.ctr("run", "--rm", NAME, "c", "cat", "/etc/motd").stdout == "hello from team/app:1\n"
        second.ctr("images", "export", tmp_path / "two.tar", NAME, OTHER)
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()


def test_to_a_pipe_and_to_nobody(daemon, tmp_path):
    daemon.ctr("images", "export", "--quiet", tmp_path / "one.tar", NAME)
    with (
        (tmp_path / "piped.tar").open("wb") as out,
        subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=out) as cat,
    ):
        options = {"capture_output": False, "stdout": cat.stdin, "stderr": subprocess.PIPE}
        done = daemon.ctr("images", "export", "-", NAME, **options)
        cat.stdin.close()
    assert "Completed export" in done.stderr
    assert (tmp_path / "piped.tar").read_bytes() == (tmp_path / "one.tar").read_bytes()
    read, write = os.pipe()
    os.close(read)
    options = {"capture_output": False, "stdout": write, "stderr": subprocess.PIPE}
    done = daemon.ctr("images", "export", "-", NAME, check=False, **options)
    os.close(write)
    assert done.returncode == 1
    assert "exporting" in done.stderr


def test_other_tools_read_it(daemon, tmp_path):
    archive = tmp_path / "one.tar"
    daemon.ctr("images", "export", archive, NAME)
    skopeo(f"oci-archive:{archive}:1", f"dir:{tmp_path}/oci")
    assert hashlib.sha256((tmp_path / "oci/manifest.json").read_bytes()).hexdigest() == digest(daemon, NAME)[7:]
    skopeo(f"docker-archive:{archive}:{NAME}", f"dir:{tmp_path}/docker")
    config = json.loads((tmp_path / "docker/manifest.json").read_bytes())["config"]["digest"]
    assert config == json.loads((tmp_path / "oci/manifest.json").read_bytes())["config"]["digest"]
    (tmp_path / "layout").mkdir()
    subprocess.run(["tar", "-xf", archive, "-C", tmp_path / "layout"], check=True)
    subprocess.run(["umoci", "unpack", "--image", f"{tmp_path}/layout:1", tmp_path / "bundle"], check=True)
    assert (tmp_path / "bundle/rootfs/etc/motd").read_text() == "hello from team/app:1\n"
    (tmp_path / "peer").mkdir()
    with containerd.running(tmp_path / "peer") as peer:
        ctr = [shutil.which("ctr", path="/usr/bin"), "-a", peer.address, "images"]
        subprocess.run([*ctr, "import", "--no-unpack", archive], check=True, capture_output=True)
        listed = subprocess.run([*ctr, "ls"], check=True, capture_output=True, text=True).stdout
        assert NAME in listed
        assert digest(daemon, NAME) in listed
        subprocess.run([*ctr, "export", tmp_path / "theirs.tar", NAME], check=True, capture_output=True)
    (tmp_path / "second").mkdir()
    with Daemon(tmp_path / "second") as second:
        second.ctr("images", "import", tmp_path / "theirs.tar")
        assert digest(second, NAME) == digest(daemon, NAME)


def test_without_what_docker_reads(daemon, tmp_path):
    daemon.ctr("images", "export", "--skip-manifest-json", tmp_path / "one.tar", NAME)
    assert "manifest.json" not in members(tmp_path / "one.tar")


def test_what_is_not_here_leaves_what_was_there(daemon, tmp_path):
    (tmp_path / "one.tar").write_text("before")
    done = daemon.ctr("images", "export", tmp_path / "one.tar", NAME, "example.org/nosuch:1", check=False)
    assert "nosuch" in done.stderr
    layer = next(name for name in members_of(daemon) if name.startswith("sha256:"))
    with daemon.client() as client:
        client.content.delete(content.DeleteRequest(digest=layer))
    done = daemon.ctr("images", "export", tmp_path / "one.tar", NAME, check=False)
    assert done.returncode == 1
    assert layer in done.stderr
    assert (tmp_path / "one.tar").read_text() == "before"
    assert not [*tmp_path.glob("*.partial")]


def members_of(daemon):
    """Digests of the layers of NAME."""
    with daemon.client() as client:
        read = client.content.read(content.ReadRequest(digest=digest(daemon, NAME)))
        return [layer["digest"] for layer in json.loads(b"".join(part.data for part in read))["layers"]]


def test_a_damaged_blob_is_found(daemon, tmp_path):
    layer = members_of(daemon)[0]
    path = next(tmp_path.rglob(f"blobs/sha256/{layer[7:]}"))
    body = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(body[:-1] + bytes([body[-1] ^ 1]))
    done = daemon.ctr("images", "export", tmp_path / "one.tar", NAME, check=False)
    assert layer in done.stderr
    assert not (tmp_path / "one.tar").exists()


def test_who_gives_up_while_nobody_reads(daemon):
    """The daemon lets go of its end."""
    read, write = os.pipe()
    source = transfer.ImageStore(name=NAME)
    with daemon.client() as client:
        stream = client.transfer.transfer(
            transfer.TransferRequest(source=source, destination=transfer.Archive()), [write]
        )
        os.close(write)
        assert next(iter(stream)).event == "Exporting"
        stream.close()
        while os.read(read, 1 << 16):
            pass  # until the end: it is closed
    os.close(read)
    with daemon.client() as client, pytest.raises(errors.InvalidArgument, match="one descriptor"):
        list(client.transfer.transfer(transfer.TransferRequest(source=source, destination=transfer.Archive())))
