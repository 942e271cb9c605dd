"""A large layer over several connections: of servers that give parts, that do not, and that say they do."""

import json
import math
import os
import threading

import pytest

from daemon.images.ranges import Ranges
from daemon.kit.threads import Pool
from spec import digest as digests
from spec import errors
from tests import tricks
from tests.fake import Fake
from tests.house import House

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("impatient")]

SIZE = 1_000_000
PART = 100_000
AHEAD = 3


@pytest.fixture
def house(tmp_path):
    made = House(tmp_path)
    with Pool("range", AHEAD) as pool:
        made.ranges = Ranges(pool.executor, AHEAD, PART, enough=math.inf)
        yield made
        assert [made.ranges.take() for _ in range(AHEAD + 1)] == [True] * AHEAD + [False], "all were given back"
    made.close()


@pytest.fixture
def fake():
    with Fake() as fake:
        fake.image("1", {"data": os.urandom(SIZE)})
        yield fake


def layer_of(fake):
    return json.loads(fake.manifests["1"][1])["layers"][0]["digest"]


def pull(house, fake):
    """The bytes of the layer, as they came."""
    house.pull(f"{fake.host}/a:1")
    with house.content.reader(layer_of(fake)) as reader:
        data = reader.read()
    assert digests.of(data) == layer_of(fake)
    return data


def test_parts_come_once_and_together(house, fake):
    together = threading.Barrier(AHEAD, timeout=30)

    def meets(handler, data, start):
        together.wait()  # none is served before all are asked for
        tricks.part()(handler, data, start)

    digest = layer_of(fake)
    fake.tricks[digest] = [tricks.part(), *[meets] * AHEAD]
    size = len(pull(house, fake))
    asked = sorted(fake.ranges)
    ends = [*range(PART, size, PART), size]
    assert [(first, end) for _, first, end in asked] == list(zip([0, *ends], ends, strict=False))


def test_a_fast_server_gives_longer_parts_one_after_the_other(house, fake):
    house.ranges.enough = 0
    digest = layer_of(fake)
    size = len(pull(house, fake))
    assert fake.ranges == [(digest, 0, PART), (digest, PART, 9 * PART), (digest, 9 * PART, size)]


def test_what_is_less_than_a_part_comes_with_the_last(house, fake):
    house.ranges.enough = 0
    fake.image("1", {"data": os.urandom(9 * PART)})
    digest = layer_of(fake)
    size = len(pull(house, fake))
    assert 9 * PART < size < 10 * PART
    assert fake.ranges == [(digest, 0, PART), (digest, PART, size)]


def test_a_fast_server_that_slows_down_is_helped(house, fake):
    house.ranges.enough = 1e5
    fake.image("1", {"data": os.urandom(12 * PART)})
    digest = layer_of(fake)
    fake.tricks[digest] = [tricks.part(), tricks.stalls(1000)]
    pull(house, fake)
    assert (digest, 9 * PART, 10 * PART) in fake.ranges


def test_a_small_layer_comes_in_one(house, fake):
    fake.image("1", {"data": os.urandom(PART)})
    pull(house, fake)
    assert not fake.ranges


@pytest.mark.parametrize("trick", [tricks.ignores_ranges, tricks.all_that_is_left])
def test_a_server_that_gives_no_parts(house, fake, trick):
    fake.tricks[layer_of(fake)] = [trick]
    pull(house, fake)
    assert len(fake.ranges) == 1


def test_what_was_there_is_not_asked_for(house, fake):
    digest = layer_of(fake)
    with house.content.writer(f"layer-{digest}", len(fake.blobs[digest]), digest) as writer:
        writer.write(fake.blobs[digest][: 2 * PART + 5])
    pull(house, fake)
    assert min(first for _, first, _ in fake.ranges) == 2 * PART + 5


@pytest.mark.parametrize("number", [0, 1, 2, 6])
@pytest.mark.parametrize(
    "trick", [tricks.resets(70_000), tricks.ends_early(70_000), tricks.stalls(70_000), tricks.status(503)]
)
def test_a_part_that_breaks_goes_on(house, fake, number, trick):
    fake.tricks[layer_of(fake)] = [*[tricks.part()] * number, trick]
    pull(house, fake)


@pytest.mark.parametrize(
    ("trick", "error", "says"),
    [
        (tricks.ignores_ranges, errors.DataLoss, "all of it came"),
        (tricks.all_that_is_left, errors.DataLoss, "all of it came"),
        (tricks.another_range, errors.DataLoss, "asked from byte"),
        (tricks.part(lambda data: data[:-1] + b"x"), errors.FailedPrecondition, "its digest is"),
        (tricks.part(lambda data: data + b"x"), errors.FailedPrecondition, "it has .* bytes, not"),
        (tricks.status(404), errors.NotFound, "status 404"),
        (tricks.status(416), errors.Unknown, "status 416"),
    ],
)
def test_a_server_that_changes_its_mind(house, fake, trick, error, says):
    """Nothing is taken of it, and what was right of what came is not fetched again."""
    digest = layer_of(fake)
    fake.tricks[digest] = [tricks.part(), tricks.part(), *[trick] * 20]
    with pytest.raises(error, match=f"{digest}.*{says}"):
        house.pull(f"{fake.host}/a:1")
    assert not house.made()
    fake.tricks.clear()
    pull(house, fake)


def test_whoever_gives_up_frees_what_was_ahead(house, fake):
    fake.tricks[layer_of(fake)] = [tricks.part(), tricks.part(), *[tricks.status(404)] * 20]
    for _ in range(3):
        with pytest.raises(errors.NotFound):
            house.pull(f"{fake.host}/a:1")
