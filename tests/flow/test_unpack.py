"""Layers unpacked while they arrive, side by side: what is done when, what once, and what is left of failures."""

import contextlib
import gzip
import json
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from daemon.flows.compare import Trees
from daemon.kit import mounting
from daemon.kit.cancel import Token
from daemon.snapshots.native import Native
from daemon.snapshots.overlay import Overlay
from spec import digest as digests
from spec import errors
from spec.records import Kind
from tests.fake import LAYER
from tests.house import House
from tests.tarball import archive, file, folder, hardlink, symlink

pytestmark = pytest.mark.root

SECONDS = 30.0
NOISE = random.Random(0).randbytes(3 << 20)  # of which half is more than one read


class Watched:
    """An applier that records what is asked of it."""

    def __init__(self, real):
        self.real = real
        self.asked = []

    def apply_stream(self, source, layer, mounts, cancel=None):
        self.asked.append(("apply", layer.digest))
        return self.real.apply_stream(source, layer, mounts, cancel)

    def settle(self, applied, mounts):
        self.asked.append(("settle", applied.descriptor.digest))
        return self.real.settle(applied, mounts)

    def sync(self, mounts):
        self.asked.append(("sync", ""))
        self.real.sync(mounts)

    def count(self, what):
        return sum(asked == what for asked, _ in self.asked)


@pytest.fixture(params=[Overlay, Native])
def house(request, tmp_path):
    made = House(tmp_path, request.param, Watched)
    yield made
    made.close()


@pytest.fixture
def overlay(tmp_path):
    made = House(tmp_path, Overlay, Watched)
    yield made
    made.close()


def serve(fake, tag, *plains, diff_ids=()):
    """An image of these plain tars; its layers' digests and its chain ids."""
    fake.image(tag, {"x": b"x"})
    document = json.loads(fake.manifests[tag][1])
    config = json.loads(fake.blobs[document["config"]["digest"]])
    config["rootfs"]["diff_ids"] = diff_ids = list(diff_ids) or [digests.of(plain) for plain in plains]
    data = json.dumps(config).encode()
    document["config"] |= {"digest": fake.blob(data), "size": len(data)}
    blobs = [gzip.compress(plain, 1, mtime=0) for plain in plains]
    document["layers"] = [{"mediaType": LAYER, "digest": fake.blob(blob), "size": len(blob)} for blob in blobs]
    fake.manifest(tag, document)
    return [entry["digest"] for entry in document["layers"]], digests.chain_ids(diff_ids)


def until(condition):
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def has(house, name):
    """Whether the directory of an active snapshot has a file of this name."""
    for info in house.snapshots.list():
        if info.kind == Kind.ACTIVE:
            with contextlib.suppress(errors.NotFound):  # it was committed since
                mount = house.snapshots.mounts(info.name)[0]
                uppers = [option[9:] for option in mount.options if option.startswith("upperdir=")]
                if os.path.exists(os.path.join(*(uppers or [mount.source]), name)):
                    return True
    return False


def kinds(house):
    return {info.name: info.kind for info in house.snapshots.list()}


def hold(fake, *blobs):
    fake.held.update(blobs)
    fake.gate.clear()


def test_a_layer_is_unpacked_while_it_arrives(house, fake):
    (blob,), chain = serve(fake, "1", archive(file("first"), file("big", NOISE), file("last")))
    hold(fake, blob)
    with ThreadPoolExecutor() as pool:
        pull = pool.submit(house.pull, f"{fake.host}/a:1")
        until(lambda: has(house, "first"))
        assert not fake.gate.is_set()
        assert not has(house, "last")
        with pytest.raises(errors.NotFound):
            house.content.info(blob)
        fake.gate.set()
        pull.result(SECONDS)
    assert kinds(house) == {chain[0]: Kind.COMMITTED}


def test_upper_layers_do_not_wait_for_lower_ones(overlay, fake):
    (low, _, _), chain = serve(
        fake, "1", archive(file("low", NOISE)), archive(file("middle"), file("m", NOISE)), archive(file("top"))
    )
    hold(fake, low)
    with ThreadPoolExecutor() as pool:
        pull = pool.submit(overlay.pull, f"{fake.host}/a:1")
        until(lambda: has(overlay, "middle") and has(overlay, "top"))
        assert not fake.gate.is_set()
        fake.gate.set()
        pull.result(SECONDS)
    assert kinds(overlay) == dict.fromkeys(chain, Kind.COMMITTED)
    assert overlay.snapshots.stat(chain[2]).parent == chain[1]
    assert overlay.snapshots.stat(chain[1]).parent == chain[0]


def test_what_was_there_of_an_ingest_is_unpacked_before_more_comes(house, fake):
    (blob,), chain = serve(fake, "1", archive(file("first"), file("big", NOISE)))
    data = fake.blobs[blob]
    with house.content.writer(f"layer-{blob}", len(data), blob) as writer:
        writer.write(data[:-2])
    hold(fake, blob)
    with ThreadPoolExecutor() as pool:
        pull = pool.submit(house.pull, f"{fake.host}/a:1")
        until(lambda: has(house, "first"))
        assert not fake.gate.is_set()
        fake.gate.set()
        pull.result(SECONDS)
    assert kinds(house) == {chain[0]: Kind.COMMITTED}


def test_a_layer_that_fails_spares_those_below_that_are_done(house, fake):
    good, bad, other = (archive(file(name, NOISE)) for name in ("good", "bad", "other"))
    (_, wrong, _), chain = serve(
        fake, "1", good, bad, other, diff_ids=[digests.of(good), digests.of(b"another"), digests.of(other)]
    )
    hold(fake, wrong)
    with ThreadPoolExecutor() as pool:
        pull = pool.submit(house.pull, f"{fake.host}/a:1")
        until(lambda: kinds(house).get(chain[0]) == Kind.COMMITTED)
        fake.gate.set()
        with pytest.raises(errors.InvalidArgument, match="diff id"):
            pull.result(SECONDS)
    assert kinds(house) == {chain[0]: Kind.COMMITTED}
    assert not list(house.images.list())


def test_a_layer_that_fails_ends_those_that_still_arrive(overlay, fake):
    low, bad = archive(file("low", NOISE)), archive(file("bad"))
    (held, _), _ = serve(fake, "1", low, bad, diff_ids=[digests.of(low), digests.of(b"another")])
    hold(fake, held)
    with pytest.raises(errors.InvalidArgument, match="diff id"):
        overlay.pull(f"{fake.host}/a:1")
    assert not fake.gate.is_set()
    assert not overlay.made()


def test_a_wrong_digest_discards_what_was_unpacked(house, fake):
    """The right archive in another wrapping: only the blob's own digest tells."""
    plain = archive(file("first"), file("big", NOISE))
    (blob,), _ = serve(fake, "1", plain)
    fake.blobs[blob] = gzip.compress(plain, 1, mtime=1)
    assert len(fake.blobs[blob]) == len(gzip.compress(plain, 1, mtime=0))
    hold(fake, blob)
    with ThreadPoolExecutor() as pool:
        pull = pool.submit(house.pull, f"{fake.host}/a:1")
        until(lambda: has(house, "first"))
        fake.gate.set()
        with pytest.raises(errors.FailedPrecondition, match=f"verifying {blob}"):
            pull.result(SECONDS)
    assert not house.made()


def test_whoever_gives_up_midway_leaves_nothing_active(house, fake):
    (_, held), chain = serve(fake, "1", archive(file("low")), archive(file("first"), file("big", NOISE)))
    hold(fake, held)
    token = Token()
    with ThreadPoolExecutor() as pool:
        pull = pool.submit(house.pull, f"{fake.host}/a:1", token)
        until(lambda: has(house, "first"))
        token.cancel("enough")
        fake.gate.set()
        with pytest.raises(errors.Canceled, match="enough"):
            pull.result(SECONDS)
    assert kinds(house).items() <= {chain[0]: Kind.COMMITTED}.items()


def test_layers_that_many_want_at_once_are_unpacked_once(house, fake):
    """Images that share a base, each of them several times."""
    base = [archive(file("base", NOISE)), archive(file("more"))]
    tops = [archive(file(f"top{number}")) for number in range(3)]
    served = [serve(fake, str(number), *base, top) for number, top in enumerate(tops)]
    hold(fake, served[0][0][0])
    with ThreadPoolExecutor() as pool:
        pulls = [pool.submit(house.pull, f"{fake.host}/a:{number % 3}") for number in range(6)]
        until(lambda: {f"/v2/a/manifests/{number}" for number in range(3)} <= {path for _, path, _ in fake.requests})
        fake.gate.set()
        for pull in pulls:
            pull.result(SECONDS)
    wanted = {digest for blobs, _ in served for digest in blobs}
    assert sorted(digest for asked, digest in house.applier.asked if asked == "apply") == sorted(wanted)
    assert kinds(house) == dict.fromkeys({name for _, chain in served for name in chain}, Kind.COMMITTED)


def test_when_another_gives_up_who_waited_for_it_goes_on(house, fake):
    (blob, _), chain = serve(fake, "1", archive(file("first"), file("big", NOISE)), archive(file("top")))
    serve(fake, "2", archive(file("first"), file("big", NOISE)), archive(file("top")))
    hold(fake, blob)
    token = Token()
    with ThreadPoolExecutor() as pool:
        one = pool.submit(house.pull, f"{fake.host}/a:1", token)
        until(lambda: has(house, "first"))
        two = pool.submit(house.pull, f"{fake.host}/a:2")
        until(lambda: "/v2/a/manifests/2" in {path for _, path, _ in fake.requests})
        token.cancel("enough")
        with pytest.raises(errors.Canceled, match="enough"):
            one.result(SECONDS)
        fake.gate.set()
        two.result(SECONDS)
    assert kinds(house) == dict.fromkeys(chain, Kind.COMMITTED)


def collects(house):
    """A collection that comes before what was found is kept, once."""
    gone = []

    def keep(chain_id):
        if not gone:
            gone.append(chain_id)
            house.snapshots.remove(chain_id)

    house.keep = keep
    return gone


def test_what_is_collected_before_it_was_kept_is_unpacked_again(house, fake):
    _, chain = serve(fake, "1", archive(file("base")), archive(file("top")))
    house.pull(f"{fake.host}/a:1")
    gone = collects(house)
    house.pull(f"{fake.host}/a:1")
    assert gone == [chain[-1]]
    assert kinds(house) == dict.fromkeys(chain, Kind.COMMITTED)
    assert house.applier.count("apply") == 3


def test_what_another_made_and_let_go_is_unpacked_again(house, fake):
    (blob,), chain = serve(fake, "1", archive(file("first"), file("big", NOISE)))
    serve(fake, "2", archive(file("first"), file("big", NOISE)))
    hold(fake, blob)
    with ThreadPoolExecutor() as pool:
        one = pool.submit(house.pull, f"{fake.host}/a:1")
        until(lambda: has(house, "first"))
        gone = collects(house)
        two = pool.submit(house.pull, f"{fake.host}/a:2")
        until(lambda: "/v2/a/manifests/2" in {path for _, path, _ in fake.requests})
        fake.gate.set()
        one.result(SECONDS)
        two.result(SECONDS)
    assert gone == chain
    assert kinds(house) == dict.fromkeys(chain, Kind.COMMITTED)


def test_a_layer_that_comes_twice_in_one_image(house, fake):
    same = archive(file("first"), file("big", NOISE))
    blobs, chain = serve(fake, "1", same, archive(file("other")), same)
    house.pull(f"{fake.host}/a:1")
    assert [path for _, path, _ in fake.requests].count(f"/v2/a/blobs/{blobs[0]}") == 1
    assert kinds(house) == dict.fromkeys(chain, Kind.COMMITTED)


def test_an_image_without_layers(house, fake):
    serve(fake, "1")
    target = house.pull(f"{fake.host}/a:1")
    assert house.images.get(f"{fake.host}/a:1").target == target
    config = json.loads(fake.manifests["1"][1])["config"]["digest"]
    assert not house.content.info(config).labels.keys() & {"containerd.io/gc.ref.snapshot.sn"}


@pytest.mark.parametrize("sync", [True, False])
def test_what_is_committed_was_synced_before(tmp_path, fake, sync, monkeypatch):
    house = House(tmp_path, Overlay, Watched, sync)
    commit = house.snapshots.commit

    def seen(name, *rest, **more):
        house.applier.asked.append(("commit", name))
        commit(name, *rest, **more)

    monkeypatch.setattr(house.snapshots, "commit", seen)
    _, chain = serve(fake, "1", *(archive(file(f"file{number}")) for number in range(5)))
    house.pull(f"{fake.host}/a:1")
    house.close()
    asked = [entry for entry in house.applier.asked if entry[0] in ("sync", "commit", "apply")]
    commits = [name for what, name in asked if what == "commit"]
    assert commits == chain
    if not sync:
        assert house.applier.count("sync") == 0
        return
    applied = [digests.of(gzip.compress(archive(file(f"file{number}")), 1, mtime=0)) for number in range(5)]
    for layer, name in zip(applied, chain, strict=True):
        between = asked[asked.index(("apply", layer)) : asked.index(("commit", name))]
        assert ("sync", "") in between


# Layers that mean something only on top of others, each list lowest first.
ON_TOP = {
    "whiteouts": [
        archive(folder("etc", mode=0o750, uid=7), file("etc/a", "a"), file("etc/b", "b"), folder("go"), file("go/x")),
        archive(file("etc/.wh.a"), file(".wh.go")),
        archive(file("etc/a", "again")),
    ],
    "opaque": [
        archive(folder("d", mode=0o700, gid=9, mtime=5), file("d/old"), folder("d/sub"), file("d/sub/old")),
        archive(folder("d"), file("d/.wh..wh..opq"), file("d/new")),
        archive(file("d/sub/newer")),
    ],
    "implied directories": [
        archive(folder("usr", mode=0o711, uid=3, gid=4, mtime=77), folder("usr/lib", mode=0o1777)),
        archive(file("usr/lib/a", "a")),
        archive(file("usr/lib/b", "b"), folder("usr/lib", mode=0o755)),
        archive(file("usr/share/c", "c")),
    ],
    "hard links across layers": [
        archive(file("a", "a"), file("b", "b")),
        archive(hardlink("linked", "a"), file("c", "c")),
        archive(hardlink("other", "c")),
    ],
    "directories that are links below": [
        archive(folder("usr"), folder("usr/bin"), symlink("bin", "usr/bin")),
        archive(file("bin/tool", "tool")),
        archive(file("bin/.wh.tool"), file("bin/other")),
    ],
    "files in place of directories": [
        archive(folder("d"), file("d/x")),
        archive(file("d", "a file")),
        archive(file("d/y")),
    ],
    "the root's own entry": [
        archive(folder(".", mode=0o700, uid=5), file("a")),
        archive(file("b")),
        archive(folder("./", mode=0o755, mtime=9), file("c")),
    ],
}  # fmt: skip


@pytest.mark.parametrize("plains", ON_TOP.values(), ids=ON_TOP)
def test_what_is_unpacked_apart_is_as_if_in_order(tmp_path, fake, plains):
    """Overlay beside native, which deletes what a whiteout hides: the views are equal."""
    _, chain = serve(fake, "1", *plains)
    with contextlib.ExitStack() as stack:
        shown = []
        for kind in (Native, Overlay):
            directory = tmp_path / kind.__name__
            directory.mkdir()
            house = House(directory, kind)
            stack.callback(house.close)
            try:
                house.pull(f"{fake.host}/a:1")
                outcome = None
            except errors.Error as exc:
                outcome = type(exc)
            shown.append((house, outcome))
        (native, failed), (overlay, too) = shown
        assert failed == too
        assert kinds(native) == kinds(overlay)
        for name in set(chain) & kinds(native).keys():
            with contextlib.ExitStack() as views:
                roots = [
                    views.enter_context(mounting.opened(house.snapshots.view("look", name))) for house, _ in shown
                ]
                found = list(Trees(roots[0], roots[1], Token()).differences())
            assert not found, name
            for house, _ in shown:
                house.snapshots.remove("look")


def test_threads_that_wait_for_bytes_take_nobodys_turn(tmp_path, fake):
    """With one turn only, what is here is unpacked while what was begun before still arrives."""
    house = House(tmp_path, Overlay, Watched)
    house.crew._size = 1
    (slow, _), chain = serve(fake, "1", archive(file("first"), file("big", NOISE)), archive(file("second")))
    hold(fake, slow)
    with ThreadPoolExecutor() as pool:
        pull = pool.submit(house.pull, f"{fake.host}/a:1")
        until(lambda: has(house, "first") and has(house, "second"))
        fake.gate.set()
        pull.result(SECONDS)
    assert kinds(house) == dict.fromkeys(chain, Kind.COMMITTED)
    house.close()
