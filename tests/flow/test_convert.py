"""Conversions over a real content store and the real compressors."""

import contextlib
import gzip
import json

import pytest
import zstandard

from daemon.content.local import LocalContent
from daemon.diff.converter import Converter
from daemon.events.exchange import Exchange
from daemon.flows.converting import Convert
from daemon.kit.cancel import Token
from daemon.kit.threads import Pool
from daemon.metadata.store import Store
from daemon.scoped.content import ScopedContent
from spec import errors, names, platforms
from spec.oci import graph, image
from spec.oci.image import Descriptor
from tests.fake import digest_of, layer

FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
PLAIN = [gzip.decompress(layer({f"file-{number}": b"x" * 100_000})[0]) for number in range(3)]


class House:
    """A namespace's content, and what is put into it."""

    def __init__(self, directory):
        self.store = Store(str(directory / "metadata"), sync=False)
        self.content = ScopedContent(LocalContent(str(directory / "content"), False), self.store, Exchange(), "ns")
        self.pool = Pool("convert", 2)
        self.told = []

    def put(self, body, media_type, **more):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        digest = digest_of(body)
        with self.content.writer(digest) as writer:
            writer.write(body)
            with contextlib.suppress(errors.AlreadyExists):
                writer.commit()
        return {"mediaType": media_type, "digest": digest, "size": len(body), **more}

    def image(self, layers=None, manifest_type=image.DOCKER_MANIFEST, arch="amd64", **more):
        """A manifest's descriptor, as its JSON."""
        config = {"os": "linux", "architecture": arch, "x-unknown": 1,
                  "rootfs": {"type": "layers", "diff_ids": [digest_of(plain) for plain in PLAIN]}}  # fmt: skip
        if layers is None:
            layers = [self.put(gzip.compress(plain, mtime=0), image.DOCKER_LAYER_GZIP) for plain in PLAIN]
        config_type = image.DOCKER_CONFIG if manifest_type == image.DOCKER_MANIFEST else image.OCI_CONFIG
        document = {"schemaVersion": 2, "mediaType": manifest_type, "x-kept": {"a": None},
                    "config": self.put(config, config_type), "layers": layers, **more}  # fmt: skip
        return self.put(document, manifest_type)

    def convert(self, target, compression="", oci=False, wanted=("linux/amd64",), cancel=None):
        matchers = [platforms.only(platforms.parse(text)) for text in wanted]
        target = Descriptor(media_type=target["mediaType"], digest=target["digest"], size=target["size"])
        return Convert(
            name="it", target=target, content=self.content, converter=Converter(self.content), matchers=matchers,
            wanted=" or ".join(wanted), compression=compression, oci=oci, pool=self.pool.executor,
            sink=self.told.append, cancel=cancel or Token(),
        ).run()  # fmt: skip

    def read(self, digest):
        with self.content.reader(digest) as reader:
            return reader.read()

    def json(self, descriptor):
        return json.loads(self.read(descriptor["digest"] if isinstance(descriptor, dict) else descriptor.digest))

    def digests(self):
        return {info.digest for info in self.content.list()}


@pytest.fixture
def house(tmp_path):
    made = House(tmp_path)
    yield made
    made.pool.close()
    made.store.close()


UNPACKED = {"gzip": gzip.decompress, "zstd": lambda data: zstandard.decompress(data, 1 << 30), "uncompressed": bytes}
SUFFIX = {"gzip": "gzip", "zstd": "zstd", "uncompressed": ""}


@pytest.mark.parametrize("oci", [False, True])
@pytest.mark.parametrize("compression", ["gzip", "zstd", "uncompressed"])
def test_layers_in_another_compression(house, compression, oci):
    base = image.OCI_LAYER if oci else image.DOCKER_LAYER
    type_of = base + (("+" if oci else ".") + SUFFIX[compression] if SUFFIX[compression] else "")
    source = house.image([house.put(plain, image.DOCKER_LAYER) for plain in PLAIN])
    if compression == "uncompressed":
        source = house.image()
    made = house.convert(source, compression, oci)
    document = house.json(made)
    assert made.media_type == document["mediaType"] == (image.OCI_MANIFEST if oci else image.DOCKER_MANIFEST)
    assert document["config"]["digest"] == house.json(source)["config"]["digest"]
    assert document["config"]["mediaType"] == (image.OCI_CONFIG if oci else image.DOCKER_CONFIG)
    assert document["x-kept"] == {"a": None}
    for one, plain in zip(document["layers"], PLAIN, strict=True):
        body = house.read(one["digest"])
        assert UNPACKED[compression](body) == plain
        assert (one["mediaType"], one["size"]) == (type_of, len(body))
        assert house.content.info(one["digest"]).labels[names.UNCOMPRESSED] == digest_of(plain)
    labels = house.content.info(made.digest).labels
    assert set(labels.values()) == {document["config"]["digest"], *(one["digest"] for one in document["layers"])}
    before = house.digests()
    again = house.convert({"mediaType": made.media_type, "digest": made.digest, "size": made.size}, compression, oci)
    assert again == made
    assert house.digests() == before
    assert not house.content.statuses()


def test_there_and_back(house):
    """The same bytes each time, so what was made once is found again."""
    source = house.image()
    first = house.convert(source, "zstd", True)
    made = house.convert({"mediaType": first.media_type, "digest": first.digest, "size": first.size}, "uncompressed")
    known = house.digests()
    assert house.convert(source, "zstd", True) == first
    assert house.convert(source, "uncompressed", True) == made
    assert house.digests() == known


def test_types_alone(house):
    """Nothing but documents is new; a docker layer of an unsaid compression is looked at."""
    layers = [
        house.put(gzip.compress(PLAIN[0]), image.DOCKER_LAYER),
        house.put(PLAIN[1], image.DOCKER_LAYER),
        house.put(zstandard.compress(PLAIN[2]), image.DOCKER_LAYER_ZSTD),
    ]
    source = house.image(layers)
    before = house.digests()
    made = house.convert(source, oci=True)
    assert [one["mediaType"] for one in house.json(made)["layers"]] == [
        image.OCI_LAYER_GZIP, image.OCI_LAYER, image.OCI_LAYER_ZSTD
    ]  # fmt: skip
    assert house.digests() - before == {made.digest}


def test_what_may_not_be_redistributed_keeps_its_bytes(house):
    foreign = house.put(gzip.compress(PLAIN[0]), FOREIGN, urls=["https://example.org/layer"])
    rest = [house.put(gzip.compress(plain), image.DOCKER_LAYER_GZIP) for plain in PLAIN[1:]]
    made = house.json(house.convert(house.image([foreign, *rest]), "zstd", True))
    assert made["layers"][0] == {
        **foreign, "mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
    }  # fmt: skip
    assert {one["mediaType"] for one in made["layers"][1:]} == {image.OCI_LAYER_ZSTD}


def test_what_names_the_bytes_goes_with_them(house):
    annotations = {"containerd.io/snapshot/stargz/toc.digest": "sha256:1", "org.example": "kept"}
    layers = [
        house.put(gzip.compress(plain), image.DOCKER_LAYER_GZIP, annotations=annotations, data="AAAA", urls=["http://a/"])
        for plain in PLAIN
    ]
    for one in house.json(house.convert(house.image(layers), "zstd"))["layers"]:
        assert one["annotations"] == {"org.example": "kept"}
        assert not {"data", "urls"} & set(one)


def index(house):
    """Two platforms, an attestation of the first and one of the second, and one that is not here."""
    one, two = house.image(), house.image(arch="arm64")
    attested = [
        house.put({"schemaVersion": 2, "mediaType": image.OCI_MANIFEST, "layers": [],
                   "config": house.put(b"{}", image.OCI_CONFIG), "of": of["digest"]}, image.OCI_MANIFEST,
                  platform={"os": "unknown", "architecture": "unknown"},
                  annotations={"vnd.docker.reference.digest": of["digest"]})
        for of in (one, two)
    ]  # fmt: skip
    one["platform"] = {"os": "linux", "architecture": "amd64"}
    two["platform"] = {"os": "linux", "architecture": "arm64", "x-kept": 1}
    absent = {"mediaType": image.DOCKER_MANIFEST, "digest": digest_of(b"absent"), "size": 6,
              "platform": {"os": "linux", "architecture": "s390x"}}  # fmt: skip
    document = {"schemaVersion": 2, "mediaType": image.DOCKER_INDEX, "manifests": [one, two, *attested, absent]}
    return house.put(document, image.DOCKER_INDEX), one, two


def test_a_part_of_an_index(house):
    source, one, two = index(house)
    made = house.convert(source, wanted=["linux/amd64", "linux/arm64"])
    assert house.json(made)["manifests"] == [one, two]
    assert set(house.content.info(made.digest).labels.values()) == {one["digest"], two["digest"]}
    made = house.convert(source, "zstd", True, wanted=["linux/arm64"])
    (entry,) = house.json(made)["manifests"]
    assert entry["platform"] == two["platform"]
    assert made.media_type == image.OCI_INDEX
    assert {layer["mediaType"] for layer in house.json(entry)["layers"]} == {image.OCI_LAYER_ZSTD}
    with pytest.raises(errors.NotFound, match="nothing for linux/ppc64le; it has linux/amd64"):
        house.convert(source, "zstd", wanted=["linux/ppc64le"])
    with pytest.raises(errors.NotFound, match="is not here; pull all platforms"):
        house.convert(source, "zstd", wanted=())


def test_attestations_go_with_what_they_attest(house):
    source, one, two = index(house)
    whole = house.json(source)
    whole["manifests"].pop()
    source = house.put(whole, image.DOCKER_INDEX)
    assert house.convert(source, "gzip", wanted=()).digest == source["digest"]
    made = house.json(house.convert(source, "zstd", wanted=()))
    assert [entry.get("platform") for entry in made["manifests"]] == [one["platform"], two["platform"]]


def test_a_layer_that_is_not_what_its_config_says(house):
    wrong = [house.put(gzip.compress(b"no"), image.DOCKER_LAYER_GZIP)]
    rest = [house.put(gzip.compress(plain), image.DOCKER_LAYER_GZIP) for plain in PLAIN[1:]]
    source = house.image(wrong + rest)
    with pytest.raises(errors.FailedPrecondition, match=wrong[0]["digest"]):
        house.convert(source, "zstd")
    cut = [house.put(gzip.compress(PLAIN[0])[:-9], image.DOCKER_LAYER_GZIP)]
    with pytest.raises(errors.DataLoss, match="gzip"):
        house.convert(house.image(cut + rest), "zstd")
    with pytest.raises(errors.InvalidArgument, match="2 layers, its config 3 diff ids"):
        house.convert(house.image(rest), "zstd")
    with pytest.raises(errors.InvalidArgument, match="'xz' is not"):
        house.convert(source, "xz")
    assert not house.content.statuses()


def test_who_gives_up(house):
    token = Token()
    token.cancel("enough")
    with pytest.raises(errors.Canceled, match="enough"):
        house.convert(house.image(), "zstd", cancel=token)
    assert not house.content.statuses()


def test_an_artifact_stays_as_it_is(house):
    document = {"schemaVersion": 2, "mediaType": image.OCI_MANIFEST,
                "config": house.put(b"{}", "application/vnd.oci.empty.v1+json"),
                "layers": [house.put(b"text", "text/plain")]}  # fmt: skip
    source = house.put(document, image.OCI_MANIFEST)
    assert house.convert(source, "zstd", True).digest == source["digest"]
    assert graph.manifest(Descriptor(media_type=image.OCI_MANIFEST), house.read(source["digest"]))
