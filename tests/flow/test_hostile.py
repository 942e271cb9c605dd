"""Pulls of images that mean harm, or are spoilt: no image, no snapshot of the layer or of what was to come above it,
nothing held that the next pull wants."""

import gzip
import json
import random
from functools import partial

import pytest
import zstandard

from daemon.kit import mounting
from daemon.kit.dictkv import DictKV
from daemon.snapshots.overlay import Overlay
from spec import digest as digests
from spec import errors
from spec.oci.image import OCI_LAYER_GZIP, OCI_LAYER_ZSTD
from spec.records import Kind
from tests.breakouts import OTHERS, PUBLISHED, REFUSED
from tests.disks import KINDS, MIB, disk
from tests.house import House
from tests.tarball import archive, entry, file, folder, hardlink
from tests.ways import Canary

pytestmark = pytest.mark.root

COMPRESS = {OCI_LAYER_GZIP: gzip.compress, OCI_LAYER_ZSTD: zstandard.ZstdCompressor(write_checksum=True).compress}


@pytest.fixture
def house(tmp_path):
    with disk(tmp_path, "tmpfs", 64 * MIB) as directory:
        made = House(directory)
        yield made
        made.close()


class Layer:
    """A layer of these entries; `spoil` makes something else of its blob, whose digest is then right again."""

    def __init__(self, *entries, media_type=OCI_LAYER_GZIP, spoil=bytes):
        plain = archive(*entries)
        self.diff_id = digests.of(plain)
        self.blob = spoil(COMPRESS[media_type](plain))
        self.media_type = media_type


def served(fake, *layers):
    """An image of these layers at `a:1`; its chain ids."""
    fake.image("1", {"x": b"x"})
    document = json.loads(fake.manifests["1"][1])
    config = json.loads(fake.blobs[document["config"]["digest"]])
    config["rootfs"]["diff_ids"] = [layer.diff_id for layer in layers]
    data = json.dumps(config).encode()
    document["config"] |= {"digest": fake.blob(data), "size": len(data)}
    document["layers"] = [
        {"mediaType": layer.media_type, "digest": fake.blob(layer.blob), "size": len(layer.blob)} for layer in layers
    ]
    fake.manifest("1", document)
    return digests.chain_ids([layer.diff_id for layer in layers])


def refused(house, fake, layers, bad, kinds):
    """Pulling them fails with one of `kinds`, and leaves no more than the layers below the `bad`th; those are real."""
    chain = served(fake, *layers)
    with pytest.raises(kinds):
        house.pull(f"{fake.host}/a:1")
    assert not list(house.images.list())
    left = {info.name: info.kind for info in house.snapshots.list()}
    assert left.keys() <= set(chain[:bad])
    assert set(left.values()) <= {Kind.COMMITTED}
    house.snapshots.cleanup()


def accepted(house, fake, *layers):
    """Pulling them works; the chain id of them all."""
    chain = served(fake, *layers)
    house.pull(f"{fake.host}/a:1")
    return chain[-1]


BASE = Layer(folder("d"), file("d/f", b"1" * 5000))
TOP = Layer(file("top", b"3"))
MIDDLE = (folder("d"), file("d/g", b"abc" * 3000), file("d/noise", random.Random(2).randbytes(9000)))


def _truncated(blob, at, choose):
    return blob[: at % len(blob)]


def _corrupted(blob, at, choose):
    return blob[: at % len(blob)] + choose.randbytes(30) + blob[at % len(blob) + 30 :]


def _with_garbage(blob, at, choose):
    return blob + bytes(at % 600) + b"\1" + choose.randbytes(600)


@pytest.mark.parametrize("spoil", [_truncated, _corrupted, _with_garbage])
@pytest.mark.parametrize("media_type", COMPRESS)
def test_a_spoilt_layer(house, fake, media_type, spoil):
    choose = random.Random(media_type + spoil.__name__)
    for _ in range(10):
        spoil_here = partial(spoil, at=choose.randrange(100, 8000), choose=choose)
        bad = Layer(*MIDDLE, media_type=media_type, spoil=spoil_here)
        refused(house, fake, (BASE, bad, TOP), 1, (errors.DataLoss, errors.InvalidArgument))
    accepted(house, fake, BASE, Layer(*MIDDLE, media_type=media_type), TOP)


HOSTILE = {
    "whiteout of the root": ((file("new"), file(".wh..")), errors.InvalidArgument),
    "whiteout of the root's parent": ((file("new"), file("d/.wh...")), errors.InvalidArgument),
    "size -1": ((file("new"), entry("bad", size=-1)), errors.InvalidArgument),
    "link to nothing": ((file("new"), hardlink("bad", "nosuch")), errors.InvalidArgument),
    "file below a file": ((file("new"), file("d/f/bad")), errors.InvalidArgument),
    "overlay's whiteout": ((file("new"), entry("d", "3")), errors.PermissionDenied),
    "device out of range": ((file("new"), entry("bad", "3", major=1 << 32)), errors.InvalidArgument),
    "ends in a body": ((file("new"), entry("bad", size=1 << 30)), errors.DataLoss),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_layer(house, fake, case):
    entries, error = HOSTILE[case]
    refused(house, fake, (BASE, Layer(*entries), TOP), 1, error)
    refused(house, fake, (BASE, TOP, Layer(*entries)), 2, error)
    accepted(house, fake, BASE, Layer(*MIDDLE), TOP)


@pytest.mark.parametrize("media_type", COMPRESS)
def test_a_bomb(house, fake, media_type):
    """The bounds end zstd's, the disk gzip's."""
    charge = COMPRESS[media_type](bytes(64 * MIB))
    lit = Layer(file("new"), entry("zeros", size=1 << 40), media_type=media_type, spoil=lambda blob: blob + charge * 3)
    refused(house, fake, (BASE, lit, TOP), 1, errors.ResourceExhausted)
    accepted(house, fake, BASE, TOP)


def test_another_layers_diff_id(house, fake):
    wrong = Layer(*MIDDLE)
    wrong.diff_id = TOP.diff_id
    refused(house, fake, (BASE, wrong, TOP), 1, errors.InvalidArgument)
    accepted(house, fake, BASE, Layer(*MIDDLE), TOP)


@pytest.mark.parametrize("kind", KINDS)
def test_a_disk_that_is_full_in_the_middle_of_a_layer(tmp_path, house, fake, kind):
    house.snapshots.close()
    (tmp_path / "small").mkdir()
    with disk(tmp_path / "small", kind) as directory:
        house.snapshots = Overlay(str(directory / "snapshots"), DictKV())
        large = Layer(*(file(f"{number}", bytes(3 * MIB)) for number in range(10)))
        refused(house, fake, (BASE, large, TOP), 1, errors.ResourceExhausted)
        accepted(house, fake, BASE, Layer(file("0", bytes(10 * MIB))), TOP)
        house.snapshots.close()


@pytest.mark.parametrize("case", PUBLISHED | OTHERS)
def test_breakouts(tmp_path, house, fake, case):
    """What is pulled is what is applied: the image's view holds what it should, and what is beside stays."""
    below, entries, check = (PUBLISHED | OTHERS)[case]
    canary = Canary(tmp_path / "canary")
    layer = Layer(*(entries(str(canary.host)) if callable(entries) else entries))
    base = Layer(*below or (file("base"),))
    if check == REFUSED:
        refused(house, fake, (base, layer), 1, errors.InvalidArgument)
    else:
        root = canary.place("root")
        root.mkdir()
        mounting.attach(house.snapshots.view("look", accepted(house, fake, base, layer)), str(root))
        try:
            assert check(root)
        finally:
            mounting.detach(str(root))
            root.rmdir()
    canary.check()
