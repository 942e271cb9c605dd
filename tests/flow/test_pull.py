"""The pull flow over real stores and a registry that lies, breaks and holds back."""

import json
import threading
import time

import pytest

from daemon.kit.cancel import Token
from spec import digest as digests
from spec import errors, names
from spec.types import Usage
from tests.fake import LAYER, digest_of, layer

pytestmark = pytest.mark.root


def image(fake, tag, *layers):
    """An image of several layers; their digests and diff ids."""
    made = [layer(files) for files in layers]
    fake.image(tag, {"x": b"x"})
    document = json.loads(fake.manifests[tag][1])
    config = json.loads(fake.blobs[document["config"]["digest"]])
    config["rootfs"]["diff_ids"] = [diff_id for _, diff_id in made]
    data = json.dumps(config).encode()
    document["config"] |= {"digest": fake.blob(data), "size": len(data)}
    document["layers"] = [{"mediaType": LAYER, "digest": fake.blob(data), "size": len(data)} for data, _ in made]
    fake.manifest(tag, document)
    return [entry["digest"] for entry in document["layers"]], config["rootfs"]["diff_ids"]


def test_snapshots_carry_their_diff_ids_parents_and_usage(house, fake):
    blobs, diff_ids = image(fake, "1", {"a": b"a" * 5000}, {"b": b"b"})
    target = house.pull(f"{fake.host}/a:1")
    base, top = digests.chain_ids(diff_ids)
    assert house.snapshots.stat(base).labels == {names.DIFF_ID: diff_ids[0]}
    assert house.snapshots.stat(top).labels == {names.DIFF_ID: diff_ids[1], names.PARENT_CHAIN_ID: base}
    assert house.snapshots.usage(base).inodes >= 1
    assert house.images.get(f"{fake.host}/a:1").target == target
    for blob, diff_id in zip(blobs, diff_ids, strict=True):
        assert house.content.info(blob).labels[names.UNCOMPRESSED] == diff_id


def test_the_usage_that_was_counted_spares_a_walk(house, fake, monkeypatch):
    image(fake, "1", {"a": b"a" * 5000})
    given = []
    commit = house.snapshots.commit

    def seen(name, key, labels=None, usage=None, parent=""):
        given.append(usage)
        commit(name, key, labels, usage, parent)

    monkeypatch.setattr(house.snapshots, "commit", seen)
    house.pull(f"{fake.host}/a:1")
    (usage,) = given
    assert isinstance(usage, Usage)
    assert usage.inodes >= 1


def test_parts_name_their_image(house, fake):
    blobs, _ = image(fake, "1", {"a": b"a"})
    name = f"{fake.host}/a:1"
    house.pull(name)
    assert {told.parents for told in house.told if told.name == name} == {()}
    assert {told.parents for told in house.told if told.name != name} == {(name,)}
    assert f"layer-{blobs[0]}" in {told.name for told in house.told}
    assert house.told[-1].event == f"Completed pull from {name}"


def test_a_layer_that_fails_ends_those_that_wait(house, fake):
    """The one that is held back would come after a minute."""
    (held, wrong), _ = image(fake, "1", {"a": b"a" * 9000}, {"b": b"b"})
    fake.held.add(held)
    fake.gate.clear()
    fake.blobs[wrong] = bytes(len(fake.blobs[wrong]))
    with pytest.raises(errors.FailedPrecondition, match=wrong):
        house.pull(f"{fake.host}/a:1")
    assert not fake.gate.is_set()
    assert not house.made()
    fake.gate.set()
    fake.held.clear()
    image(fake, "1", {"a": b"a" * 9000}, {"b": b"b"})
    house.pull(f"{fake.host}/a:1")


def test_an_unpacking_that_fails_ends_those_that_wait(house, fake):
    (_, held), _ = image(fake, "1", {"a": b"a"}, {"b": b"b" * 9000})
    document = json.loads(fake.manifests["1"][1])
    other, _ = layer({"other": b"x"})
    document["layers"][0] |= {"digest": fake.blob(other), "size": len(other)}
    fake.manifest("1", document)
    fake.held.add(held)
    fake.gate.clear()
    with pytest.raises(errors.InvalidArgument, match="diff id"):
        house.pull(f"{fake.host}/a:1")
    assert not fake.gate.is_set()
    assert not house.made()


def test_a_caller_who_gives_up_leaves_no_image(house, fake):
    (held,), _ = image(fake, "1", {"a": b"a" * 9000})
    fake.held.add(held)
    fake.gate.clear()
    token = Token()

    def gives_up():
        assert fake.reached.wait(30)
        token.cancel("enough")
        fake.gate.set()

    other = threading.Thread(target=gives_up, name="caller")
    other.start()
    with pytest.raises(errors.Canceled, match="enough"):
        house.pull(f"{fake.host}/a:1", token)
    other.join()
    assert not house.made()


def test_what_an_interrupted_pull_fetched_is_not_fetched_again(house, fake):
    first, second = image(fake, "1", {"a": b"a"}, {"b": b"b"})[0]
    kept = fake.blobs.pop(second)
    with pytest.raises(errors.NotFound, match=second):
        house.pull(f"{fake.host}/a:1")
    fake.blobs[second] = kept
    house.pull(f"{fake.host}/a:1")
    paths = [path for _, path, _ in fake.requests]
    assert paths.count(f"/v2/a/blobs/{first}") <= 2
    assert digests.chain_ids(image(fake, "1", {"a": b"a"}, {"b": b"b"})[1])[-1] in {
        info.name for info in house.snapshots.list()
    }


@pytest.mark.parametrize(
    ("spoil", "error", "says"),
    [
        (lambda fake, blob: fake.blobs.update({blob: bytes(len(fake.blobs[blob]))}), errors.FailedPrecondition, "BLOB"),
        (lambda fake, blob: fake.blobs.update({blob: fake.blobs[blob][:-20]}), errors.DataLoss, "BLOB"),
        (lambda fake, blob: fake.blobs.update({blob: fake.blobs[blob] + b"x"}), errors.FailedPrecondition, "BLOB"),
        (lambda fake, blob: fake.manifest("1", b"{}", "a/b"), errors.InvalidArgument, "neither a manifest nor an"),
        (lambda fake, blob: fake.image("1", {"a": b""}, layer_type="a/b"), errors.Unimplemented, "'a/b'"),
        (lambda fake, blob: fake.image("1", {"a": b""}, ("linux", "s390x")), errors.NotFound, "amd64.*linux/s390x"),
        (lambda fake, blob: fake.manifests.pop("1"), errors.NotFound, "/a:1"),
    ],
)  # fmt: skip
def test_bad_input_leaves_nothing(house, fake, spoil, error, says):
    (blob,), _ = image(fake, "1", {"a": b"a" * 5000})
    spoil(fake, blob)
    with pytest.raises(error, match=says.replace("BLOB", blob)):
        house.pull(f"{fake.host}/a:1")
    assert not house.made()


def test_two_pulls_at_once_fetch_a_layer_once(house, fake):
    (blob,), _ = image(fake, "1", {"a": b"a" * 5000})
    image(fake, "2", {"a": b"a" * 5000})
    fake.held.add(blob)
    fake.gate.clear()
    threads = [threading.Thread(target=house.pull, args=(f"{fake.host}/a:{tag}",)) for tag in "12"]
    for thread in threads:
        thread.start()
    assert fake.reached.wait(30)
    deadline = time.monotonic() + 30
    while ("HEAD", "/v2/a/manifests/2") not in {request[:2] for request in fake.requests}:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    fake.gate.set()
    for thread in threads:
        thread.join(30)
    assert [path for _, path, _ in fake.requests].count(f"/v2/a/blobs/{blob}") == 1
    assert {found.name for found in house.images.list()} == {f"{fake.host}/a:1", f"{fake.host}/a:2"}
    assert digest_of(fake.manifests["1"][1]) == house.images.get(f"{fake.host}/a:1").target.digest
