"""Pulls from a registry that resets, stalls, trickles and lies: what is right comes in the end, what is wrong never
does, and nothing is held afterwards."""

import json
import os

import pytest

from daemon.images import transport
from daemon.images.breaker import Breakers
from daemon.images.hosts import Host
from daemon.images.resolver import RegistryResolver
from daemon.kit.cancel import Token
from spec import digest as digests
from spec import errors
from tests import tricks
from tests.fake import MANIFEST, Fake

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("impatient")]

SIZE = 1_000_000
FILES = {"data": os.urandom(SIZE)}


@pytest.fixture
def fake():
    with Fake() as fake:
        fake.image("1", FILES)
        yield fake


def layer_of(fake, tag="1"):
    return json.loads(fake.manifests[tag][1])["layers"][0]["digest"]


def whole(house, fake):
    """The layer is here, and is what it should be."""
    with house.content.reader(layer_of(fake)) as reader:
        return digests.of(reader.read()) == layer_of(fake)


def free(house):
    """No ingest is held: each can be opened."""
    for status in house.content.statuses():
        house.content.writer(status.ref).close()
    return True


@pytest.mark.parametrize("after", [0, 1, 4096, 65_536, 500_000, SIZE])
@pytest.mark.parametrize("breaks", [tricks.resets, tricks.ends_early])
def test_what_breaks_is_resumed(house, fake, breaks, after):
    fake.tricks[layer_of(fake)] = [breaks(after), breaks(after)]
    house.pull(f"{fake.host}/a:1")
    assert whole(house, fake)
    assert fake.sent <= 1.2 * len(fake.blobs[layer_of(fake)]) + 10_000, "what came is not sent again"


@pytest.mark.parametrize(
    "trick", [tricks.trickles, tricks.says_nothing, tricks.stalls(1000), tricks.stalls(0), tricks.status(503),
              tricks.status(408), tricks.status(429), tricks.status(429, Retry_After="0")],
    ids=["trickles", "silent", "stalls", "stalls at once", "503", "408", "429", "429 with a time"],
)  # fmt: skip
def test_what_hangs_or_is_busy_is_asked_again(house, fake, trick):
    fake.tricks[layer_of(fake)] = [trick]
    house.pull(f"{fake.host}/a:1")
    assert whole(house, fake)


@pytest.mark.parametrize("trick", [tricks.resets(0), tricks.trickles, tricks.says_nothing, tricks.status(429)])
def test_what_never_gets_better_ends(house, fake, trick):
    fake.tricks[layer_of(fake)] = [trick] * 40
    with pytest.raises(errors.Unavailable):
        house.pull(f"{fake.host}/a:1")
    assert len(fake.tricks[layer_of(fake)]) >= 10, "retries are bounded"
    assert free(house)
    fake.tricks.clear()
    house.pull(f"{fake.host}/a:1")
    assert whole(house, fake)


@pytest.mark.parametrize(
    "trick", [tricks.other_bytes, tricks.another_length(100), tricks.another_length(-100), tricks.encoded, tricks.page]
)
def test_a_lie_is_not_taken(house, fake, trick):
    fake.tricks[layer_of(fake)] = [trick] * 9
    with pytest.raises((errors.FailedPrecondition, errors.DataLoss, errors.Unavailable)):
        house.pull(f"{fake.host}/a:1")
    with pytest.raises(errors.NotFound):
        house.content.info(layer_of(fake))
    assert not house.made()
    assert free(house)
    fake.tricks.clear()
    house.pull(f"{fake.host}/a:1")
    assert whole(house, fake)


def test_a_server_that_ignores_ranges_is_read_on(house, fake):
    fake.tricks[layer_of(fake)] = [tricks.resets(500_000), tricks.ignores_ranges]
    house.pull(f"{fake.host}/a:1")
    assert whole(house, fake)


def test_another_range_is_refused(house, fake):
    fake.tricks[layer_of(fake)] = [tricks.ends_early(500_000), tricks.another_range]
    with pytest.raises(errors.DataLoss, match="it came from"):
        house.pull(f"{fake.host}/a:1")
    assert free(house)


@pytest.mark.parametrize("name", ["1", "layer"])
def test_redirects_and_challenges_do_not_go_round_for_ever(house, fake, name):
    name = layer_of(fake) if name == "layer" else name
    fake.tricks[name] = [tricks.redirects] * 99
    with pytest.raises(errors.Unavailable, match="redirects"):
        house.pull(f"{fake.host}/a:1")
    assert 99 - len(fake.tricks[name]) <= (transport.MAX_REDIRECTS + 1)
    fake.tricks[name] = [tricks.challenges] * 99
    before = len(fake.requests)
    with pytest.raises(errors.Unauthenticated):
        house.pull(f"{fake.host}/a:1")
    assert [path for _, path, _ in fake.requests[before:]].count("/token") <= 2


def test_a_manifest_without_end_is_not_read(house, fake):
    fake.manifest("big", b" " * (5 << 20))
    with pytest.raises(errors.InvalidArgument, match="more than"):
        house.pull(f"{fake.host}/a:big")


@pytest.mark.parametrize("size", [-1, 2**62, 2**53])
def test_sizes_that_no_layer_has(house, fake, size):
    document = json.loads(fake.manifests["1"][1])
    document["layers"][0]["size"] = size
    fake.manifest("1", document)
    with pytest.raises(errors.InvalidArgument, match="size"):
        house.pull(f"{fake.host}/a:1")
    assert not house.made()


def test_a_pinned_digest_whose_header_lies(house, fake):
    """regclient CVE-2025-24882: the header says what was asked for, the bytes are another manifest."""
    wanted = json.dumps({"schemaVersion": 2}).encode()
    pinned = digests.of(wanted)
    fake.manifests[pinned] = fake.manifests["1"]
    with pytest.raises((errors.FailedPrecondition, errors.DataLoss)):
        house.pull(f"{fake.host}/a:1@{pinned}")
    assert not house.made()


@pytest.mark.parametrize(
    "digest",
    ["sha256:../../../../etc/passwd", "sha256:" + "AB" * 32, "sha256:" + "a" * 63, "md5:" + "a" * 32, "sha256:",
     "sha256:a\0"],
)  # fmt: skip
@pytest.mark.parametrize("field", ["config", "layers", "subject", "manifests", "header"])
def test_digests_that_are_none(house, fake, digest, field):
    """containers/image CVE-2024-3727."""
    document = json.loads(fake.manifests["1"][1])
    descriptor = document["layers"][0] | {"digest": digest}
    if field == "header":
        media_type, _ = fake.manifests["1"]
        fake.tricks["1"] = [tricks.status(200, Docker_Content_Digest=digest, Content_Type=media_type)] * 9
    elif field == "manifests":
        index = "application/vnd.oci.image.index.v1+json"
        fake.manifest("1", {"schemaVersion": 2, "manifests": [descriptor]}, index)
    else:
        fake.manifest("1", document | {field: [descriptor] if field == "layers" else descriptor})
    with pytest.raises(errors.Error):
        house.pull(f"{fake.host}/a:1")
    assert not house.made()


def test_a_dead_mirror_is_waited_for_once(house, fake, tmp_path):
    """containerd#10660: else it costs its timeout for each blob."""
    hosts = [Host(base="http://127.0.0.1:1/v2", mirror=True), Host(base=f"http://{fake.host}/v2")]
    breakers = Breakers()
    asked = []
    failed = breakers.failed
    breakers.failed = lambda host, rest_s=0.0: (asked.append(host), failed(host, rest_s))
    for _ in range(2):
        resolver = RegistryResolver(lookup=lambda *_: hosts, breakers=breakers)
        target = resolver.resolve(f"{fake.host}/a:1")
        source = resolver.fetcher(f"{fake.host}/a:1").fetch(target)
        assert source.read(1 << 20)
        source.close()
        resolver.close()
    assert asked == ["127.0.0.1:1"]


def test_a_caller_who_gives_up_does_not_wait_for_the_registry(house, fake):
    token = Token()
    real = tricks.stalls(1000)

    def stalls(handler, data, start):
        token.cancel("enough")
        real(handler, data, start)

    fake.tricks[layer_of(fake)] = [stalls] * 9
    with pytest.raises(errors.Canceled):
        house.pull(f"{fake.host}/a:1", cancel=token)
    assert free(house)


def test_a_tag_that_moves_meanwhile(house, fake):
    """It is asked for once: what was resolved is what comes (notation CVE-2023-33959)."""
    digest = digests.of(fake.manifests["1"][1])

    def moves(handler, data, start):
        handler._send(200, data, {"Content-Type": MANIFEST, "Docker-Content-Digest": digest})
        fake.image("1", {"other": b"x"})

    fake.tricks["1"] = [moves]
    house.pull(f"{fake.host}/a:1")
    assert house.images.get(f"{fake.host}/a:1").target.digest == digest
    assert digests.of(fake.manifests["1"][1]) != digest
    assert [path for _, path, _ in fake.requests].count("/v2/a/manifests/1") == 1
