"""What one pull leaves for the next: connections and tokens, for whoever may ask the same host in the same way."""

import contextlib
import json
import threading
from contextlib import closing

import pytest
import urllib3

from daemon.images import tokens
from daemon.images.hosts import Host
from daemon.images.keeper import Keeper
from daemon.images.pools import Use
from daemon.images.resolver import RegistryResolver
from daemon.images.transport import Connections
from spec import errors
from spec.oci.image import Descriptor
from tests.answers import Reply
from tests.fake import Fake, digest_of
from tests.registry import Registry, make_image

MINE = {"username": "me", "secret": "secret"}


@pytest.fixture
def keeper():
    made = Keeper()
    yield made
    made.close()


@pytest.fixture
def fake():
    with Fake(tokens=("me", "secret")) as fake:
        fake.image("1", {"x": b"x" * 100_000})
        yield fake


def resolve(keeper, host, **options):
    with closing(RegistryResolver(plain_http=True, keeper=keeper, **options)) as resolver:
        return resolver.resolve(f"{host}/a:1")


def new(fake, before):
    return [(method, path) for method, path, _ in fake.requests[before:]]


def test_the_next_asks_for_no_token_and_connects_no_more(fake, keeper):
    resolve(keeper, fake.host, **MINE)
    assert [path for _, path, _ in fake.requests].count("/token") == 1
    before = len(fake.requests)
    resolve(keeper, fake.host, **MINE)
    assert new(fake, before) == [("HEAD", "/v2/a/manifests/1")]
    assert len(fake._server.connections) == 1


@pytest.mark.parametrize(
    "other",
    [{}, {"username": "me", "secret": "another"}, {"username": "another", "secret": "secret"}, {"secret": "secret"}],
)
def test_others_find_nothing_of_it(fake, keeper, other):
    resolve(keeper, fake.host, **MINE)
    before = len(fake.requests)
    connections = len(fake._server.connections)
    with pytest.raises(errors.Error):
        resolve(keeper, fake.host, **other)
    assert "Bearer good" not in [header for _, _, header in fake.requests[before:]]
    assert len(fake._server.connections) > connections


def test_another_trust_or_header_is_another_connection(own, keeper):
    head = Reply(200, b"{}", {"Content-Type": "a/b", "Docker-Content-Digest": digest_of(b"{}")})
    own.replies["/v2/a/manifests/1"] = [head] * 9
    for options in ({}, {"skip_verify": True}, {"headers": {"X-A": "1"}}, {"headers": {"X-A": "2"}}, {}):
        hosts = [Host(base=f"{own.url}/v2", skip_verify=options.get("skip_verify", False))]
        resolve(keeper, own.host, lookup=lambda *_, hosts=hosts: hosts, **options)
    assert len(own._connections) == 4


def test_a_token_that_was_revoked_is_replaced_once(fake, keeper):
    resolve(keeper, fake.host, **MINE)
    known = next(iter(keeper._kept.values())).kept.tokens(f"http://{fake.host}/v2")
    with known.turn(lambda: None):
        known.put("repository:a:pull", "Bearer revoked", 1e12)
    before = len(fake.requests)
    resolve(keeper, fake.host, **MINE)
    assert new(fake, before) == [
        ("HEAD", "/v2/a/manifests/1"), ("GET", "/token"), ("HEAD", "/v2/a/manifests/1")
    ]  # fmt: skip


def test_a_token_that_has_ended_is_not_sent(fake, keeper, monkeypatch):
    resolve(keeper, fake.host, **MINE)
    before = len(fake.requests)
    monkeypatch.setattr(tokens.time, "monotonic", lambda now=tokens.time.monotonic(): now + 300)
    resolve(keeper, fake.host, **MINE)
    assert fake.requests[before][2] == ""


def test_a_replaced_refresh_token_is_the_next_ones(own, keeper):
    challenge = {"WWW-Authenticate": f'Bearer realm="{own.url}/t",service="s"'}
    head = Reply(200, b"{}", {"Content-Type": "a/b", "Docker-Content-Digest": digest_of(b"{}")})
    own.replies["/v2/a/manifests/1"] = [Reply(401, headers=challenge), head] * 2
    given = {"token": "x", "expires_in": 1, "refresh_token": "second"}
    own.replies["/t"] = [Reply(200, json.dumps(given).encode())] * 2
    resolve(keeper, own.host, secret="first")
    for entry in keeper._kept.values():
        entry.kept.tokens(f"{own.url}/v2")._known.clear()
    resolve(keeper, own.host, secret="first")
    forms = [request.body for request in own.requests if request.path == "/t"]
    assert [b"refresh_token=second" in form for form in forms] == [False, True]


def test_a_password_is_given_at_once_the_next_time(tmp_path, keeper):
    with Registry(tmp_path / "registry", auth=("me", "secret")) as registry:
        make_image(tmp_path, registry, "a:1", base=False)
        resolve(keeper, registry.host, **MINE)
        before = len(registry.requests())
        resolve(keeper, registry.host, **MINE)
        assert registry.requests()[before:] == [("HEAD", "/v2/a/manifests/1")]


def test_who_gives_up_breaks_nobody_elses_connection(fake, keeper):
    """Both download the same blob on connections of one pool."""
    layer = json.loads(fake.manifests["1"][1])["layers"][0]
    fake.held.add(layer["digest"])
    fake.gate.clear()
    resolvers = [RegistryResolver(plain_http=True, keeper=keeper, **MINE) for _ in range(2)]
    outcomes = {}

    def download(number):
        wanted = Descriptor(media_type=layer["mediaType"], digest=layer["digest"], size=layer["size"])
        try:
            source = resolvers[number].fetcher(f"{fake.host}/a:1").fetch(wanted)
            outcomes[number] = b"".join(iter(lambda: source.read(1 << 20), b""))
            source.close()
        except errors.Error as exc:
            outcomes[number] = exc

    threads = [threading.Thread(target=download, args=(number,), name="download") for number in range(2)]
    for thread in threads:
        thread.start()
    while [path for _, path, header in fake.requests if header].count(f"/v2/a/blobs/{layer['digest']}") < 2:
        assert threads[0].is_alive()
        assert threads[1].is_alive()
    resolvers[0].close()
    threads[0].join(30)
    assert isinstance(outcomes[0], errors.Canceled)
    fake.gate.set()
    threads[1].join(30)
    assert digest_of(outcomes[1]) == layer["digest"]
    resolvers[1].close()


def test_who_gave_up_takes_no_connection(own):
    own.replies["/a"] = [Reply(200, b"yes")] * 2
    kept, use = Connections(Host(base=own.url)).own, Use()
    with use.ended():
        pass
    for user, kind in ((Use(), None), (use, urllib3.exceptions.HTTPError), (Use(), None)):
        with pytest.raises(kind) if kind else contextlib.nullcontext():
            assert kept.request("GET", f"{own.url}/a", {}, None, user).read() == b"yes"
    kept.close()
    assert len(own.requests) == 2


def test_who_gives_up_does_not_wait_for_anothers_token():
    known = tokens.Tokens()

    def gone():
        raise errors.Canceled("gone")

    with known.turn(lambda: None), pytest.raises(errors.Canceled), known.turn(gone):
        pass


def test_scopes_are_bounded():
    known = tokens.Tokens()
    for number in range(1000):
        known.put(f"repository:{number}:pull", "x", 1e12)
    assert len(known._known) == tokens.MOST
    assert known.header("repository:999:pull") == "x"
