"""What an earlier pull left of a layer: taken up if it is right, fetched anew if it is not, and never left empty."""

import json
import os

import pytest

from daemon.kit import mounting
from daemon.snapshots.native import Native
from daemon.snapshots.overlay import Overlay
from spec import digest as digests
from spec import errors
from tests import tricks
from tests.fake import Fake, layer
from tests.house import House

pytestmark = pytest.mark.root

SIZE = 3_000_000
FILES = {"good": os.urandom(SIZE)}
OTHER, _ = layer({"evil": b"x" * 1000, "noise": os.urandom(SIZE)})


@pytest.fixture(params=[Overlay, Native])
def house(request, tmp_path):
    made = House(tmp_path, request.param)
    yield made
    made.close()


@pytest.fixture
def fake():
    with Fake() as fake:
        fake.image("1", FILES)
        yield fake


def layer_of(fake):
    return json.loads(fake.manifests["1"][1])["layers"][0]["digest"]


def left(house, fake, data):
    """So much is here of the layer."""
    digest = layer_of(fake)
    with house.content.writer(f"layer-{digest}", len(fake.blobs[digest]), digest) as writer:
        writer.write(data)


def is_right(house, fake):
    (snapshot,) = house.snapshots.list()
    with house.content.reader(layer_of(fake)) as reader:
        assert digests.of(reader.read()) == layer_of(fake)
    with mounting.opened(house.snapshots.view("look", snapshot.name)) as root:
        assert os.listdir(root) == ["good"]
    assert not house.content.statuses()
    return True


def asked(fake):
    return [path for _, path, _ in fake.requests].count(f"/v2/a/blobs/{layer_of(fake)}")


@pytest.mark.parametrize("share", [0.001, 0.5, 1])
def test_what_is_right_is_not_fetched_again(house, fake, share):
    data = fake.blobs[layer_of(fake)]
    left(house, fake, data[: int(len(data) * share)])
    house.pull(f"{fake.host}/a:1")
    assert is_right(house, fake)
    assert fake.sent < len(data) * (1 - share) + 10_000


@pytest.mark.parametrize("bad", ["prefix", "middle", "other", "all", "longer"])
def test_what_is_wrong_is_fetched_anew_in_the_same_pull(house, fake, bad):
    data = fake.blobs[layer_of(fake)]
    half = len(data) // 2
    wrong = {
        "prefix": bytes(64),
        "middle": data[: half - 100] + bytes(100),
        "other": OTHER[:half],
        "all": OTHER[: len(data)],
        "longer": OTHER[: len(data)] + bytes(100),
    }
    left(house, fake, wrong[bad])
    house.pull(f"{fake.host}/a:1")
    assert is_right(house, fake)
    assert asked(fake) == (1 if bad in ("all", "longer") else 2)


def test_a_second_mismatch_is_final(house, fake):
    left(house, fake, OTHER[:1000])
    fake.tricks[layer_of(fake)] = [tricks.other_bytes] * 9
    with pytest.raises(errors.FailedPrecondition, match=rf"verifying {layer_of(fake)} of {fake.host}/a:1"):
        house.pull(f"{fake.host}/a:1")
    assert asked(fake) == 2
    assert not house.made()
    assert not house.content.statuses()


def test_what_was_not_resumed_is_not_fetched_twice(house, fake):
    fake.tricks[layer_of(fake)] = [tricks.other_bytes] * 9
    with pytest.raises(errors.FailedPrecondition, match="verifying"):
        house.pull(f"{fake.host}/a:1")
    assert asked(fake) == 1
    assert not house.content.statuses()


@pytest.mark.parametrize("trick", [tricks.status(404), tricks.status(403), tricks.page, tricks.another_length(9)])
def test_what_does_not_come_leaves_no_ingest(house, fake, trick):
    fake.tricks[layer_of(fake)] = [trick] * 9
    with pytest.raises(errors.Error, match=layer_of(fake)):
        house.pull(f"{fake.host}/a:1")
    assert not house.content.statuses()


def test_what_came_before_a_failure_stays(house, fake):
    data = fake.blobs[layer_of(fake)]
    left(house, fake, data[:1000])
    fake.tricks[layer_of(fake)] = [tricks.status(404)]
    with pytest.raises(errors.NotFound):
        house.pull(f"{fake.host}/a:1")
    (status,) = house.content.statuses()
    assert status.offset == 1000
