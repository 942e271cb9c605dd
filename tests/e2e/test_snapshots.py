"""Snapshots and images on disk through a real daemon: every verb of ctr, damages found and put right."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from spec import digest as digests
from spec import errors
from spec.api import content, images, snapshots, transfer
from tests.daemon import Daemon
from tests.fake import Fake
from tests.fake import layer as fake_layer
from tests.registry import BUSYBOX

ZERO = "sha256:" + "0" * 64
SNAPSHOTTERS = ("overlayfs", "native")
BASE = {"bin/busybox": Path(BUSYBOX).read_bytes(), "etc/b": b"b", "etc/c": b"c", "lib/deep/er/d": b"d"}
TOP = {"etc/b": b"other", "etc/.wh.c": b"", "new/e": b"e" * 3000, "new/f": b"f"}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    # Snapshots are taken away one by one: nothing else shall take what then stands unreferenced.
    idle = "[gc]\npause_threshold = 0\nstartup_delay_s = 3600\n"
    with Fake() as fake, Daemon(tmp_path_factory.mktemp("snapshots"), idle) as daemon:
        layered(fake, "1", BASE, TOP)
        daemon.ref = f"{fake.host}/a:1"
        for snapshotter in SNAPSHOTTERS:
            daemon.ctr("images", "pull", "--plain-http", "--snapshotter", snapshotter, daemon.ref)
        yield daemon


def layered(fake, tag, *layers):
    """An image of several layers."""
    made = [fake_layer(files) for files in layers]
    config = {
        "os": "linux",
        "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": [diff_id for _, diff_id in made]},
    }
    body = json.dumps(config).encode()
    document = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": fake.blob(body),
            "size": len(body),
        },
        "layers": [
            {
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                "digest": fake.blob(data),
                "size": len(data),
            }
            for data, _ in made
        ],
    }
    return fake.manifest(tag, document)


def table(text):
    return [line.split() for line in text.splitlines()]


def documents(daemon):
    """The image's manifest and config."""
    with daemon.client() as client:
        target = client.images.get(images.GetRequest(name=daemon.ref)).target
    manifest = json.loads(daemon.ctr("content", "get", target.digest).stdout)
    return manifest, json.loads(daemon.ctr("content", "get", manifest["config"]["digest"]).stdout)


def chain(daemon):
    return digests.chain_ids(documents(daemon)[1]["rootfs"]["diff_ids"])


def keys(daemon, snapshotter="overlayfs"):
    return set(daemon.ctr("snapshots", "--snapshotter", snapshotter, "ls", "-q").stdout.split())


@pytest.fixture
def whole(daemon):
    """The daemon, whose snapshots, blobs and image are those of before when the test ends."""
    before = {snapshotter: keys(daemon, snapshotter) for snapshotter in SNAPSHOTTERS}
    yield daemon
    assert before == {snapshotter: keys(daemon, snapshotter) for snapshotter in SNAPSHOTTERS}


# Snapshots.


@pytest.mark.parametrize("snapshotter", SNAPSHOTTERS)
def test_a_snapshots_life(whole, snapshotter):
    def ctr(*args, **options):
        return whole.ctr("snapshots", "--snapshotter", snapshotter, *args, **options).stdout

    top = chain(whole)[-1]
    commands = ctr("prepare", "-t", "/mnt/a b", "key", top)
    assert commands.startswith("mount -t ")
    assert " '/mnt/a b' -o " in commands
    assert ctr("mounts", "/mnt/a b", "key") == commands == ctr("m", "/mnt/a b", "key")
    ctr("commit", "name", "key")
    info = json.loads(ctr("info", "name"))
    assert (info["name"], info["parent"], info["kind"]) == ("name", top, 3)
    assert "containerd.io/gc.root" in info["labels"]
    (mount,) = json.loads(ctr("view", "--mounts", "seen", "name"))
    assert {"type", "options"} <= mount.keys()
    assert "labels" not in json.loads(ctr("info", "seen"))
    assert ctr("label", "seen", "a=b", "c") == "a=b,c=true\n"
    assert ctr("label", "seen", "a=") == "c=true\n"
    assert table(ctr("ls", "kind==view,labels.c==true")) == [["KEY", "PARENT", "KIND"], ["seen", "name", "View"]]
    assert table(ctr("ls", "name==seen", "name==name", "-q")) == [["name"], ["seen"]]
    assert "children" in whole.ctr("snapshots", "--snapshotter", snapshotter, "rm", "name", check=False).stderr
    assert ctr("rm", "seen", "name") == ""


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("prepare", "key", "none"), "parent snapshot none not found"),
        (("view", "key", "none"), "parent snapshot none not found"),
        (("commit", "name", "none"), "none not found"),
        (("mounts", "/mnt", "none"), "none not found"),
        (("info", "none"), "none not found"),
        (("label", "none", "a=b"), "none not found"),
        (("usage", "none"), "none not found"),
        (("rm", "none"), "none not found"),
        (("ls", "kind="), "filter"),
        (("--snapshotter", "nonsense", "ls"), "snapshotter nonsense is unknown"),
        (("unpack", ZERO), f"unpacking {ZERO}"),
    ],
)
def test_what_is_not_there(whole, args, said):
    done = whole.ctr("snapshots", *args, check=False)
    assert done.returncode == 1
    assert said in done.stderr


# Images.


def test_an_image_is_mounted_and_unmounted(whole, tmp_path):
    (tmp_path / "at").mkdir()
    target = str(tmp_path / "at")
    assert whole.ctr("images", "mount", whole.ref, target).stdout == f"{target}\n"
    try:
        assert (tmp_path / "at/etc/b").read_bytes() == TOP["etc/b"]
        assert not (tmp_path / "at/etc/c").exists()
        with pytest.raises(OSError, match="Read-only"):
            (tmp_path / "at/etc/b").write_bytes(b"")
        assert target in keys(whole)
        assert whole.ctr("images", "mount", whole.ref, target, check=False).returncode == 1
    finally:
        assert whole.ctr("images", "unmount", target).stdout == f"{target}\n"
    assert list((tmp_path / "at").iterdir()) == []
    assert target in keys(whole)
    whole.ctr("images", "unmount", "--rm", target)
    assert "shows no snapshot" in whole.ctr("images", "unmount", "--rm", target, check=False).stderr


@pytest.mark.parametrize("snapshotter", SNAPSHOTTERS)
def test_an_image_is_mounted_to_write_to(whole, snapshotter):
    flags = ("--snapshotter", snapshotter)
    target = whole.ctr("images", "mount", "--rw", *flags, "--snapshotter-label", "a=b", whole.ref).stdout.strip()
    try:
        with open(f"{target}/etc/b", "w") as opened:
            opened.write("mine")
        assert subprocess.run(["cat", f"{target}/etc/b"], capture_output=True, check=True).stdout == b"mine"
        info = json.loads(whole.ctr("snapshots", *flags, "info", target).stdout)
        assert info["labels"].keys() == {"a", "containerd.io/gc.root"}
    finally:
        whole.ctr("images", "unmount", "--rm", *flags, target)
        os.rmdir(target)


def test_a_mount_that_ends_by_itself(whole, tmp_path):
    """A lease of that length keeps its snapshot."""
    before = set(whole.ctr("leases", "ls", "-q").stdout.split())
    (tmp_path / "none").mkdir()
    flags = ("-x", "1h", "--snapshotter", "nosuch")
    failed = whole.ctr("images", "mount", *flags, whole.ref, tmp_path / "none", check=False)
    assert failed.returncode == 1
    assert set(whole.ctr("leases", "ls", "-q").stdout.split()) == before
    target = whole.ctr("images", "mount", "--expiration", "1h", whole.ref).stdout.strip()
    try:
        (lease,) = set(whole.ctr("leases", "ls", "-q").stdout.split()) - before
        assert target in whole.ctr("leases", "resources", lease).stdout
        assert "containerd.io/gc.expire" in whole.ctr("leases", "ls", f"id=={lease}").stdout
        assert "containerd.io/gc.root" not in whole.ctr("snapshots", "info", target).stdout
        assert target in keys(whole)
    finally:
        whole.ctr("images", "unmount", target)
        os.rmdir(target)
    whole.ctr("leases", "rm", "--sync", lease)
    assert target not in keys(whole)


def test_a_mount_that_fails_leaves_nothing(whole, tmp_path):
    for args in ((whole.ref, tmp_path / "none"), ("nosuch:1",), ("--platform", "linux/nosuch", whole.ref, "x")):
        assert whole.ctr("images", "mount", *args, check=False).returncode == 1


def test_an_image_is_unpacked_again(whole):
    for name in reversed(chain(whole)):
        whole.ctr("snapshots", "rm", name)
    assert table(whole.ctr("images", "check").stdout)[1][-1] == "false"
    assert "not found" in whole.ctr("images", "usage", whole.ref, check=False).stderr
    assert "extracted" in whole.ctr("images", "unpack", whole.ref).stdout
    assert table(whole.ctr("images", "check").stdout)[1][-1] == "true"
    assert [row[0] for row in table(whole.ctr("images", "usage", whole.ref).stdout)] == ["KEY", *chain(whole)]
    assert whole.ctr("images", "ls", "-q").stdout == f"{whole.ref}\n"


@pytest.mark.parametrize("which", ["target", "config"])
def test_a_digest_is_unpacked(whole, which):
    manifest, _ = documents(whole)
    with whole.client() as client:
        target = client.images.get(images.GetRequest(name=whole.ref)).target.digest
    whole.ctr("snapshots", "rm", chain(whole)[-1])
    digest = target if which == "target" else manifest["config"]["digest"]
    assert whole.ctr("snapshots", "unpack", digest).stdout == f"{chain(whole)[-1]}\n"


def test_unpacking_what_is_not_all_here(whole):
    """The same image in another namespace, without its layers."""
    manifest, _ = documents(whole)
    with whole.client() as mine, whole.client("other") as client:
        target = mine.images.get(images.GetRequest(name=whole.ref)).target
        for digest in (target.digest, manifest["config"]["digest"]):
            body = whole.ctr("content", "get", digest).stdout
            done = whole.ctr("content", "ingest", "--expected-digest", digest, "k", namespace="other", input=body,
                             stdin=None)  # fmt: skip
            assert done.returncode == 0
        client.images.create(images.CreateRequest(image=mine.images.get(images.GetRequest(name=whole.ref))))
        request = transfer.TransferRequest(
            source=transfer.ImageStore(name=whole.ref),
            destination=transfer.ImageStore(name="second", unpacks=[transfer.Unpack()]),
        )
        with pytest.raises(errors.NotFound, match="sha256:"):
            list(client.transfer.transfer(request))
    row = table(whole.ctr("images", "check", f"name=={whole.ref}", namespace="other").stdout)[1]
    assert row[3:5] == ["incomplete", "(2/4)"]
    assert "missing" in whole.ctr("images", "inspect", whole.ref, namespace="other").stdout
    listed = table(whole.ctr("images", "ls", f"name=={whole.ref}", namespace="other").stdout)
    assert listed[1][5] == "linux/amd64"


def test_labels_of_images_and_blobs(whole):
    digest = documents(whole)[0]["layers"][0]["digest"]
    assert whole.ctr("images", "label", whole.ref, "a=b", "c").stdout == "a=b,c=true\n"
    assert whole.ctr("images", "label", "-r", whole.ref, "d=e").stdout == "d=e\n"
    assert whole.ctr("images", "label", whole.ref, "d=").stdout == "-\n"
    assert "a=b" in whole.ctr("content", "label", digest, "a=b").stdout
    assert "a=b" not in whole.ctr("content", "label", digest, "a=").stdout


def test_what_an_image_consists_of(whole):
    manifest, _ = documents(whole)
    lines = whole.ctr("images", "inspect", whole.ref).stdout.splitlines()
    assert lines[0] == whole.ref
    assert [line.split()[2] for line in lines[2:]] == [
        descriptor["digest"] for descriptor in (manifest["config"], *manifest["layers"])
    ]
    assert '"diff_ids": [' in whole.ctr("images", "i", "--content", whole.ref).stdout


# Content.


def test_content_is_ingested_edited_and_removed(whole):
    def ctr(*args, **options):
        return whole.ctr("content", *args, **options)

    body = '{"a": 1}'
    digest = digests.of(body.encode())
    wrong = ctr("ingest", "--expected-size", 3, "k", input=body, stdin=None, check=False)
    assert wrong.returncode == 1
    assert table(ctr("active").stdout)[1][:2] == ["k", "8"]
    assert ctr("active", "-q", "^x").stdout == ""
    assert ctr("active", "-q", "--timeout", "1m").stdout == "k\n"
    assert "is no duration" in ctr("active", "-t", "soon", check=False).stderr
    ctr("ingest", "--expected-digest", digest, "k", input=body, stdin=None)
    ctr("ingest", "--expected-digest", digest, "k", input=body, stdin=None)
    assert ctr("active", "-q").stdout == ""
    edited = digests.of(b'{"b": 1}')
    assert ctr("edit", "--editor", "sed -i s/a/b/", "--validate", "json", digest).stdout == f"{edited}\n"
    assert ctr("edit", "--editor", "true", digest).stdout == f"{digest}\n"
    assert ctr("edit", "--editor", "false", digest, check=False).returncode == 1
    assert "no JSON" in ctr("edit", "--editor", "sed -i s/.$//", "--validate", "json", digest, check=False).stderr
    assert ctr("verify", digest, edited).stdout == f"{digest}\n{edited}\n"
    assert ctr("rm", digest, edited).stdout == f"{digest}\n{edited}\n"
    assert ctr("verify", digest, check=False).returncode == 1


# Trust.


def own(daemon, snapshotter):
    """Where the top snapshot's own tree is."""
    with daemon.client() as client:
        request = snapshots.ViewRequest(snapshotter=snapshotter, key="own", parent=chain(daemon)[-1])
        (mount,) = client.snapshots.view(request).mounts
        client.snapshots.remove(snapshots.RemoveRequest(snapshotter=snapshotter, key="own"))
    lowers = [option.removeprefix("lowerdir=") for option in mount.options if option.startswith("lowerdir=")]
    return lowers[0].split(":")[0] if lowers else mount.source


@pytest.mark.parametrize("snapshotter", SNAPSHOTTERS)
def test_a_snapshot_is_repaired_beside_what_runs_on_it(whole, snapshotter):
    flags = ("--snapshotter", snapshotter)
    whole.ctr("run", "-d", *flags, whole.ref, "runs", "/bin/busybox", "sleep", "1000")
    directory = own(whole, snapshotter)
    before = os.stat(f"{directory}/new/e").st_mtime_ns
    with open(f"{directory}/new/e", "r+b") as opened:
        opened.write(b"E")
    os.utime(f"{directory}/new/e", ns=(before, before))
    os.remove(f"{directory}/new/f")
    os.chmod(f"{directory}/etc", 0o700)
    done = whole.ctr("images", "check", "--verify", *flags, check=False)
    assert done.returncode == 1
    found = [line[2:5] for line in table(done.stdout)[4:]]
    assert found == [["etc", "mode", "false"], ["new/e", "content", "false"], ["new/f", "missing", "false"]]
    assert whole.ctr("images", "check", "-q", "--verify", *flags, check=False).stdout == ""
    done = whole.ctr("images", "check", "--repair", *flags)
    assert [line[4] for line in table(done.stdout)[4:]] == ["true"] * 3
    assert whole.ctr("images", "check", "-q", "--verify", *flags).stdout == f"{whole.ref}\n"
    told = whole.ctr("run", "--rm", *flags, whole.ref, "anew", "/bin/busybox", "cat", "/new/e", "/new/f").stdout
    assert told.encode() == TOP["new/e"] + TOP["new/f"]
    whole.ctr("tasks", "exec", "--exec-id", "x", "runs", "/bin/busybox", "ls", "-l", "/new")
    whole.ctr("tasks", "rm", "-f", "runs")
    whole.ctr("containers", "rm", "runs")


def test_a_blob_that_is_damaged_is_told_and_nothing_repaired_from_it(whole):
    digest = documents(whole)[0]["layers"][1]["digest"]
    path = whole.root / "content/blobs" / digest.replace(":", "/")
    body = path.read_bytes()
    try:
        path.write_bytes(body[:-1] + b"!")
        done = whole.ctr("content", "verify", check=False)
        assert done.returncode == 1
        assert f"content {digest} is damaged" in done.stderr
        assert digest not in done.stdout
        with whole.client() as client, pytest.raises(errors.DataLoss):
            client.content.verify(content.VerifyRequest(digest=digest))
        done = whole.ctr("images", "check", "--repair", check=False)
        assert done.returncode == 1
        assert [line[1:4] for line in table(done.stdout)[4:]] == [
            [digest, "-", "damaged"], [chain(whole)[-1], "-", "unchecked"]
        ]  # fmt: skip
    finally:
        path.write_bytes(body)
    whole.ctr("images", "check", "--verify")


def test_a_damaged_blob_is_given_up_and_pulled_again(whole):
    digest = documents(whole)[0]["layers"][1]["digest"]
    path = whole.root / "content/blobs" / digest.replace(":", "/")
    body = path.read_bytes()
    path.write_bytes(body[:-1] + b"!")
    assert digest in whole.ctr("content", "verify", "--discard", check=False).stderr
    assert not path.exists()
    whole.ctr("images", "pull", "--plain-http", whole.ref)
    assert path.read_bytes() == body
    whole.ctr("images", "check", "--verify")


def test_a_check_that_is_given_up_leaves_nothing(whole):
    with whole.client() as client:
        stream = client.images.check(images.CheckRequest(name=whole.ref))
        next(stream)
        stream.close()
    whole.ctr("images", "check", "--verify")


def test_ctr_mounts_without_the_daemons_modules():
    """What ctr imports at its start does not grow by what few verbs need."""
    code = "import sys; from ctr.commands import images, snapshots; print([m for m in sys.modules if 'mount' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "['ctr.mount']\n"
