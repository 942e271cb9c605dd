import pytest

from spec import errors, names


@pytest.mark.parametrize("good", ["a", "0", "a.b", "a-b_c.d", "A" * 76, "default"])
def test_identifiers(good):
    assert names.check_identifier(good, "id") == good


@pytest.mark.parametrize(
    "bad", ["", "a" * 77, ".a", "a.", "a..b", "a-_b", "a b", "a/b", "..", "é", "a\n", "٣", "a\0", "-a"]
)
def test_bad_identifiers(bad):
    with pytest.raises(errors.InvalidArgument, match="container id"):
        names.check_identifier(bad, "container id")


@pytest.mark.parametrize("good", ["/tasks/start", "/a", "/a-b/c.d"])
def test_topics(good):
    assert names.check_topic(good) == good


@pytest.mark.parametrize("bad", ["", "/", "test", "//a", "/a/", "/a b", "a/b", "/a//b"])
def test_bad_topics(bad):
    with pytest.raises(errors.InvalidArgument):
        names.check_topic(bad)


def test_labels_are_bounded_in_bytes():
    names.check_labels({"k" * 96: "v" * 4000})
    for labels in ({"k" * 97: "v" * 4000}, {"k": "é" * 2048}, {"": "v"}):
        with pytest.raises(errors.InvalidArgument):
            names.check_labels(labels)


def test_a_long_key_is_cut_in_the_message():
    with pytest.raises(errors.InvalidArgument) as caught:
        names.check_labels({"k" * 5000: ""})
    assert "k" * 64 in caught.value.message
    assert "k" * 65 not in caught.value.message


@pytest.mark.parametrize(
    ("key", "dropped"),
    [
        ("containerd.io/", True),
        ("containerd.io/gc.ref.content", True),
        ("containerd.io/restart.loguri", True),
        ("io.cri-containerd", True),
        ("io.cri-containerd.kind", True),
        ("io.cri-containerdfoo", True),
        ("containerd.io", False),
        ("io.containerd.x", False),
        ("com.example", False),
    ],
)
def test_labels_an_image_may_not_give(key, dropped):
    assert names.inherited_labels({key: "v"}) == ({} if dropped else {key: "v"})


def test_labels_too_long_are_not_inherited():
    assert names.inherited_labels({"a": "v" * 4096, "b": "v"}) == {"b": "v"}
