"""Images as a journey uses them: one is put, whether it was there or not; events say what was committed."""

import threading

import pytest
from msgspec.structs import replace

from daemon.metadata.store import Store
from daemon.scoped.images import MAX_TIMING, ScopedImages
from spec import errors
from spec.events import ImageCreate, ImageDelete, ImageUpdate
from spec.oci.image import Descriptor
from spec.records import Image, Timing

TARGET = Descriptor(media_type="a/b", digest="sha256:" + "1" * 64, size=1)
OTHER = Descriptor(media_type="a/b", digest="sha256:" + "2" * 64, size=2)


class Recorder:
    """A ports.Publisher that remembers; events come from the store's writer, a moment after its commit."""

    def __init__(self):
        self._events = []
        self._came = threading.Condition()

    def publish(self, namespace, topic, event):
        with self._came:
            self._events.append((namespace, topic, event))
            self._came.notify_all()

    def first(self, count):
        with self._came:
            assert self._came.wait_for(lambda: len(self._events) >= count, 10)
            return self._events


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def images(tmp_path, recorder):
    store = Store(str(tmp_path), sync=False)
    yield ScopedImages(store, recorder, "ns")
    store.close()


def test_putting_makes_and_moves(images):
    images.put_image("i", TARGET, {"a": "1", "b": "2"})
    before = images.get("i")
    assert (before.target, before.labels) == (TARGET, {"a": "1", "b": "2"})
    images.put_image("i", OTHER, {"b": "3"})
    after = images.get("i")
    assert (after.target, after.labels) == (OTHER, {"a": "1", "b": "3"})
    assert after.created_at_ns == before.created_at_ns
    assert after.updated_at_ns > before.updated_at_ns


def test_how_an_image_came_is_the_daemons_to_say(images):
    phase = Timing(name="fetch", began_at_ns=5, took_ns=7, of="sha256:x")
    images.put_image("i", TARGET, {}, [phase])
    assert list(images.get("i").timing) == [phase]
    assert [image.timing for image in images.list()] == [()]
    images.update(Image(name="i", target=OTHER, labels={"a": "1"})).result()
    assert list(images.get("i").timing) == [phase]
    with pytest.raises(errors.InvalidArgument, match="field 'timing' cannot be updated"):
        images.update(Image(name="i", target=OTHER), ["timing"]).result()
    images.put_image("i", TARGET, {}, [phase] * (MAX_TIMING + 1))
    assert len(images.get("i").timing) == MAX_TIMING
    assert images.create(Image(name="j", target=TARGET, timing=(phase,))).result().timing == ()


def test_events_say_what_was_committed(images, recorder):
    images.create(Image(name="i", target=TARGET, labels={"a": "1", "b": "2"})).result()
    images.update(Image(name="i", target=OTHER, labels={"a": "3"}), ["labels.a"]).result()
    with pytest.raises(errors.AlreadyExists):
        images.create(Image(name="i", target=TARGET)).result()
    with pytest.raises(errors.NotFound):
        images.update(Image(name="j", target=TARGET)).result()
    images.delete("i", TARGET).result()
    assert recorder.first(3) == [
        ("ns", "/images/create", ImageCreate(name="i", labels={"a": "1", "b": "2"})),
        ("ns", "/images/update", ImageUpdate(name="i", labels={"a": "3", "b": "2"})),
        ("ns", "/images/delete", ImageDelete(name="i")),
    ]


def test_times_can_be_given(images):
    """SOURCE_DATE_EPOCH: so that an image is made the same again."""
    image = images.create(Image(name="i", target=TARGET), epoch_ns=5).result()
    assert (image.created_at_ns, image.updated_at_ns) == (5, 5)
    image = images.update(replace(image, target=OTHER), ["target"], epoch_ns=7).result()
    assert (image.created_at_ns, image.updated_at_ns) == (5, 7)
    assert images.get("i") == image


@pytest.mark.parametrize(
    "image",
    [
        Image(name="", target=TARGET),
        Image(name="i", target=replace(TARGET, size=0)),
        Image(name="i", target=replace(TARGET, size=-1)),
        Image(name="i", target=replace(TARGET, media_type="")),
        Image(name="i", target=replace(TARGET, digest="")),
        Image(name="i", target=replace(TARGET, digest="sha256:x")),
        Image(name="i", target=TARGET, labels={"": "x"}),
        Image(name="i", target=TARGET, labels={"k": "v" * 5000}),
    ],
)
def test_images_that_cannot_be(images, image):
    with pytest.raises(errors.InvalidArgument):
        images.create(image).result()
    with pytest.raises(errors.InvalidArgument):
        images.put_image(image.name, image.target, image.labels)
    assert list(images.list()) == []


def test_names_longer_than_a_row_and_lists_longer_than_a_page(images):
    names = sorted([f"registry.example/{'x' * 600}/{number}" for number in range(3)])
    names += [f"z{number:03}" for number in range(250)]
    for name in names:
        images.create(Image(name=name, target=TARGET)).result()
    assert sorted(image.name for image in images.list()) == sorted(names)
    assert images.get(names[0]).name == names[0]
    assert [image.name for image in images.list(["name~=^z24[0-3]$"])] == ["z240", "z241", "z242", "z243"]
    images.delete(names[1]).result()
    with pytest.raises(errors.NotFound):
        images.get(names[1])
