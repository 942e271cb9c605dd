"""Archives of images that nobody would write: bytes changed anywhere, members in any order, links among them.

Whatever comes of it is an archive whose blobs can be read, or one of our errors, and soon.
"""

import gzip
import json
import os
import tempfile
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.diff import compression, processors
from daemon.diff.bounds import Bounds
from daemon.images.archive import Archive
from daemon.kit.cancel import Token
from spec import errors
from spec.oci import graph
from spec.oci.image import OCI_LAYER_GZIP
from tests.fake import digest_of
from tests.tarball import archive, file, hardlink, long_name, pax, symlink

MORE = int(os.environ.get("HOLDD_FUZZ", "1"))  # times as many examples, by chance then and not always the same
BOUNDS = Bounds(size=64 << 20)
LAYER = b"layer" * 300
CONFIG = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [digest_of(LAYER)]}}
SAVED = [{"Config": "c.json", "RepoTags": ["a:1"], "Layers": ["l/layer.tar"]}]
BODIES = {
    "c.json": json.dumps(CONFIG).encode(),
    "l/layer.tar": LAYER,
    "manifest.json": json.dumps(SAVED).encode(),
    "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
    "index.json": json.dumps({"schemaVersion": 2, "manifests": [
        {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest_of(LAYER), "size": len(LAYER)},
    ]}).encode(),
    f"blobs/sha256/{digest_of(LAYER)[7:]}": LAYER,
}  # fmt: skip
GOOD = archive(*(file(name, BODIES[name]) for name in ("manifest.json", "c.json", "l/layer.tar")))

names = st.sampled_from([*BODIES, "l", "x", "../x", "/etc/passwd"])
bodies = st.one_of(st.sampled_from([*BODIES.values(), gzip.compress(LAYER)]), st.binary(max_size=600))
members = st.one_of(
    names.map(lambda name: file(name, BODIES.get(name, b""))),
    st.builds(file, names, bodies),
    st.builds(symlink, names, names),
    st.builds(hardlink, names, names),
    st.builds(lambda name, target: pax(path=name, linkpath=target) + symlink("x", "y"), names, names),
    st.builds(lambda name, body: long_name(name) + file("x", body), names, bodies),
    st.builds(lambda name, size: pax(size=size) + file(name, BODIES.get(name, b"")), names, st.integers(0, 1 << 40)),
)
changes = st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=6)


def examples(count):
    return settings(max_examples=count * MORE, derandomize=MORE == 1, deadline=None, database=None)


def taken(data, compress=False):
    """All that can be read of an archive; an error that is ours."""
    with tempfile.TemporaryDirectory() as directory, tempfile.TemporaryFile() as made:
        made.write(data)
        made.flush()
        undone = partial(processors.opened, media_type=OCI_LAYER_GZIP, bounds=BOUNDS)
        pack = partial(compression.compressor, OCI_LAYER_GZIP) if compress else None
        try:
            with Archive(made.fileno(), directory, Token(), undone, pack) as opened:
                for _, target in opened.images():
                    for part in graph.children(target, whole(opened, target)):
                        whole(opened, part)
        except errors.Error as exc:
            return exc
    return None


def whole(opened, descriptor):
    source = opened.fetch(descriptor)
    body = b""
    while data := source.read(1 << 16):
        body += data
    source.close()
    return body


@given(st.lists(members, max_size=10), st.booleans())
@examples(400)
def test_any_members(many, compress):
    taken(archive(*many), compress)


@given(changes, st.booleans())
@examples(400)
def test_any_bytes_changed(changed, packed):
    data = bytearray(GOOD)
    for at, value in changed:
        data[at] = value
    taken(gzip.compress(data, 1) if packed else bytes(data))


@given(st.integers(0, len(GOOD)), st.booleans())
@examples(100)
def test_cut_off_anywhere(length, packed):
    data = gzip.compress(GOOD, 1) if packed else GOOD
    assert (taken(data[:length]) is None) == (length >= len(data) - (0 if packed else 512))


def test_what_is_good_is():
    assert taken(GOOD) is None
    assert taken(GOOD, compress=True) is None


@pytest.mark.parametrize("bad", [b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\x1f\x8b\x08" * 1000])
def test_what_only_begins_as_if_it_were_compressed(bad):
    assert isinstance(taken(bad), errors.Error)
