"""Hosts in their order, tokens and their servers, foreign layers, and connections that break."""

import json
from contextlib import closing

import pytest

from daemon.images import transport
from daemon.images.hosts import CAPABILITIES, Host
from daemon.images.resolver import RegistryResolver
from spec import errors
from spec.oci.image import OCI_LAYER_GZIP, Descriptor
from tests.answers import Reply
from tests.fake import MANIFEST, digest_of
from tests.registry import Registry

FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
BODY = b'{"schemaVersion":2}'
PATH = "/v2/a/manifests/1"
HEAD = Reply(200, BODY, {"Content-Type": MANIFEST, "Docker-Content-Digest": digest_of(BODY)})
BLOB = b"0123456789"
BLOB_PATH = f"/v2/a/blobs/{digest_of(BLOB)}"


@pytest.fixture
def resolver(own, other):
    """The registry `own`, with `other` as its mirror."""
    hosts = [Host(base=f"{other.url}/v2", mirror=True), Host(base=f"{own.url}/v2")]
    made = RegistryResolver(username="me", secret="secret", lookup=lambda *_: hosts)
    yield made
    made.close()


@pytest.fixture
def alone(own):
    made = RegistryResolver(plain_http=True)
    yield made
    made.close()


def layer(media_type=OCI_LAYER_GZIP, **fields):
    return Descriptor(media_type=media_type, digest=digest_of(BLOB), size=len(BLOB), **fields)


def bytes_of(source):
    try:
        return b"".join(iter(lambda: source.read(4), b""))
    finally:
        source.close()


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_after_a_mirror_that_refuses_comes_the_next(own, other, resolver, status):
    other.replies[PATH] = [Reply(status)] * 9
    own.replies[PATH] = [HEAD]
    assert resolver.resolve(f"{own.host}/a:1").digest == digest_of(BODY)
    assert all("Authorization" not in request.headers for request in other.requests)
    assert other.requests[0].path == f"{PATH}?ns={own.host}"


@pytest.mark.parametrize("status", [401, 403, 404])
def test_after_a_mirror_that_refuses_a_blob_comes_the_next(own, other, resolver, status):
    other.replies[BLOB_PATH] = [Reply(status)] * 9
    own.replies[BLOB_PATH] = [Reply(200, BLOB)]
    assert bytes_of(resolver.fetcher(f"{own.host}/a:1").fetch(layer())) == BLOB


def test_the_last_hosts_error_counts(own, other, resolver):
    own.replies[PATH] = [Reply(403)] * 9
    with pytest.raises(errors.PermissionDenied, match=f"resolving {own.host}/a:1"):
        resolver.resolve(f"{own.host}/a:1")
    assert other.requests


def test_a_manifest_whose_head_says_too_little_is_read(own, alone):
    own.replies[PATH] = [Reply(200), Reply(200, BODY, {"Content-Type": MANIFEST})]
    found = alone.resolve(f"{own.host}/a:1")
    assert (found.media_type, found.digest, found.size) == (MANIFEST, digest_of(BODY), len(BODY))


def test_a_manifest_that_is_cut_short_is_not_taken(own, alone):
    own.replies[PATH] = [Reply(200), Reply(200, BODY, {"Content-Type": MANIFEST}, promised=1000)]
    with pytest.raises(errors.Unavailable):
        alone.resolve(f"{own.host}/a:1")


@pytest.mark.parametrize("realm", ["http://127.1:1/t", "http://2130706433/t", "http://169.254.169.254/t", "http://[::1]/t"])
def test_a_token_server_on_this_machine_is_refused(own, alone, realm):
    own.replies[PATH] = [Reply(401, headers={"WWW-Authenticate": f'Bearer realm="{realm}"'})]
    with pytest.raises(errors.Unauthenticated, match="on this machine or link"):
        alone.resolve(f"{own.host}/a:1")


def test_a_refresh_token_does_not_follow_a_redirect(own, other):
    challenge = {"WWW-Authenticate": f'Bearer realm="{own.url}/token",service="s"'}
    own.replies[PATH] = [Reply(401, headers=challenge)]
    own.replies["/token"] = [Reply(307, headers={"Location": f"{other.url}/token"})]
    resolver = RegistryResolver(plain_http=True, secret="refresh")
    with pytest.raises(errors.PermissionDenied):
        resolver.resolve(f"{own.host}/a:1")
    resolver.close()
    assert b"refresh_token=refresh" in own.requests[-1].body
    assert not other.requests


def test_a_hosts_own_headers_do_not_reach_its_token_server(own, other):
    challenge = {"WWW-Authenticate": f'Bearer realm="{other.url}/token",service="s"'}
    own.replies[PATH] = [Reply(401, headers=challenge), HEAD]
    other.replies["/token"] = [Reply(200, json.dumps({"token": "good"}).encode())]
    host = Host(base=f"{own.url}/v2", headers={"X-Secret": "s"})
    resolver = RegistryResolver(lookup=lambda *_: [host])
    resolver.resolve(f"{own.host}/a:1")
    resolver.close()
    assert [request.headers.get("X-Secret") for request in own.requests] == ["s", "s"]
    assert own.requests[-1].headers["Authorization"] == "Bearer good"
    assert "X-Secret" not in other.requests[0].headers


def test_a_foreign_layer_comes_from_its_url_without_credentials(own, other, alone):
    other.replies["/layer"] = [Reply(200, BLOB)]
    odd = [f"{other.url}/\ud800?\ud800", f"{other.url}/a\r\nX-Y: z", "http://[::1", ""]
    wanted = layer(FOREIGN, urls=["ftp://127.0.0.1/x", *odd, f"http://me:pw@{other.host}/layer", f"{other.url}/layer"])
    assert bytes_of(alone.fetcher(f"{own.host}/a:1").fetch(wanted)) == BLOB
    assert not own.requests
    assert "Authorization" not in other.requests[0].headers


def test_a_foreign_layer_whose_url_fails_comes_from_the_registry(own, other, alone):
    own.replies[BLOB_PATH] = [Reply(200, BLOB)]
    wanted = layer(FOREIGN, urls=[f"{other.url}/nothing", "http://127.1:1/x"])
    assert bytes_of(alone.fetcher(f"{own.host}/a:1").fetch(wanted)) == BLOB


def test_urls_of_a_layer_that_is_not_foreign_are_not_asked(own, other, alone):
    own.replies[BLOB_PATH] = [Reply(200, BLOB)]
    assert bytes_of(alone.fetcher(f"{own.host}/a:1").fetch(layer(urls=[f"{other.url}/layer"]))) == BLOB
    assert not other.requests


def test_a_broken_connection_is_taken_up_where_it_broke(own, alone):
    rest = {"Content-Range": "bytes 4-9/10"}
    own.replies[BLOB_PATH] = [Reply(200, BLOB[:4], promised=10), Reply(206, BLOB[4:], rest)]
    assert bytes_of(alone.fetcher(f"{own.host}/a:1").fetch(layer())) == BLOB
    assert own.requests[-1].headers["Range"] == "bytes=4-"


def test_a_server_that_knows_no_ranges(own, alone):
    own.replies[BLOB_PATH] = [Reply(200, BLOB)]
    assert bytes_of(alone.fetcher(f"{own.host}/a:1").fetch(layer(), 7)) == BLOB[7:]


def test_a_range_that_was_not_asked_for(own, alone):
    own.replies[BLOB_PATH] = [Reply(206, BLOB[2:], {"Content-Range": "bytes 2-9/10"})]
    with pytest.raises(errors.DataLoss, match="it came from 2"):
        alone.fetcher(f"{own.host}/a:1").fetch(layer(), 4)


def test_a_server_that_breaks_before_the_offset(own, alone):
    own.replies[BLOB_PATH] = [Reply(200, BLOB[:2], promised=10)]
    with pytest.raises(errors.Unavailable, match="before byte 4"):
        alone.fetcher(f"{own.host}/a:1").fetch(layer(), 4)


def test_bytes_that_came_with_the_descriptor(own, alone):
    assert bytes_of(alone.fetcher(f"{own.host}/a:1").fetch(layer(data=BLOB), 3)) == BLOB[3:]
    assert not own.requests


def test_a_closed_resolver_asks_nobody(own, alone):
    alone.close()
    with pytest.raises(errors.Canceled):
        alone.resolve(f"{own.host}/a:1")


def test_a_port_that_is_none_is_no_reference():
    with pytest.raises(errors.InvalidArgument, match="99999"):
        RegistryResolver().resolve("host.example:99999/a:1")


@pytest.mark.parametrize(
    ("registry", "host", "seen"),
    [
        ("docker.io", "registry-1.docker.io", True),
        ("docker.io", "elsewhere.example", False),
        ("a.example:5000", "a.example:5000", True),
        ("a.example:5000", "a.example", False),
    ],
)
def test_credentials_are_for_the_registry_itself(registry, host, seen):
    resolver = RegistryResolver(username="me", secret="s")
    assert bool(resolver._for(Host(base=f"https://{host}/v2"), registry).username) is seen
    resolver.close()


@pytest.mark.parametrize("offset", [0, 1, 5, 9, 10])
def test_a_blob_from_any_offset(own, alone, offset):
    own.replies[BLOB_PATH] = [Reply(206, BLOB[offset:], {"Content-Range": f"bytes {offset}-9/10"})]
    if not offset:
        own.replies[BLOB_PATH] = [Reply(200, BLOB)]
    assert bytes_of(alone.fetcher(f"{own.host}/a:1").fetch(layer(), offset)) == BLOB[offset:]
    assert [request.headers.get("Range") for request in own.requests] == {0: [None], 10: []}.get(
        offset, [f"bytes={offset}-"]
    )


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd", "br", "gzip, deflate", "identity, gzip", "nonsense"])
def test_a_blob_that_is_encoded_is_refused(own, alone, encoding):
    """Nobody asked for it: its bytes would be others, and as many as it likes."""
    own.replies[BLOB_PATH] = [Reply(200, BLOB, {"Content-Encoding": encoding})]
    with pytest.raises(errors.DataLoss, match="was not asked for"):
        alone.fetcher(f"{own.host}/a:1").fetch(layer())
    assert own.requests[0].headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("encoding", ["identity", "Identity", ""])
def test_a_blob_that_is_as_it_is(own, alone, encoding):
    own.replies[BLOB_PATH] = [Reply(200, BLOB, {"Content-Encoding": encoding})]
    assert bytes_of(alone.fetcher(f"{own.host}/a:1").fetch(layer())) == BLOB


def test_whoever_may_not_look_hears_why(own, alone):
    """By one GET, for an answer to HEAD has no words."""
    own.replies[PATH] = [Reply(403), Reply(403, b'{"errors":[{"code":"DENIED","message":"pay first"}]}')]
    with pytest.raises(errors.PermissionDenied, match="DENIED: pay first"):
        alone.resolve(f"{own.host}/a:1")
    assert [request.method for request in own.requests] == ["HEAD", "GET"]


def test_whoever_may_not_look_hears_so_when_the_reason_does_not_come(own, alone, monkeypatch):
    monkeypatch.setattr(transport, "doubled", lambda *_: 0.0)
    own.replies[PATH] = [Reply(403), *[Reply(200, b"", {"Content-Type": MANIFEST}, promised=10)] * 9]
    with pytest.raises(errors.PermissionDenied, match="status 403"):
        alone.resolve(f"{own.host}/a:1")


def test_what_is_not_there_is_asked_for_once(own, alone):
    with pytest.raises(errors.NotFound):
        alone.resolve(f"{own.host}/a:1")
    assert [request.method for request in own.requests] == ["HEAD"]


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_only_the_last_host_is_asked_again_and_again(own, other, resolver, status, monkeypatch):
    """Whatever a mirror says of waiting."""
    monkeypatch.setattr(transport, "doubled", lambda *_: 0.0)
    other.replies[PATH] = [Reply(status, headers={"Retry-After": "20"})] * 9
    own.replies[PATH] = [Reply(503), Reply(503), Reply(503), HEAD]
    assert resolver.resolve(f"{own.host}/a:1").digest == digest_of(BODY)
    assert [request.method for request in other.requests] == ["HEAD", "GET"]
    assert len(own.requests) == 4


def test_a_mirror_that_is_the_last_is_asked_again(own, other, monkeypatch):
    """The registry itself may not be asked."""
    monkeypatch.setattr(transport, "doubled", lambda *_: 0.0)
    hosts = [
        Host(base=f"{other.url}/v2", mirror=True, capabilities=["pull", "resolve"]),
        Host(base=f"{own.url}/v2", capabilities=["push"]),
    ]
    other.replies[PATH] = [Reply(503), Reply(503), Reply(503), HEAD]
    with closing(RegistryResolver(lookup=lambda *_: hosts)) as made:
        assert made.resolve(f"{own.host}/a:1").digest == digest_of(BODY)
    assert not own.requests


@pytest.mark.parametrize("alone_can", ["pull", "resolve", "push", "referrers"])
def test_hosts_are_asked_for_what_they_can(own, other, alone_can):
    """Resolving a tag takes `resolve`, a digest `pull`."""
    all_but = [capability for capability in CAPABILITIES if capability != alone_can]
    hosts = [
        Host(base=f"{other.url}/v2", mirror=True, capabilities=[alone_can]),
        Host(base=f"{own.url}/v2", capabilities=all_but),
    ]
    digest = digest_of(BODY)
    for server in (own, other):
        server.replies[PATH] = [HEAD] * 9
        server.replies[f"/v2/a/manifests/{digest}"] = [HEAD] * 9
        server.replies[BLOB_PATH] = [Reply(200, BLOB)] * 9
        server.replies[f"/v2/a/referrers/{digest}"] = [Reply(200, b'{"schemaVersion":2,"manifests":[]}')] * 9
    with closing(RegistryResolver(lookup=lambda *_: hosts)) as made:
        for needs, work in (
            ("resolve", lambda: made.resolve(f"{own.host}/a:1")),
            ("pull", lambda: made.resolve(f"{own.host}/a@{digest}")),
            ("pull", lambda: bytes_of(made.fetcher(f"{own.host}/a:1").fetch(layer()))),
            ("referrers", lambda: made.referrers(f"{own.host}/a:1", digest)),
            ("push", lambda: made.pusher(f"{own.host}/a:1").borrow(layer())),
        ):
            before = len(other.requests)
            work()
            assert (len(other.requests) > before) is (needs == alone_can), needs


def test_after_a_mirror_whose_certificate_is_refused_comes_the_next(own, tmp_path):
    with Registry(tmp_path, tls=True) as mirror:
        hosts = [Host(base=f"https://{mirror.host}/v2", mirror=True), Host(base=f"{own.url}/v2")]
        own.replies[PATH] = [HEAD]
        with closing(RegistryResolver(lookup=lambda *_: hosts)) as made:
            assert made.resolve(f"{own.host}/a:1").digest == digest_of(BODY)


def test_what_a_mirror_is_told_is_added(own, other, resolver):
    kind = "application/vnd.example.sbom"
    path = f"/v2/a/referrers/{digest_of(BODY)}"
    other.replies[path] = [Reply(200, b'{"schemaVersion":2,"manifests":[]}')]
    assert not resolver.referrers(f"{own.host}/a:1", digest_of(BODY), [kind])
    assert other.requests[0].path == f"{path}?artifactType=application%2Fvnd.example.sbom&ns={own.host}"
