"""Room for blobs: what is there, and what has come of others, needs none."""

import os

import pytest

from daemon.content.local import LocalContent
from daemon.content.room import Room
from spec import digest as digests
from spec import errors
from spec.oci.image import Descriptor

MB = 1 << 20


@pytest.fixture
def store(tmp_path):
    return LocalContent(str(tmp_path), sync=False)


@pytest.fixture
def room(tmp_path, store, monkeypatch):
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result((MB, MB, 9, 9, 3, 9, 9, 9, 0, 255)))
    return Room(store, str(tmp_path))


def blob(data, size=0):
    return Descriptor(digest=digests.of(data), size=size or len(data))


def test_what_fits(room):
    room.check([], "x")
    room.check([blob(b"a", 2 * MB), blob(b"b", MB), blob(b"a", 2 * MB)], "x")
    with pytest.raises(errors.ResourceExhausted, match=r"^x: it needs 3.1 MB of disk, and .* has 3.1 MB free$"):
        room.check([blob(b"a", 2 * MB), blob(b"b", MB + 1)], "x")


def test_what_is_there_needs_none(room, store):
    with store.writer("r") as writer:
        writer.write(bytes(2 * MB))
        writer.commit()
    room.check([blob(bytes(2 * MB)), blob(b"b", 3 * MB)], "x")


def test_what_has_come_needs_none(room, store):
    wanted = blob(b"b", 4 * MB)
    with pytest.raises(errors.ResourceExhausted):
        room.check([wanted], "x")
    with store.writer("ns/layer-b", wanted.size, wanted.digest) as writer:
        writer.write(bytes(MB))
    room.check([wanted], "x")
