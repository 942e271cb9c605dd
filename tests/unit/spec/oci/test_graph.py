import json

import pytest

from spec import digest, errors, platforms
from spec.oci import graph, image
from spec.oci.image import Descriptor, Platform

MANIFESTS = sorted(image.MANIFEST_TYPES)
INDEXES = sorted(image.INDEX_TYPES)


def child(name, media_type, **more):
    return {"mediaType": media_type, "digest": digest.of(name.encode()), "size": len(name), **more}


CONFIG = child("config", image.OCI_CONFIG)
LAYERS = [child("one", image.OCI_LAYER_GZIP), child("two", image.OCI_LAYER_ZSTD)]
MANIFEST = {"schemaVersion": 2, "config": CONFIG, "layers": LAYERS}
INDEX = {"schemaVersion": 2, "manifests": [child("m", image.OCI_MANIFEST), child("i", image.OCI_INDEX)]}


def descriptor(media_type, name="doc"):
    return Descriptor(media_type=media_type, digest=digest.of(name.encode()), size=1)


def read(media_type, document):
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return graph.children(descriptor(media_type), body)


def refused(media_type, document):
    with pytest.raises(errors.InvalidArgument) as caught:
        read(media_type, document)
    assert descriptor(media_type).digest in caught.value.message
    assert len(caught.value.message) < 1000
    return caught.value.message


# Which kind a body is (CVE-2021-41190): 24 rows and one.


@pytest.mark.parametrize("media_type", MANIFESTS)
def test_a_manifest_is_a_manifest(media_type):
    assert [c.digest for c in read(media_type, MANIFEST)] == [c["digest"] for c in (CONFIG, *LAYERS)]


@pytest.mark.parametrize("media_type", INDEXES)
def test_an_index_is_an_index(media_type):
    assert [c.digest for c in read(media_type, INDEX)] == [c["digest"] for c in INDEX["manifests"]]


@pytest.mark.parametrize("media_type", INDEXES)
def test_a_manifest_is_no_index(media_type):
    refused(media_type, MANIFEST)


@pytest.mark.parametrize("media_type", MANIFESTS)
def test_an_index_is_no_manifest(media_type):
    refused(media_type, INDEX)


@pytest.mark.parametrize("stated", MANIFESTS + INDEXES)
@pytest.mark.parametrize("media_type", MANIFESTS + INDEXES)
def test_what_a_body_states(media_type, stated):
    document = {**(MANIFEST if media_type in MANIFESTS else INDEX), "mediaType": stated}
    if (media_type in MANIFESTS) == (stated in MANIFESTS):
        assert read(media_type, document)
    else:
        refused(media_type, document)


@pytest.mark.parametrize("media_type", MANIFESTS + INDEXES)
def test_schema_1_is_refused(media_type):
    refused(media_type, {**(MANIFEST if media_type in MANIFESTS else INDEX), "fsLayers": [{"blobSum": "x"}]})


# Two readers, one image.


@pytest.mark.parametrize(
    "extra", ["manifests", "Manifests", "MANIFESTS", "manife\u017fts", "Layers", "LAYERS", "Config"]
)
def test_a_manifest_that_some_would_read_otherwise(extra):
    refused(image.OCI_MANIFEST, {**MANIFEST, extra: []})


@pytest.mark.parametrize("extra", ["layers", "Layers", "config", "Manifests", "fslayers"])
def test_an_index_that_some_would_read_otherwise(extra):
    refused(image.OCI_INDEX, {**INDEX, extra: []})


@pytest.mark.parametrize("key", ["Digest", "DIGEST", "Size", "MediaType", "Data", "URLs"])
def test_a_descriptor_that_some_would_read_otherwise(key):
    refused(image.OCI_MANIFEST, {**MANIFEST, "layers": [{**LAYERS[0], key: "x"}]})
    refused(image.OCI_INDEX, {"manifests": [{**INDEX["manifests"][0], "platform": {"Architecture": "x"}}]})


@pytest.mark.parametrize(
    "body",
    [
        b'{"config":%s,"layers":[],"layers":[]}',
        b'{"config":%s,"layers":[],"mediaType":"","mediaType":""}',
        b'{"config":%s,"layers":[],"annotations":{"a":"1","a":"2"}}',
        b'{"config":%s,"layers":[],"x":[{"y":1,"y":1}]}',
    ],
)
def test_a_key_that_comes_twice(body):
    assert "twice" in refused(image.OCI_MANIFEST, body % json.dumps(CONFIG).encode())
    with pytest.raises(errors.InvalidArgument, match="twice"):
        graph.config(descriptor(image.OCI_CONFIG), b'{"rootfs":{"type":"layers","diff_ids":[],"diff_ids":[]}}')


def test_annotations_may_be_spelt_as_one_likes():
    assert read(image.OCI_MANIFEST, {**MANIFEST, "annotations": {"Layers": "x", "layers": "y"}})


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"text"',
        b"{",
        b"{}",
        b"\xff\xfe{}",
        b"\xef\xbb\xbf{}",
        '{"layers":[]}'.encode("utf-16"),
        b'{"config":"\xff"}',
        b'{"x":NaN}',
        b'{"x":-Infinity}',
        b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"x":' + b'{"x":' * 100_000 + b"1" + b"}" * 100_001,
        b'{"x":' + b"9" * 100_000 + b"}",
        b"{} {}",
        b" " * (graph.MAX_DOCUMENT + 1),
    ],
)
def test_what_is_no_document(body):
    refused(image.OCI_MANIFEST, body)
    if body != b"{}":
        with pytest.raises(errors.InvalidArgument):
            graph.config(descriptor(image.OCI_CONFIG), body)


def test_null_is_nothing():
    assert read(image.OCI_INDEX, {**INDEX, "manifests": None, "layers": None}) == []
    assert len(read(image.OCI_MANIFEST, {**MANIFEST, "layers": None, "manifests": None, "annotations": None})) == 1


BAD_DIGESTS = [
    "", "sha256:", "sha256:" + "a" * 63, "sha256:" + "A" * 64, "md5:" + "a" * 32, "sha256:../../../../etc/passwd",
    "sha256:" + "a" * 63 + "\0",
]  # fmt: skip


@pytest.mark.parametrize("bad", [{"digest": text} for text in BAD_DIGESTS] + [
    {"size": -1}, {"size": 2**62}, {"size": 10**30}, {"size": 1e3}, {"size": "1"}, {"size": True}, {"digest": 5},
    {"urls": "x"}, {"data": "not base64!"}, {"annotations": {"a": 1}},
])  # fmt: skip
def test_every_descriptor_is_checked(bad):
    refused(image.OCI_MANIFEST, {**MANIFEST, "config": {**CONFIG, **bad}})
    refused(image.OCI_MANIFEST, {**MANIFEST, "layers": [LAYERS[0], {**LAYERS[1], **bad}]})
    refused(image.OCI_MANIFEST, {**MANIFEST, "subject": {**CONFIG, **bad}})
    refused(image.OCI_INDEX, {**INDEX, "manifests": [{**INDEX["manifests"][0], **bad}]})
    refused(image.OCI_INDEX, {**INDEX, "subject": {**CONFIG, **bad}})


def test_a_manifest_without_a_config():
    refused(image.OCI_MANIFEST, {"layers": LAYERS})


def test_a_subject_is_no_child():
    assert len(read(image.OCI_MANIFEST, {**MANIFEST, "subject": child("s", image.OCI_MANIFEST)})) == 3


def test_config():
    diff_ids = [digest.of(b"a"), digest.of(b"b")]
    body = {
        "architecture": "arm64", "os": "linux", "variant": "v8", "os.version": "1", "os.features": ["f"],
        "config": {"Env": ["A=b"], "Cmd": None, "User": "1:2"}, "history": [{"created": "x"}], "created": None,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }  # fmt: skip
    document = graph.config(descriptor(image.OCI_CONFIG), json.dumps(body).encode())
    assert list(document.rootfs.diff_ids) == diff_ids
    assert document.config.user == "1:2"
    assert document.config.cmd is None
    assert graph.platform_of(document) == Platform(os="linux", architecture="arm64", os_version="1", os_features=["f"])
    empty = graph.config(descriptor(image.OCI_CONFIG), b'{"rootfs":{"type":"layers","diff_ids":null},"config":null}')
    assert not empty.rootfs.diff_ids
    body["rootfs"]["diff_ids"] = ["sha256:x"]
    with pytest.raises(errors.InvalidArgument, match=descriptor(image.OCI_CONFIG).digest):
        graph.config(descriptor(image.OCI_CONFIG), json.dumps(body).encode())


def test_other_types_have_no_children():
    for media_type in (image.OCI_CONFIG, image.OCI_LAYER, "text/plain", ""):
        assert read(media_type, b"not even JSON") == []


def on(architecture, name, **more):
    platform = None if architecture is None else {"os": "linux", "architecture": architecture, **more}
    return child(name, image.OCI_MANIFEST, platform=platform)


def chosen(manifests, matcher):
    document = graph.index(descriptor(image.OCI_INDEX), json.dumps({"manifests": manifests}).encode())
    names = {digest.of(name.encode()): name for name in "abcdef"}
    return "".join(names[c.digest] for c in graph.choose(document, matcher))


def test_choose():
    manifests = [
        on("386", "a"), on(None, "b"), on("amd64", "c"), on("arm64", "d"), on("unknown", "e"),
        {**on("amd64", "f"), "mediaType": image.OCI_LAYER},
    ]  # fmt: skip
    amd64 = platforms.only(platforms.parse("linux/amd64"))
    assert chosen(manifests, amd64) == "cab"
    assert chosen(manifests, platforms.only(platforms.parse("linux/s390x"))) == "b"
    assert chosen(manifests, platforms.Every()) == "acdeb"
    assert chosen([on("amd64", "b"), on("amd64", "a")], amd64) == "ba"
    able = platforms.only(platforms.parse("linux(+x+y)/amd64"))
    assert chosen([on("amd64", "a"), on("amd64", "b", **{"os.features": ["x"]})], able) == "ba"


def test_labels_that_keep_children():
    ref = "containerd.io/gc.ref.content."
    manifest = descriptor(image.OCI_MANIFEST)
    config, one, two = read(image.OCI_MANIFEST, MANIFEST)
    expected = {f"{ref}config": config.digest, f"{ref}l.0": one.digest, f"{ref}l.1": two.digest}
    assert graph.child_labels(manifest, [config, one, two]) == expected
    assert graph.child_labels(manifest, [one, two]) == {f"{ref}l.0": one.digest, f"{ref}l.1": two.digest}
    below = read(image.OCI_INDEX, INDEX)
    assert graph.child_labels(descriptor(image.OCI_INDEX), below) == {
        f"{ref}m.0": below[0].digest, f"{ref}m.1": below[1].digest,
    }  # fmt: skip
    strange = [descriptor("a/config", "x"), descriptor("a/blob", "y"), descriptor("a/blob", "z")]
    assert graph.child_labels(manifest, strange) == {
        f"{ref}config": strange[0].digest, f"{ref}0": strange[1].digest, f"{ref}1": strange[2].digest,
    }  # fmt: skip
    assert graph.child_labels(manifest, []) == {}


def test_walk_is_depth_first_and_tells_each_once():
    nodes = {name: descriptor("x/y", name) for name in "abcdef"}
    edges = {"a": "bc", "b": "de", "c": "ef", "f": "a"}
    names = {node.digest: name for name, node in nodes.items()}

    def below(node):
        return [nodes[name] for name in edges.get(names[node.digest], "")]

    assert "".join(names[node.digest] for node in graph.walk(nodes["a"], below)) == "abdecf"


def test_walk_ends():
    numbers = iter(range(1000))
    with pytest.raises(errors.InvalidArgument, match="documents below"):
        list(graph.walk(descriptor("x/y"), lambda node: [descriptor("x/y", str(next(numbers)))]))


@pytest.mark.parametrize(
    ("media_type", "expected"),
    [
        (image.OCI_LAYER, ""),
        (image.OCI_LAYER_GZIP, "gzip"),
        (image.OCI_LAYER_ZSTD, "zstd"),
        (image.DOCKER_LAYER, "unknown"),
        (image.DOCKER_LAYER_GZIP, "gzip"),
        (image.DOCKER_LAYER_ZSTD, "zstd"),
    ],
)
def test_compression(media_type, expected):
    assert graph.is_layer(media_type)
    assert graph.is_distributable(media_type)
    assert graph.compression(media_type) == expected


def test_what_is_no_layer():
    assert not graph.is_distributable("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")
    assert not graph.is_layer(image.OCI_CONFIG)
    with pytest.raises(errors.Unimplemented):
        graph.compression(image.OCI_CONFIG)
