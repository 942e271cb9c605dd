"""Inflating: any number of members and frames, damage told from an end, and no bomb goes off."""

import gzip
import io
import os
import random
import resource

import pytest
import zstandard

from daemon.diff.bounds import Bounds
from daemon.diff.processors import opened
from spec import errors
from spec.oci.image import DOCKER_LAYER, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD

DATA = os.urandom(400_000) + bytes(400_000)
SKIPPABLE = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"hello"


def inflated(blob, media_type, bounds=Bounds(), size=10_000):
    return drained(opened(io.BytesIO(blob), media_type, bounds), size)


def drained(plain, size):
    parts, buffer = [], memoryview(bytearray(size))
    while got := plain.readinto(buffer):
        parts.append(bytes(buffer[:got]))
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


def test_it_is_a_source():
    source = opened(io.BytesIO(gzip.compress(DATA)), OCI_LAYER_GZIP)
    assert source.read(1000) + source.read(len(DATA) * 2) == DATA
    assert source.read(1000) == b""


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


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
def test_cut_off_at_every_byte(compress):
    plain = b"abc" * 100 + os.urandom(100)
    blob = compress(plain) + compress(plain)
    ends = {len(compress(plain)), len(blob)}
    for cut in range(5, len(blob)):
        if cut in ends:
            assert inflated(blob[:cut], DOCKER_LAYER) == plain
        else:
            with pytest.raises(errors.DataLoss):
                inflated(blob[:cut], DOCKER_LAYER)


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.ZstdCompressor(write_checksum=True).compress])
def test_any_byte_changed_is_found_or_harmless(compress):
    plain = b"abc" * 100 + os.urandom(200)
    blob = compress(plain)
    choose = random.Random(1)
    for _ in range(1000):
        damaged = bytearray(blob)
        damaged[choose.randrange(len(blob))] ^= 1 << choose.randrange(8)
        try:
            found = inflated(bytes(damaged), OCI_LAYER_GZIP)
        except errors.DataLoss:
            continue
        assert found in (plain, bytes(damaged))  # a header's flags and times; a magic that is none


def test_what_is_behind_the_last_member():
    blob = gzip.compress(DATA)
    assert inflated(blob + bytes(200_000), OCI_LAYER_GZIP) == DATA
    assert inflated(blob + bytes(200_000) + blob, OCI_LAYER_GZIP) == DATA * 2
    for rest in (b"garbage", bytes(10) + b"\x1f\x8b", b"\x1f\x8b\x08"):
        with pytest.raises(errors.DataLoss):
            inflated(blob + rest, OCI_LAYER_GZIP)


def test_a_member_for_each_file():
    """As eStargz has them: small ones by the thousand, each with something in it."""
    parts = [os.urandom(50) for _ in range(5000)]
    assert inflated(b"".join(map(gzip.compress, parts)), OCI_LAYER_GZIP) == b"".join(parts)
    assert inflated(b"".join(map(zstandard.compress, parts)), OCI_LAYER_ZSTD) == b"".join(parts)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000, 65_536])
@pytest.mark.parametrize("checksum", [True, False])
def test_zstd_that_comes_in_any_pieces(size, checksum):
    class Trickle(io.BytesIO):
        def read(self, _size):
            return super().read(size)

    compressor = zstandard.ZstdCompressor(write_checksum=checksum)
    data = DATA[:3000] + DATA[-200_000:]
    stream = compressor.compressobj()
    unsized = stream.compress(data) + stream.flush()
    blob = compressor.compress(data) + SKIPPABLE * 2 + unsized + compressor.compress(b"x")
    assert drained(opened(Trickle(blob), OCI_LAYER_ZSTD), 10_000) == data * 2 + b"x"
    for end in (3, 9):
        with pytest.raises(errors.DataLoss):
            drained(opened(Trickle(blob[:-end]), OCI_LAYER_ZSTD), 10_000)


def test_zstd_blocks_without_end_that_hold_nothing():
    frame = b"\x28\xb5\x2f\xfd" + bytes([0x00, 0x50])
    with pytest.raises(errors.ResourceExhausted, match="hold nothing"):
        inflated(frame + bytes(3) * 10_000, OCI_LAYER_ZSTD)


@pytest.mark.parametrize("empty", [gzip.compress(b""), zstandard.compress(b""), SKIPPABLE])
def test_members_without_end_that_hold_nothing(empty):
    with pytest.raises(errors.ResourceExhausted, match="hold nothing"):
        inflated(empty * (10_000 if empty[0] != 0x1F else 300_000), DOCKER_LAYER)
    last = gzip.compress(DATA) if empty.startswith(b"\x1f") else zstandard.compress(DATA)
    assert inflated(empty * 900 + last, DOCKER_LAYER) == DATA


def test_a_window_larger_than_we_allow():
    frame = b"\x28\xb5\x2f\xfd" + bytes([0x00, (31 - 10) << 3]) + b"\x01\x00\x00"
    with pytest.raises(errors.DataLoss, match="memory"):
        inflated(frame, OCI_LAYER_ZSTD)


@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_source_that_gives_little_at_once(size):
    class Slow(io.BytesIO):
        def read(self, most=-1, /):
            return super().read(min(most, size))

    for blob in (gzip.compress(DATA[:3000]) * 2 + bytes(10), SKIPPABLE + zstandard.compress(DATA[:3000] * 2)):
        assert drained(opened(Slow(blob), DOCKER_LAYER), 500) == DATA[:3000] * 2


def test_what_is_no_layer():
    with pytest.raises(errors.Unimplemented, match="application/x-thing"):
        opened(io.BytesIO(b""), "application/x-thing")
