import hashlib

import pytest

from spec import digest, errors

EMPTY = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_of_and_split():
    assert digest.of(b"") == EMPTY
    assert digest.of(memoryview(b"abc"), "sha512") == "sha512:" + hashlib.sha512(b"abc").hexdigest()
    assert digest.split(EMPTY) == ("sha256", EMPTY[7:])
    assert digest.check(EMPTY) == EMPTY


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "sha256",
        "sha256:",
        ":" + "a" * 64,
        "sha256:" + "a" * 63,
        "sha256:" + "a" * 65,
        "sha256:" + "A" * 64,
        "sha256:" + "g" * 64,
        "sha256:" + "a" * 63 + "\n",
        "sha256:" + "a" * 64 + "\n",
        "sha256:" + "a" * 63 + "\0",
        "sha256:" + "٣" * 64,
        "sha256:../../../../etc/passwd",
        "md5:" + "a" * 32,
        "sha512:" + "a" * 64,
        " sha256:" + "a" * 64,
    ],
)
def test_malformed_is_refused_and_named(bad):
    with pytest.raises(errors.InvalidArgument) as caught:
        digest.check(bad)
    assert repr(bad[:200]) in caught.value.message


def test_unknown_algorithm():
    with pytest.raises(errors.InvalidArgument):
        digest.hasher("md5")


def test_chain_id_is_the_image_specs_recursion():
    layers = [digest.of(name) for name in (b"one", b"two", b"three")]
    two = digest.of(f"{layers[0]} {layers[1]}".encode())
    assert digest.chain_ids(layers) == [layers[0], two, digest.of(f"{two} {layers[2]}".encode())]
    assert digest.chain_id(layers[:1]) == layers[0]
    assert digest.chain_id([]) == ""
    with pytest.raises(errors.InvalidArgument):
        digest.chain_id([layers[0], "sha256:x"])
