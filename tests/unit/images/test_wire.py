"""What goes over HTTP, told without secrets."""

from contextlib import closing

import pytest

from daemon.images.hosts import Host
from daemon.images.keeper import Keeper
from daemon.images.resolver import RegistryResolver
from spec import errors
from tests.answers import Reply
from tests.fake import Fake, digest_of

HEAD = Reply(
    200,
    b"{}",
    {"Content-Type": "a/b", "Docker-Content-Digest": digest_of(b"{}"), "Set-Cookie": "s3cret", "X-Request-Id": "7"},
)


def told(host, *flags, keeper=None, **options):
    lines = []
    with closing(RegistryResolver(keeper=keeper, **dict.fromkeys(flags, True), **options)) as resolver:
        resolver.watch(lambda text: lines.extend(text.split("\n")))
        resolver.resolve(f"{host}/a:1")
    return lines


def test_heads_without_secrets(own):
    own.replies["/v2/a/manifests/1"] = [HEAD]
    hosts = [Host(base=f"{own.url}/v2", headers={"X-Own": "s3cret", "X-Api-Key": "s3cret"})]
    lines = told(own.host, "http_dump", lookup=lambda *_: hosts)
    assert lines[0] == f"> HEAD {own.url}/v2/a/manifests/1"
    assert "> X-Own: REDACTED" in lines
    assert "< 200 OK" in lines
    assert "< X-Request-Id: 7" in lines
    assert "< Set-Cookie: REDACTED" in lines
    assert "s3cret" not in "\n".join(lines)


def test_challenges_are_shown_and_what_answers_them_is_not():
    with Fake(tokens=("me", "s3cret")) as fake:
        fake.image("1", {"x": b""})
        lines = told(fake.host, "http_dump", plain_http=True, username="me", secret="s3cret")
    assert any(line.startswith("< WWW-Authenticate: Bearer realm=") for line in lines)
    assert "> Authorization: Bearer REDACTED" in lines
    assert "> Authorization: Basic REDACTED" in lines
    assert any(line.startswith(f"> GET http://{fake.host}/token?scope=REDACTED&service=REDACTED") for line in lines)
    assert "good" not in "\n".join(lines)
    assert "czNjcmV0" not in "\n".join(lines)


def test_signatures_of_addresses_are_left_out(own, other):
    own.replies["/v2/a/manifests/1"] = [Reply(307, headers={"Location": f"{other.url}/x?X-Sig=s3cret"})]
    other.replies["/x"] = [HEAD]
    lines = told(own.host, "http_dump", plain_http=True)
    assert f"< Location: {other.url}/x?X-Sig=REDACTED" in lines
    assert f"> HEAD {other.url}/x?X-Sig=REDACTED" in lines
    assert "s3cret" not in "\n".join(lines)


def test_connections(own):
    own.replies["/v2/a/manifests/1"] = [HEAD, HEAD]
    with closing(Keeper()) as keeper:
        first = told(own.host, "http_trace", plain_http=True, keeper=keeper)
        second = told(own.host, "http_trace", plain_http=True, keeper=keeper)
    assert first[0].startswith(f"* connected to {own.host} ({own.host}) in ")
    assert first[1].startswith("* the answer began after ")
    assert second[0] == f"* a connection to {own.host} serves again"


def test_a_host_that_refuses():
    lines = []
    with closing(RegistryResolver(http_trace=True, plain_http=True)) as resolver:
        resolver.watch(lines.append)
        with pytest.raises(errors.Unavailable):
            resolver.resolve("127.0.0.1:1/a:1")
    assert lines[0].startswith("* no connection to 127.0.0.1:1 after ")


def test_nothing_is_told_unasked(own):
    own.replies["/v2/a/manifests/1"] = [HEAD]
    assert told(own.host, plain_http=True) == []
