"""Layers that are damaged, too large, or of a kind nobody takes: an error in time, nothing kept, nothing held."""

import contextlib
import gzip
import itertools
import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import zstandard

from daemon.content.local import LocalContent
from daemon.diff.applier import ArchiveApplier
from daemon.diff.bounds import Bounds
from daemon.kit.dictkv import DictKV
from daemon.snapshots.native import Native
from daemon.snapshots.overlay import Overlay
from pyx import fs
from spec import digest as digests
from spec import errors
from spec.oci.image import OCI_LAYER_GZIP, Descriptor
from tests.disks import KINDS, MIB, disk
from tests.tarball import archive, entry, file, folder
from tests.ways import Chunks

pytestmark = pytest.mark.root

PATIENCE_S = 5  # until a damaged layer must have ended in an error
PLAIN = archive(
    folder("d"), file("d/text", b"abc" * 3000), file("d/noise", random.Random(1).randbytes(9000)), file("e")
)
BLOBS = {
    "gzip": gzip.compress(PLAIN, mtime=0),
    "gzip in members": gzip.compress(PLAIN[:5000], mtime=0) + gzip.compress(PLAIN[5000:], mtime=0),
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress(PLAIN),
}


def truncated(blob, choose):
    return blob[: choose.randrange(1, len(blob))]


def corrupted(blob, choose):
    damaged = bytearray(blob)
    for _ in range(choose.randrange(1, 4)):
        damaged[choose.randrange(len(blob))] ^= choose.randrange(1, 256)
    return bytes(damaged)


def cut_out(blob, choose):
    first, last = sorted(choose.sample(range(len(blob)), 2))
    return blob[:first] + blob[last:]


def with_garbage(blob, choose):
    return blob + bytes(choose.randrange(600)) + bytes([choose.randrange(1, 256)]) + choose.randbytes(600)


class House:
    """A snapshotter, and a thread that applies."""

    def __init__(self, directory, bounds=Bounds()):
        self._directory = directory
        self.snapshots = Overlay(str(directory / "snapshots"), DictKV())
        self._applier = ArchiveApplier(LocalContent(str(directory / "content")), bounds)
        self._thread = ThreadPoolExecutor(1)

    def apply(self, source, parent="", patience=PATIENCE_S):
        """Onto a new snapshot `key`, which goes again with an error; the diff id. TimeoutError for one that hangs."""
        descriptor = Descriptor(media_type=OCI_LAYER_GZIP, digest=digests.of(b""))
        mounts = self.snapshots.prepare("key", parent)
        try:
            work = self._thread.submit(self._applier.apply_stream, source, descriptor, mounts)
            return work.result(patience).descriptor.digest
        except BaseException:
            self.snapshots.remove("key")
            raise

    def free(self):
        """Bytes, once what was removed is gone."""
        self.snapshots.cleanup()
        fd = os.open(self._directory, os.O_RDONLY)
        try:
            fs.syncfs(fd)
            return os.fstatvfs(fd).f_bavail * os.fstatvfs(fd).f_frsize
        finally:
            os.close(fd)

    def close(self):
        self._thread.shutdown()
        self.snapshots.close()


@pytest.fixture
def house(tmp_path):
    with disk(tmp_path, "tmpfs") as directory:
        made = House(directory)
        yield made
        made.close()


@pytest.mark.parametrize("damage", [truncated, corrupted, cut_out, with_garbage])
@pytest.mark.parametrize("kind", BLOBS)
def test_a_thousand_damages(house, kind, damage):
    """Damage is an error, or harmless: a header's times. A member's end is no end of the layer that anyone could tell;
    then the diff id does."""
    choose = random.Random(f"{kind} {damage.__name__}")
    blob = BLOBS[kind]
    harmless = 0
    for _ in range(1000):
        try:
            diff_id = house.apply(Chunks(damage(blob, choose), (choose.randrange(1, 5000),)))
        except (errors.DataLoss, errors.InvalidArgument):
            assert not list(house.snapshots.list())
            continue
        house.snapshots.remove("key")
        harmless += 1
        assert diff_id == digests.of(PLAIN) or kind == "gzip in members"
    assert harmless < 30
    assert house.apply(Chunks(blob)) == digests.of(PLAIN)
    house.snapshots.commit("whole", "key")


class Bomb:
    """A source that makes its bytes as they are asked for: a fuse, then `times` the same charge."""

    def __init__(self, fuse, charge, times):
        self.read_bytes = 0
        self._parts = itertools.chain([fuse], itertools.repeat(charge, times))
        self._data = b""

    def read(self, size, /):
        self._data = self._data or next(self._parts, b"")
        data, self._data = self._data[:size], self._data[size:]
        self.read_bytes += len(data)
        return data

    def close(self):
        pass


class Memory:
    """How much more of it this process had at once while the block ran, in bytes."""

    def __enter__(self):
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew (proc(5))
        self._before = self._of("VmRSS")
        return self

    def __exit__(self, *exc):
        self.growth = self._of("VmHWM") - self._before

    @staticmethod
    def _of(field):
        text = Path("/proc/self/status").read_text()
        return int(text.split(f"{field}:")[1].split()[0]) << 10


ZEROS = bytes(64 * MIB)
HUGE = 100 << 30
CHARGES = {"gzip": gzip.compress(ZEROS), "zstd": zstandard.compress(ZEROS)}


FUSES = {
    "a file": entry("zeros", size=HUGE),
    "a body without meaning": entry("zeros", "g", size=HUGE),
    "behind the end": archive(file("f", b"1")),
}


@pytest.mark.parametrize("fuse", FUSES)
@pytest.mark.parametrize("compression", CHARGES)
def test_100_gib_of_zeros(house, compression, fuse):
    """10 MiB of zstd come to that, or 100 MiB of gzip, whose ratio has an end. The disk ends it, or the bounds do."""
    compress = gzip.compress if compression == "gzip" else zstandard.compress
    bomb = Bomb(compress(FUSES[fuse]), CHARGES[compression], HUGE // len(ZEROS))
    with Memory() as memory, pytest.raises(errors.ResourceExhausted):
        house.apply(bomb, patience=60)
    assert memory.growth < 32 * MIB
    assert not list(house.snapshots.list())
    assert house.free() > 15 * MIB


@pytest.mark.parametrize("name", ["{}", "d/{}", "same", "."])
def test_more_entries_than_the_bounds_allow(tmp_path, name):
    many = Chunks(b"".join(entry(name.format(at), "5" if name == "." else "0") for at in range(30_000)), (1 << 16,))
    room = disk(tmp_path, "tmpfs", 256 * MIB)
    with room as directory, contextlib.closing(House(directory, Bounds(entries=20_000))) as house:
        with Memory() as memory, pytest.raises(errors.ResourceExhausted):
            house.apply(many, patience=60)
        assert memory.growth < 16 * MIB
        assert not list(house.snapshots.list())


def test_more_files_than_the_disk_has_inodes(tmp_path):
    names = [entry(f"{number}") for number in range(5000)]
    few = disk(tmp_path, "tmpfs", 16 * MIB, "nr_inodes=1000")
    with few as directory, contextlib.closing(House(directory)) as house:
        with pytest.raises(errors.ResourceExhausted):
            house.apply(Chunks(gzip.compress(b"".join(names))))
        house.free()
        house.apply(Chunks(gzip.compress(b"".join(names[:900]))))


@pytest.mark.parametrize("kind", KINDS)
def test_a_disk_that_is_full_in_the_middle_of_a_layer(tmp_path, kind):
    """Whatever the middle is: the space comes back, and what fits goes on."""

    def fit(size):
        return Chunks(gzip.compress(archive(*(file(f"{turn}", bytes(size // 8)) for turn in range(8)))))

    with disk(tmp_path, kind) as directory, contextlib.closing(House(directory)) as house:
        house.apply(fit(2 * MIB))
        house.snapshots.commit("below", "key")
        before = house.free()
        for size in range(17 * MIB, 30 * MIB, MIB):
            with pytest.raises(errors.ResourceExhausted):
                house.apply(fit(size), "below")
            assert [info.name for info in house.snapshots.list()] == ["below"]
            assert house.free() >= before
        house.apply(fit(2 * MIB), "below")
        house.snapshots.commit("above", "key")


def test_a_disk_that_does_not_tell_types_of_files(tmp_path):
    """ext4 can be made so too; overlay would take its own whiteouts there for files."""
    with disk(tmp_path, "ext4 without d_type") as directory:
        with pytest.raises(errors.FailedPrecondition, match="d_type"):
            Overlay(str(directory / "snapshots"), DictKV())
        with contextlib.closing(Native(str(directory / "native"), DictKV())) as snapshots:
            snapshots.prepare("key")
