"""Hosts in their order, tokens and their servers, foreign layers, and connections that break."""

import json

import pytest

from daemon.images.hosts import Host
from daemon.images.resolver import RegistryResolver
from spec import errors
from spec.oci.image import OCI_LAYER_GZIP, Descriptor
from tests.answers import Reply
from tests.fake import MANIFEST, digest_of

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
    wanted = layer(FOREIGN, urls=["ftp://127.0.0.1/x", f"http://me:pw@{other.host}/layer", f"{other.url}/layer"])
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
