"""Inflating: any number of members and frames, damage told from an end, and no bomb goes off."""

import gzip
import io
import os
import resource

import pytest
import zstandard

from daemon.diff.processors import Bounds, opened
from spec import errors
from spec.oci.image import DOCKER_LAYER, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD

DATA = os.urandom(400_000) + bytes(400_000)
SKIPPABLE = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"hello"


def inflated(blob, media_type, bounds=Bounds(), size=10_000):
    plain = opened(io.BytesIO(blob), media_type, bounds)
    parts = []
    while data := plain.read(size):
        assert len(data) <= size
        parts.append(data)
    return b"".join(parts)


@pytest.mark.parametrize(
    ("blob", "media_type"),
    [
        (DATA, OCI_LAYER),
        (DATA, DOCKER_LAYER),
        (gzip.compress(DATA), OCI_LAYER_GZIP),
        (gzip.compress(DATA), DOCKER_LAYER),
        (gzip.compress(DATA[:1000]) + gzip.compress(DATA[1000:]), OCI_LAYER_GZIP),
        (gzip.compress(b"") + gzip.compress(DATA) + bytes(5000), OCI_LAYER_GZIP),
        (zstandard.compress(DATA), OCI_LAYER_ZSTD),
        (zstandard.compress(DATA), OCI_LAYER_GZIP),  # the bytes know better than their name
        (SKIPPABLE + zstandard.compress(DATA[:1000]) + SKIPPABLE + zstandard.compress(DATA[1000:]), OCI_LAYER_ZSTD),
        (SKIPPABLE + zstandard.compress(DATA), DOCKER_LAYER),
        (zstandard.compress(DATA) + SKIPPABLE, OCI_LAYER_ZSTD),
    ],
)
@pytest.mark.parametrize("size", [1 << 20, 7777])
def test_inflating(blob, media_type, size):
    assert inflated(blob, media_type, size=size) == DATA


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
def test_what_ends_too_early(compress):
    blob = compress(DATA)
    media_type = OCI_LAYER_GZIP if compress is gzip.compress else OCI_LAYER_ZSTD
    for cut in (5, 20, 1000, len(blob) // 2, len(blob) - 1):
        with pytest.raises(errors.DataLoss):
            inflated(blob[:cut], media_type)


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.ZstdCompressor(write_checksum=True).compress])
def test_damage(compress):
    blob = bytearray(compress(DATA))
    blob[len(blob) // 2] ^= 0xFF
    media_type = OCI_LAYER_GZIP if compress is gzip.compress else OCI_LAYER_ZSTD
    with pytest.raises(errors.DataLoss):
        inflated(bytes(blob), media_type)


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
def test_a_bomb_ends_in_flat_memory(compress):
    blob = compress(bytes(256 << 20))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(errors.ResourceExhausted):
        inflated(blob, DOCKER_LAYER, Bounds(size=100 << 20), size=1 << 20)
    with pytest.raises(errors.ResourceExhausted):
        inflated(zstandard.compress(bytes(256 << 20)), OCI_LAYER_ZSTD, Bounds(ratio=100, slack=1 << 20))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 << 10  # KiB: the bombs' own bytes


def test_what_is_no_layer():
    with pytest.raises(errors.Unimplemented, match="application/x-thing"):
        opened(io.BytesIO(b""), "application/x-thing")
