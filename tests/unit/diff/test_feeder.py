"""A feeder: whoever writes, a thread or the one that feeds, the tree is the same."""

import os

import pytest

from daemon.diff import feeder
from daemon.diff.feeder import ROOM, Feeder
from pyx.unpack import Malformed, Unpacker
from tests import tarball

FILES = {f"file-{number}": os.urandom(700_000) for number in range(10)}
ARCHIVE = b"".join(tarball.entry(name, body=body) for name, body in FILES.items()) + bytes(1024)
NEVER, ALWAYS = 0, 1000  # cores


def fed(archive, directory, cores, size=ROOM):
    """Fed `size` bytes at once, with so many cores in turn."""
    root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with Unpacker(root) as unpacker, Feeder(unpacker) as feeding:
            for turn, at in enumerate(range(0, len(archive), size)):
                feeder._cores = cores[turn % len(cores)]
                room = feeding.room()
                data = archive[at : at + size]
                room[: len(data)] = data
                feeding.feed(len(data))
            return feeding.finish()
    finally:
        os.close(root)


@pytest.fixture(autouse=True)
def cores(monkeypatch):
    monkeypatch.setattr(feeder, "_cores", feeder._cores)


@pytest.mark.parametrize("size", [ROOM, 100_000])
@pytest.mark.parametrize("turns", [[NEVER], [ALWAYS], [NEVER, ALWAYS], [ALWAYS] * 3 + [NEVER] * 2])
def test_whoever_writes(tmp_path, turns, size):
    assert fed(ARCHIVE, tmp_path, turns, size)[1] == len(FILES)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == FILES


@pytest.mark.parametrize("turns", [[NEVER], [ALWAYS], [ALWAYS, NEVER]])
def test_what_is_wrong_is_told(tmp_path, turns):
    damaged = bytearray(ARCHIVE)
    damaged[7 * (512 + 700_000 + 416)] ^= 1  # the eighth's name
    with pytest.raises(Malformed, match="checksum"):
        fed(bytes(damaged), tmp_path, turns)
    assert len(list(tmp_path.iterdir())) == 7


def test_only_as_many_as_there_are_cores_have_a_thread(tmp_path):
    """Each of two, where there are two cores, writes by itself."""
    feeder._cores = 2
    roots = [os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY) for _ in range(2)]
    with Unpacker(roots[0]) as one, Unpacker(roots[1]) as other, Feeder(one) as first:
        for at in range(0, len(ARCHIVE), ROOM):
            data = ARCHIVE[at : at + ROOM]
            first.room()[: len(data)] = data
            first.feed(len(data))
        assert first._thread is not None
        with Feeder(other) as second:
            for _ in range(20):
                second.room()[:512] = tarball.entry("a", body=b"")
                second.feed(512)
            second._fed = 1 << 30
            second.room()[:512] = tarball.entry("b", body=b"")
            second.feed(512)
            assert second._thread is None
        first.finish()
    for root in roots:
        os.close(root)
