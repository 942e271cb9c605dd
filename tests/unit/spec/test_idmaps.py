import pytest

from spec import errors, idmaps, names


def test_maps_of_labels():
    assert idmaps.of(None) is None
    assert idmaps.of({"other": "label"}) is None
    maps = idmaps.of({names.UID_MAPPING: "5:9:1,0:1000:5", names.GID_MAPPING: "0:2000:10"})
    assert maps.options == ("uidmap=5:9:1,0:1000:5", "gidmap=0:2000:10")
    assert maps.root == (1000, 2000)
    assert idmaps.ranges(maps.users) == [(5, 9, 1), (0, 1000, 5)]


@pytest.mark.parametrize(
    "text",
    ["", "0", "0:1", "0:1:2:3", "0:1:x", "0:1:-1", "0:1:0", "0:1:2,", "0:4294967295:2", "4294967295:0:2", "²:1:2"],
)
def test_what_is_no_map(text):
    with pytest.raises(errors.InvalidArgument, match="id map"):
        idmaps.ranges(text)


def test_a_map_without_root():
    with pytest.raises(errors.InvalidArgument, match="has no root"):
        idmaps.of({names.UID_MAPPING: "1:1000:5", names.GID_MAPPING: "0:2000:10"})
