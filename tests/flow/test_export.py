"""Exports of indexes, in part and whole, and what an import makes of them again. Over real stores."""

import contextlib
import gzip
import json
import os
import tarfile
from functools import partial

import pytest

from daemon.content.local import LocalContent
from daemon.diff import processors
from daemon.events.exchange import Exchange
from daemon.flows.exporting import Export
from daemon.flows.importing import Import
from daemon.flows.pull import Pull
from daemon.images.archive import Archive
from daemon.kit.cancel import Token
from daemon.kit.keylock import Once
from daemon.kit.threads import Pool
from daemon.metadata.store import Store
from daemon.scoped.content import ScopedContent
from daemon.scoped.images import ScopedImages
from spec import digest as digests
from spec import errors, names, platforms
from spec.oci import image
from spec.oci.image import OCI_LAYER_GZIP, Descriptor
from tests.fake import digest_of

FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
NAME = "example.org/a:1"


class House:
    """A namespace's content and images."""

    def __init__(self, directory):
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self.store = Store(str(directory / "metadata"), sync=False)
        self.content = ScopedContent(LocalContent(str(directory / "content"), False), self.store, Exchange(), "ns")
        self.images = ScopedImages(self.store, Exchange(), "ns")
        self.pool = Pool("downloads", 2)

    def put(self, body, media_type, algorithm="sha256", **more):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        digest = digests.of(body, algorithm)
        if digest not in self.digests():
            with self.content.writer(f"put-{digest}", len(body), digest) as writer:
                writer.write(body)
                writer.commit()
        return {"mediaType": media_type, "digest": digest, "size": len(body), **more}

    def image(self, architecture, layers=None, **more):
        if layers is None:
            layers = [self.put(gzip.compress(architecture.encode()), image.OCI_LAYER_GZIP)]
        platform = {"os": "linux", "architecture": architecture}
        config = {**platform, "rootfs": {"type": "layers", "diff_ids": [digest_of(b"x")] * len(layers)}}
        document = {"schemaVersion": 2, "mediaType": image.OCI_MANIFEST,
                    "config": self.put(config, image.OCI_CONFIG), "layers": layers, **more}  # fmt: skip
        return self.put(document, image.OCI_MANIFEST, platform=platform)

    def index(self, *manifests):
        document = {"schemaVersion": 2, "mediaType": image.OCI_INDEX, "manifests": manifests}
        return self.put(document, image.OCI_INDEX)

    def export(self, *named, wanted=("linux/amd64",), **options):
        path = self.directory / "out.tar"
        images = [
            (name, Descriptor(media_type=one["mediaType"], digest=one["digest"], size=one["size"]))
            for name, one in named
        ]
        fd = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
        try:
            Export(images=images, content=self.content, matchers=matchers(wanted), wanted=" or ".join(wanted), fd=fd,
                   sink=lambda progress: None, cancel=Token(), **options).run()  # fmt: skip
        finally:
            os.close(fd)
        return path

    def bring(self, path, wanted=("linux/amd64",), all_metadata=False, **options):
        fd = os.open(path, os.O_RDONLY)
        undone = partial(processors.opened, media_type=OCI_LAYER_GZIP)
        try:
            with Archive(fd, str(self.directory), Token(), undone) as archive:

                def pull(digest, name):
                    return Pull(
                        reference=digest, name=name, resolver=archive, content=self.content, images=self.images,
                        targets=[], matchers=matchers(wanted), wanted=" or ".join(wanted), pool=self.pool.executor,
                        once=Once(), scope="ns", sink=lambda progress: None, cancel=Token(), sparse=True,
                        all_metadata=all_metadata,
                    )  # fmt: skip

                Import(archive=archive, content=self.content, images=self.images, pull=pull,
                       sink=lambda progress: None, **options).run()  # fmt: skip
        finally:
            os.close(fd)
        return {one.name: one.target.digest for one in self.images.list()}

    def digests(self):
        return {info.digest for info in self.content.list()}

    def close(self):
        self.pool.close()
        self.store.close()


def matchers(wanted):
    return [platforms.only(platforms.parse(text)) for text in wanted]


@pytest.fixture
def house(tmp_path):
    with contextlib.closing(House(tmp_path / "one")) as made:
        yield made


@pytest.fixture
def other(tmp_path):
    with contextlib.closing(House(tmp_path / "other")) as made:
        yield made


def members(path):
    with tarfile.open(path) as archive:
        return {info.name: archive.extractfile(info).read() for info in archive if info.isfile()}


def blobs(path):
    return {":".join(name.split("/")[1:]) for name in members(path) if name.startswith("blobs/")}


def parts(house, manifest):
    with house.content.reader(manifest["digest"]) as reader:
        document = json.loads(reader.read())
    return {manifest["digest"], document["config"]["digest"], *(layer["digest"] for layer in document["layers"])}


def test_a_platform_of_an_index(house, other):
    amd, arm = house.image("amd64"), house.image("arm64")
    index = house.index(amd, arm)
    path = house.export((NAME, index))
    assert blobs(path) == {index["digest"]} | parts(house, amd)
    (saved,) = json.loads(members(path)["manifest.json"])
    assert saved["RepoTags"] == [NAME]
    assert digest_of(members(path)[saved["Config"]]) in parts(house, amd)
    assert other.bring(path) == {NAME: index["digest"]}
    assert other.digests() == blobs(path)
    for wanted in (["linux/arm64"], ["linux/amd64", "linux/arm64"]):
        with pytest.raises(errors.NotFound):
            other.bring(path, wanted)
    path = house.export((NAME, index), wanted=["linux/arm64"])
    assert blobs(path) == {index["digest"]} | parts(house, arm)
    with pytest.raises(errors.NotFound, match=r"nothing for linux/s390x; it has linux/amd64, linux/arm64"):
        house.export((NAME, index), wanted=["linux/s390x"])


def test_all_platforms(house, other):
    amd, arm = house.image("amd64"), house.image("arm64")
    nested = house.index(arm)
    index = house.index(amd, nested)
    path = house.export((NAME, index), wanted=())
    assert blobs(path) == {index["digest"], nested["digest"]} | parts(house, amd) | parts(house, arm)
    assert other.bring(path, wanted=()) == {NAME: index["digest"]}
    assert other.digests() == blobs(path)
    assert other.export((NAME, index), wanted=()).read_bytes() == path.read_bytes()


def test_what_is_not_here(house, other):
    """It is known before a byte is written; and an archive of a part can be imported as all that it has."""
    amd, arm = house.image("amd64"), house.image("arm64")
    index = house.index(amd, arm)
    house.content.delete(arm["digest"])
    with pytest.raises(errors.NotFound, match=f"{arm['digest']} is not here; pull all platforms"):
        house.export((NAME, index), wanted=())
    assert (house.directory / "out.tar").stat().st_size == 0
    path = house.export((NAME, index))
    assert other.bring(path, wanted=()) == {NAME: index["digest"]}
    labels = other.content.info(index["digest"]).labels
    assert list(labels.values()) == [amd["digest"]]


def test_an_import_keeps_what_it_can_of_other_platforms(house, other):
    """So that the index can be pushed to where its layers are."""
    amd, arm = house.image("amd64"), house.image("arm64")
    path = house.export((NAME, house.index(amd, arm)), wanted=())
    other.bring(path, all_metadata=True)
    assert parts(house, amd) < other.digests()
    assert len(parts(house, arm) & other.digests()) == 2


def test_layers_that_may_not_be_redistributed(house):
    plain = house.put(b"plain", image.OCI_LAYER)
    foreign = house.put(gzip.compress(b"foreign"), FOREIGN)
    made = house.image("amd64", [plain, foreign])
    assert blobs(house.export((NAME, made))) == parts(house, made)
    path = house.export((NAME, made), non_distributable=False)
    assert blobs(path) == parts(house, made) - {foreign["digest"]}
    house.content.delete(foreign["digest"])
    assert house.export((NAME, made), non_distributable=False) == path
    with pytest.raises(errors.NotFound, match=foreign["digest"]):
        house.export((NAME, made))


@pytest.mark.parametrize(
    ("name", "short", "tags"),
    [
        (NAME, "1", [NAME]),
        ("docker.io/library/a:latest", "latest", ["docker.io/library/a:latest"]),
        (f"example.org/a@{digest_of(b'x')}", digest_of(b"x"), None),
        (f"example.org/a:1@{digest_of(b'x')}", "1", None),
        ("no reference", "no reference", None),
    ],
)
def test_names(house, other, name, short, tags):
    made = house.image("amd64")
    path = house.export((name, made))
    (entry,) = json.loads(members(path)["index.json"])["manifests"]
    assert entry["annotations"] == {names.IMAGE_NAME: name, names.REF_NAME: short}
    assert json.loads(members(path)["manifest.json"])[0].get("RepoTags") == tags
    if "/" in name:
        assert other.bring(path) == {name: made["digest"]}


def test_several_names_of_one_image(house, other):
    made = house.image("amd64")
    path = house.export((NAME, made), ("example.org/b:2", made))
    (saved,) = json.loads(members(path)["manifest.json"])
    assert saved["RepoTags"] == [NAME, "example.org/b:2"]
    assert set(other.bring(path)) == {NAME, "example.org/b:2"}
    record = other.images.get("example.org/b:2")
    assert record.target.annotations[names.IMAGE_NAME] == "example.org/b:2"


def test_the_same_bytes_whatever_the_order_of_blobs(house, other):
    """Of blobs and of when they came; sha512, too."""
    layers = [house.put(b"%d" % number, image.OCI_LAYER, "sha512" if number % 2 else "sha256") for number in range(9)]
    made = house.image("amd64", layers)
    path = house.export((NAME, made))
    with tarfile.open(path) as archive:
        infos = archive.getmembers()
    assert [info.name for info in infos] == sorted(info.name for info in infos)
    assert {(info.mtime, info.uid, info.gid, info.uname, info.gname) for info in infos} == {(0, 0, 0, "", "")}
    assert {info.name for info in infos if info.isdir()} == {"blobs", "blobs/sha256", "blobs/sha512"}
    assert blobs(path) == parts(house, made)
    other.bring(path)
    assert other.export((NAME, made)).read_bytes() == path.read_bytes()


def test_an_artifact_is_no_image_for_docker(house, other):
    empty = house.put(b"{}", "application/vnd.oci.empty.v1+json")
    document = {"schemaVersion": 2, "mediaType": image.OCI_MANIFEST, "config": empty,
                "layers": [house.put(b"text", "text/plain")]}  # fmt: skip
    made = house.put(document, image.OCI_MANIFEST)
    path = house.export((NAME, made))
    assert "manifest.json" not in members(path)
    assert other.bring(path) == {NAME: made["digest"]}


def test_a_blob_that_is_damaged_or_of_another_size(house):
    layer = house.put(b"layer", image.OCI_LAYER)
    with pytest.raises(errors.DataLoss, match="has 5 bytes, not 6"):
        house.export((NAME, house.image("amd64", [{**layer, "size": 6}])))
    made = house.image("amd64", [layer])
    path = next(house.directory.rglob(f"blobs/sha256/{layer['digest'][7:]}"))
    path.chmod(0o600)
    path.write_bytes(b"reyal")
    with pytest.raises(errors.DataLoss, match=layer["digest"]):
        house.export((NAME, made))


def test_a_full_disk(house):
    fd = os.open("/dev/full", os.O_WRONLY)
    made = house.image("amd64")
    target = Descriptor(media_type=made["mediaType"], digest=made["digest"], size=made["size"])
    with pytest.raises(errors.ResourceExhausted, match=f"exporting {NAME}"):
        Export(images=[(NAME, target)], content=house.content, matchers=(), wanted="", fd=fd,
               sink=lambda progress: None, cancel=Token()).run()  # fmt: skip
    os.close(fd)


def test_the_index_of_several_images(house, other):
    """As one image, of what came of it; its bytes are the archive's."""
    one, two = house.image("amd64"), house.image("arm64")
    path = house.export((NAME, one), ("example.org/b:2", two))
    found = other.bring(path, name="all", labels={"a": "b"})
    assert set(found) == {NAME, "example.org/b:2", "all"}
    body = members(path)["index.json"]
    assert found["all"] == digest_of(body)
    with other.content.reader(found["all"]) as reader:
        assert reader.read() == body
    assert sorted(other.content.info(found["all"]).labels.values()) == sorted([one["digest"], two["digest"]])
    assert other.images.get("all").labels == {"a": "b"}
    assert other.bring(path, name="all")["all"] == found["all"]


def test_what_is_cut_off_anywhere(tmp_path, house):
    data = house.export((NAME, house.image("amd64"))).read_bytes()
    for cut in range(0, len(data) - 1024, 512):
        (tmp_path / "cut.tar").write_bytes(data[:cut])
        with pytest.raises(errors.DataLoss):
            house.bring(tmp_path / "cut.tar")
