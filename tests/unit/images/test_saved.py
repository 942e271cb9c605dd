"""What `docker save` writes, as its many versions wrote it, and as nobody should."""

import contextlib
import gzip
import json
import os
from functools import partial

import pytest
import zstandard

from daemon.diff import compression, processors
from daemon.diff.bounds import Bounds
from daemon.images.archive import Archive
from daemon.kit.cancel import Token
from spec import errors
from spec.names import IMAGE_NAME
from spec.oci import graph, image
from spec.oci.image import OCI_LAYER_GZIP, Descriptor
from tests.fake import digest_of
from tests.tarball import archive, file, folder, hardlink, symlink

LAYERS = [b"one" * 1000, b"two" * 1000]
PLATFORM = {"os": "linux", "architecture": "arm64", "variant": "v8"}


def config_of(*layers, **changes):
    rootfs = {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]}
    return json.dumps({**PLATFORM, "rootfs": rootfs, **changes}).encode()


def listing(*images):
    return json.dumps([dict(zip(("Config", "RepoTags", "Layers"), one, strict=True)) for one in images]).encode()


CONFIG = config_of(*LAYERS)
USUAL = listing(("c.json", ["busybox:1"], ["a/layer.tar", "b/layer.tar"]))
FILES = (file("c.json", CONFIG), file("a/layer.tar", LAYERS[0]), file("b/layer.tar", LAYERS[1]))


@pytest.fixture
def opened(tmp_path):
    """Opens a tar, which is written as it is."""
    with contextlib.ExitStack() as held:

        def make(data, bounds=Bounds(), compress=False):
            path = tmp_path / "archive.tar"
            path.write_bytes(data)
            fd = os.open(path, os.O_RDONLY)
            held.callback(os.close, fd)
            undo = partial(processors.opened, media_type=OCI_LAYER_GZIP, bounds=bounds)
            pack = partial(compression.compressor, OCI_LAYER_GZIP) if compress else None
            return held.enter_context(Archive(fd, str(tmp_path), Token(), undo, pack))

        yield make


def read(made, descriptor):
    source = made.fetch(descriptor)
    body = b""
    while data := source.read(1000):
        body += data
    source.close()
    return body


def manifest(made, target):
    return graph.manifest(target, read(made, target))


def checked(made):
    """Each image's name and layers, whose blobs are as long as is said, and what their digests say."""
    found = []
    for name, target in made.images():
        document = manifest(made, target)
        assert document.config.media_type == image.DOCKER_CONFIG
        for part in (document.config, *document.layers):
            body = read(made, part)
            assert (digest_of(body), len(body)) == (part.digest, part.size)
        assert target.platform == graph.platform_of(graph.config(document.config, read(made, document.config)))
        found.append((name, [layer.digest for layer in document.layers]))
    return found


DIGESTS = [digest_of(layer) for layer in LAYERS]
FULL = "docker.io/library/busybox:1"


@pytest.mark.parametrize(
    "members",
    [
        (file("manifest.json", USUAL), *FILES),
        (*FILES, folder("b"), file("b/VERSION", "1.0"), file("repositories", "{}"), file("manifest.json", USUAL)),
        (file("manifest.json", USUAL), file("c.json", CONFIG), file("x.tar", LAYERS[0]), file("y.tar", LAYERS[1]),
         symlink("a/layer.tar", "../x.tar"), hardlink("b/layer.tar", "y.tar")),
        (file("./manifest.json", USUAL), *(file("./" + name, body) for name, body in
         (("c.json", CONFIG), ("a/layer.tar", LAYERS[0]), ("b/layer.tar", LAYERS[1])))),
    ],
)  # fmt: skip
def test_every_form_of_it(opened, members):
    assert checked(opened(archive(*members))) == [(FULL, DIGESTS)]


def test_names_and_images(opened):
    """Several names of one image, several images, one without a name."""
    other = config_of(LAYERS[0])
    tags = ["busybox:1", "localhost/app:2", "r.example:5000/a/b:3"]
    images = listing(("c.json", tags, ["a/layer.tar", "b/layer.tar"]), ("d.json", None, ["a/layer.tar"]))
    made = opened(archive(*FILES, file("d.json", other), file("manifest.json", images)))
    whole = [FULL, *tags[1:]]
    assert checked(made) == [*((name, DIGESTS) for name in whole), ("", DIGESTS[:1])]
    index = graph.index(made.index, read(made, made.index))
    assert [one.annotations.get(IMAGE_NAME, "") for one in index.manifests] == [*whole, ""]
    again = opened(archive(file("manifest.json", images), file("d.json", other), *reversed(FILES)))
    assert again.index == made.index


def test_layers_that_are_compressed(opened):
    stored = [gzip.compress(LAYERS[0]), zstandard.compress(LAYERS[1])]
    members = (file("a/layer.tar", stored[0]), file("b/layer.tar", stored[1]))
    made = opened(archive(*members, file("c.json", CONFIG), file("manifest.json", USUAL)), compress=True)
    assert checked(made) == [(FULL, [digest_of(layer) for layer in stored])]
    types = [layer.media_type for layer in manifest(made, made.images()[0].target).layers]
    assert types == [image.DOCKER_LAYER_GZIP, image.DOCKER_LAYER_ZSTD]


def test_layers_that_shall_be(opened):
    made = opened(archive(*FILES, file("manifest.json", USUAL)), compress=True)
    ((_, digests),) = checked(made)
    layers = manifest(made, made.images()[0].target).layers
    assert [gzip.decompress(read(made, layer)) for layer in layers] == LAYERS
    assert {layer.media_type for layer in layers} == {image.DOCKER_LAYER_GZIP}
    again = opened(archive(*FILES, file("manifest.json", USUAL)), compress=True)
    assert checked(again) == [(FULL, digests)]
    lying = archive(*FILES[:2], file("b/layer.tar", "other"), file("manifest.json", USUAL))
    with pytest.raises(errors.FailedPrecondition, match=DIGESTS[1]):
        opened(lying, compress=True)


def one(config="c.json", tags=("a:1",), layers=("a/layer.tar", "b/layer.tar")):
    return file("manifest.json", listing((config, tags, layers)))


@pytest.mark.parametrize(
    ("members", "error", "says"),
    [
        ([one(), *FILES[:2]], errors.NotFound, "b/layer.tar"),
        ([one(), *FILES[1:]], errors.NotFound, "c.json"),
        ([one(layers=("a/layer.tar",)), *FILES], errors.InvalidArgument, "2 diff ids and, by manifest.json, 1 layers"),
        ([one(layers=None), *FILES], errors.InvalidArgument, "0 layers"),
        ([one(config="../../etc/passwd"), *FILES], errors.NotFound, "etc/passwd"),
        ([one(config="/etc/passwd"), *FILES], errors.NotFound, "etc/passwd"),
        ([one(layers=("/etc/passwd", "/etc/group")), *FILES], errors.NotFound, "etc/passwd"),
        ([one(layers=("l", "l")), *FILES, symlink("l", "/etc/passwd")], errors.NotFound, "has no l"),
        ([one(layers=("l", "l")), *FILES, symlink("l", "l")], errors.NotFound, "has no l"),
        ([one(layers=("a", "a")), *FILES], errors.NotFound, "has no a"),
        ([one(config=""), *FILES], errors.NotFound, "has no "),
        ([one(), one(tags=["evil:1"]), *FILES], errors.InvalidArgument, "two of manifest.json"),
        ([one(), *FILES, file("c.json", config_of(author="x"))], errors.InvalidArgument, "two of c.json"),
        ([one(tags=["Bad Name"]), *FILES], errors.InvalidArgument, "Bad Name"),
        ([one(), file("c.json", config_of(*LAYERS, os="")), *FILES[1:]], errors.InvalidArgument, "no os"),
        ([one(), file("c.json", b"[]"), *FILES[1:]], errors.InvalidArgument, "not a JSON object"),
        ([one(), file("c.json", b"{" + b" " * (4 << 20)), *FILES[1:]], errors.InvalidArgument, "c.json has more than"),
        ([file("manifest.json", b"[\xff]"), *FILES], errors.InvalidArgument, "manifest.json"),
        ([file("manifest.json", b"[" * 100_000), *FILES], errors.InvalidArgument, "manifest.json"),
        ([file("manifest.json", b"{}"), *FILES], errors.InvalidArgument, "manifest.json"),
        ([file("manifest.json", b" " * (5 << 20)), *FILES], errors.InvalidArgument, "manifest.json has more than"),
        ([file("repositories", b"{}")], errors.InvalidArgument, "unrecognized image format.*before 1.10"),
        ([file("x", b"{}")], errors.InvalidArgument, "unrecognized image format.*no oci-layout and no manifest.json$"),
    ],
)  # fmt: skip
def test_what_is_refused(opened, members, error, says):
    with pytest.raises(error, match=says):
        opened(archive(*members))


def test_none_at_all(opened):
    assert opened(archive(file("manifest.json", "[]"))).images() == []


def test_what_has_both_layouts_is_read_as_ocis(opened):
    """As docker 25 and holdd write it."""
    index = json.dumps({"schemaVersion": 2, "manifests": []}).encode()
    members = (file("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'), file("index.json", index))
    assert opened(archive(*FILES, file("manifest.json", USUAL), *members)).images() == []


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_compressed_archives(opened, pack):
    data = pack(archive(*FILES, file("manifest.json", USUAL)))
    assert checked(opened(data)) == [(FULL, DIGESTS)]
    for cut in (5, len(data) // 2, len(data) - 1):
        with pytest.raises(errors.DataLoss):
            opened(data[:cut])


def test_a_bomb_ends_at_the_bounds(opened):
    data = gzip.compress(archive(file("manifest.json", USUAL), file("zeros", bytes(16 << 20))))
    with pytest.raises(errors.ResourceExhausted, match="longer than"):
        opened(data, Bounds(size=8 << 20))
    with pytest.raises(errors.ResourceExhausted, match="times as long"):
        opened(data, Bounds(slack=1 << 20))


def test_a_layer_that_is_another_is_found_when_it_is_stored(opened):
    """It is offered under the digest that it should have."""
    made = opened(archive(one(), file("c.json", CONFIG), file("a/layer.tar", "x"), file("b/layer.tar", "y")))
    layer = manifest(made, made.images()[0].target).layers[0]
    assert layer.digest == DIGESTS[0]
    assert read(made, Descriptor(digest=layer.digest)) == b"x"
