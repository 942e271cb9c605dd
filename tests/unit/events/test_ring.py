"""The ring: what went in comes out, after any death of its owner, and the oldest makes room."""

import os
import random
import signal
from contextlib import closing

import pytest

from daemon.events.ring import MAGIC, SEGMENTS, Ring
from spec import errors

SIZE = SEGMENTS * 4096


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "ring")


def opened(path, size=SIZE):
    return closing(Ring(path, size))


def payload(number):
    return random.Random(number).randbytes(number * 37 % 700)


def everything(ring, limit=10_000):
    """All it has, `limit` records at a time."""
    records, at = ring.read(0, limit)
    found = records
    while records:
        records, at = ring.read(records[-1][0], limit, at)
        found = found + records
    return found


def expected(ring):
    return [(number, payload(number)) for number in range(ring.oldest, ring.last + 1)]


@pytest.mark.parametrize("count", [0, 1, 5, 11, 12, 500, 3000])
@pytest.mark.parametrize("limit", [1, 7, 10_000])
def test_what_is_appended_is_read_again_by_this_owner_and_the_next(path, count, limit):
    with opened(path) as ring:
        assert [ring.append(payload(number)) for number in range(1, count + 1)] == list(range(1, count + 1))
        found = everything(ring, limit)
        assert found == expected(ring)
        assert count < 50 or len(found) > 50
    with opened(path) as ring:
        assert ring.last == count
        assert everything(ring, limit) == found
        assert ring.append(payload(count + 1)) == count + 1
        assert everything(ring)[-1] == (count + 1, payload(count + 1))


def test_a_reader_who_is_overtaken_goes_on_with_the_oldest(path):
    with opened(path) as ring:
        for number in range(1, 51):
            ring.append(payload(number))
        _, at = ring.read(0, 3)
        for number in range(51, 1001):
            ring.append(payload(number))
        assert ring.read(3, 2, at)[0] == [(number, payload(number)) for number in (ring.oldest, ring.oldest + 1)]


def test_the_largest(path):
    with opened(path) as ring:
        with pytest.raises(ValueError, match="larger"):
            ring.append(b"x" * (ring.largest + 1))
        for number in range(20):
            ring.append(bytes([number]) * ring.largest)
        assert [body[0] for _, body in everything(ring)] == list(range(20 - SEGMENTS, 20))


def test_its_owner_is_killed_while_he_appends(path):
    """What he said he had appended is there, and nothing that was never appended."""
    for turn in range(5):
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            ring = Ring(path, SIZE)
            while True:
                os.write(writing, b"%d\n" % ring.append(payload(ring.last + 1)))
        os.close(writing)
        with os.fdopen(reading) as lines:
            told = [int(lines.readline()) for _ in range(300 * (turn + 1))]
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            told += map(int, lines)
        with opened(path) as ring:
            assert told[-1] <= ring.last <= told[-1] + 1
            assert everything(ring) == expected(ring)


def test_damage_ends_what_can_be_read(path):
    with opened(path) as ring:
        for number in range(1, 11):
            ring.append(payload(number))
        _, at = ring.read(0, 6)
    with open(path, "r+b") as file:
        file.seek(at + 20)
        byte = file.read(1)
        file.seek(at + 20)
        file.write(bytes([byte[0] ^ 1]))
    with opened(path) as ring:
        assert ring.last == 6
        assert everything(ring) == expected(ring)
        assert ring.append(b"again") == 7


def test_damage_further_back_gives_up_what_is_before_it(path):
    with opened(path) as ring:
        for number in range(1, 61):
            ring.append(payload(number))
        whole = len(everything(ring))
    with open(path, "r+b") as file:
        file.seek(4096 + 4096 + 100)
        file.write(b"\xff" * 64)
    with opened(path) as ring:
        found = everything(ring)
        assert found == expected(ring)
        assert ring.last == 60
        assert 0 < len(found) < whole


def test_another_size_begins_anew_and_goes_on_counting(path):
    with opened(path) as ring:
        for number in range(1, 101):
            ring.append(payload(number))
    with opened(path, 2 * SIZE) as ring:
        assert (ring.last, everything(ring)) == (100, [])
        assert ring.append(payload(101)) == 101
    assert os.path.getsize(path) == 2 * SIZE + 4096


@pytest.mark.parametrize("content", [b"x", b"x" * 100_000, MAGIC, MAGIC + b"\xff" * 5000, MAGIC + bytes(SIZE)])
def test_what_is_no_ring_begins_anew(path, content, caplog):
    with open(path, "wb") as file:
        file.write(content)
    with opened(path) as ring:
        assert (ring.last, everything(ring)) == (0, [])
    assert "begins anew" in caplog.text


def test_where_none_can_be(tmp_path):
    with pytest.raises(errors.NotFound, match="opening the ring of events"):
        Ring(str(tmp_path / "nosuch" / "ring"), SIZE)
