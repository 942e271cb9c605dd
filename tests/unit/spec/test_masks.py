import msgspec
import pytest

from spec import errors, masks
from spec.oci.image import Descriptor
from spec.records import Container, Image, RuntimeRef

IMAGE = ("labels", "target", "target.annotations")
CONTAINER = ("labels", "spec", "extensions", "image", "snapshot_key")


def image(labels=None, annotations=None, size=1):
    return Image(name="i", labels=labels or {}, target=Descriptor(size=size, annotations=annotations or {}))


def container(**fields):
    return Container(id="c", **fields)


def test_a_map_is_replaced_as_a_whole():
    merged = masks.merge(image({"a": "1", "b": "2"}), image({"c": "3"}, size=9), ["labels"], IMAGE)
    assert merged.labels == {"c": "3"}
    assert merged.target.size == 1


@pytest.mark.parametrize("key", ["a", "with.dots", "example.com/x.y"])
def test_one_entry(key):
    before = {"keep": "me", key: "old"}
    assert masks.merge(image(before), image({key: "new"}), [f"labels.{key}"], IMAGE).labels == {
        "keep": "me",
        key: "new",
    }
    assert masks.merge(image(before), image({key: ""}), [f"labels.{key}"], IMAGE).labels == {"keep": "me"}
    assert masks.merge(image(before), image({}), [f"labels.{key}"], IMAGE).labels == {"keep": "me"}
    assert before == {"keep": "me", key: "old"}


def test_empty_values_are_not_kept_when_a_map_is_replaced():
    assert masks.merge(image(), image({"a": "", "b": "2"}), ["labels"], IMAGE).labels == {"b": "2"}


def test_fields_inside_a_field():
    current, given = image(annotations={"a": "1", "b": "2"}), image(annotations={"b": "3"}, size=7)
    assert masks.merge(current, given, ["target"], IMAGE).target == given.target
    assert masks.merge(current, given, ["target.annotations"], IMAGE).target == Descriptor(
        size=1, annotations={"b": "3"}
    )
    assert masks.merge(current, given, ["target.annotations.b"], IMAGE).target.annotations == {"a": "1", "b": "3"}


def test_no_fields_replace_all_that_may_change():
    current = container(labels={"a": "1"}, image="old", snapshotter="s", runtime=RuntimeRef(name="r"))
    given = container(labels={"b": "2"}, image="new", snapshotter="other", runtime=RuntimeRef(name="other"))
    merged = masks.merge(current, given, [], CONTAINER)
    assert merged == container(labels={"b": "2"}, image="new", snapshotter="s", runtime=RuntimeRef(name="r"))


def test_no_fields_reach_a_path_that_stands_alone():
    merged = masks.merge(
        image(annotations={"a": "1"}), image(annotations={"b": "2"}, size=7), [], ["target.annotations"]
    )
    assert merged.target == Descriptor(size=1, annotations={"b": "2"})


def test_opaque_entries():
    current = container(extensions={"x": msgspec.Raw(b"\x01")})
    given = container(extensions={"y.z": msgspec.Raw(b"\x02")})
    merged = masks.merge(current, given, ["extensions.y.z"], CONTAINER)
    assert {key: bytes(value) for key, value in merged.extensions.items()} == {"x": b"\x01", "y.z": b"\x02"}
    assert masks.merge(current, given, ["extensions.x"], CONTAINER).extensions == {}


@pytest.mark.parametrize(
    "field", ["id", "runtime.name", "nothing", "", ".", "labels.", "image.x", "labelsx", "__class__"]
)
def test_what_may_not_change_is_refused(field):
    with pytest.raises(errors.InvalidArgument):
        masks.merge(container(), container(), [field], CONTAINER)
