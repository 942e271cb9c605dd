"""Tokens: which scopes, for how long, from whom; and to whom no credentials go (A4 of the advisories)."""

import json
import time
from urllib.parse import parse_qs, urlsplit

import pytest

from daemon.images.auth import Authorizer, Credentials
from daemon.images.hosts import Host
from daemon.images.tokens import Tokens
from daemon.images.transport import Transport
from spec import errors
from tests.answers import Reply

ME = Credentials(username="me", secret="secret")
REFRESH = Credentials(secret="refresh")
PULL = "repository:a:pull"


class Challenge:
    """A 401."""

    def __init__(self, *values):
        self.headers = self
        self.values = values

    def getlist(self, name):
        return list(self.values)


def bearer(realm, **parameters):
    given = "".join(f',{name}="{value}"' for name, value in parameters.items())
    return Challenge(f'Bearer realm="{realm}",service="s"{given}')


def authorizer(credentials=ME, base="http://127.0.0.1/v2"):
    transport = Transport(Host(base=base))
    return Authorizer(base, credentials, transport.request, Tokens()), transport


def token(text, **fields):
    return Reply(200, json.dumps({"token": text, **fields}).encode())


def test_a_token_is_kept_by_its_scope_until_it_ends(own, monkeypatch):
    own.replies["/t"] = [token("one", expires_in=300), token("two"), token("three")]
    made, transport = authorizer()
    challenge = bearer(f"{own.url}/t")
    assert made.challenged(challenge, PULL, "") == "Bearer one"
    assert made.header(PULL) == "Bearer one"
    assert made.header("repository:b:pull") == ""
    assert made.challenged(challenge, "repository:b:pull", "") == "Bearer two"
    monkeypatch.setattr("daemon.images.tokens.time.monotonic", lambda now=time.monotonic(): now + 295)
    assert made.header(PULL) == ""
    transport.close()


def test_scopes_are_merged_sorted_and_asked_for_one_by_one(own):
    own.replies["/t"] = [token("one")]
    made, transport = authorizer()
    scope = "repository:b:pull repository:a:push,pull"
    made.challenged(bearer(f"{own.url}/t", scope="repository:a:delete"), scope, "")
    query = parse_qs(urlsplit(own.requests[0].path).query)
    assert query == {"service": ["s"], "scope": ["repository:a:delete,pull,push", "repository:b:pull"]}
    transport.close()


def test_a_refresh_token_is_posted_and_replaced(own):
    own.replies["/t"] = [token("one", refresh_token="next"), token("two")]
    made, transport = authorizer(REFRESH)
    for scope in (PULL, "repository:b:pull"):
        made.challenged(bearer(f"{own.url}/t"), scope, "")
    forms = [parse_qs(request.body.decode()) for request in own.requests]
    assert [form["refresh_token"] for form in forms] == [["refresh"], ["next"]]
    assert forms[0]["grant_type"] == ["refresh_token"]
    transport.close()


@pytest.mark.parametrize("status", [404, 405])
def test_a_server_of_passwords_in_forms(own, status):
    own.replies["/t"] = [Reply(status), token("one")]
    made, transport = authorizer()
    assert made.challenged(bearer(f"{own.url}/t"), PULL, "") == "Bearer one"
    form = parse_qs(own.requests[1].body.decode())
    assert (form["grant_type"], form["username"], form["password"]) == (["password"], ["me"], ["secret"])
    transport.close()


@pytest.mark.parametrize(
    ("base", "realm", "why"),
    [
        ("https://a.example/v2", "http://a.example/t", "less safe"),
        ("https://a.example/v2", "http://b.example/t", "less safe"),
        ("https://a.example/v2", "file:///etc/passwd", "no http"),
        ("https://a.example/v2", "gopher://a.example/t", "no http"),
        ("https://a.example/v2", "https:///t", "no http"),
        ("https://a.example/v2", "https://[::1/t", "no http"),
        ("https://a.example/v2", "", "no http"),
        ("https://a.example/v2", "https://x:y@b.example/t", "a name of its own"),
        ("https://a.example/v2", "https://127.0.0.1/t", "this machine"),
        ("https://a.example/v2", "https://169.254.169.254/t", "this machine"),
        ("https://a.example/v2", "https://0.0.0.0/t", "this machine"),
        ("https://a.example/v2", "https://[::ffff:127.0.0.1]/t", "this machine"),
        ("https://a.example/v2", "https://localhost/t", "this machine"),
        ("https://a.example/v2", "https://10.0.0.1/t", "private network"),
        ("https://a.example/v2", "https://192.168.1.1/t", "private network"),
        ("https://a.example/v2", "https://[fd00::1]/t", "private network"),
    ],
)
def test_realms_that_are_refused_unasked(base, realm, why):
    asked = []
    made = Authorizer(base, ME, lambda *request: asked.append(request), Tokens())
    with pytest.raises(errors.Unauthenticated, match=why):
        made.challenged(bearer(realm), PULL, "")
    assert not asked


@pytest.mark.parametrize(
    ("base", "realm"),
    [
        ("https://a.example/v2", "https://b.example/t"),
        ("https://10.0.0.1/v2", "https://10.0.0.2/t"),
        ("https://127.0.0.1:5000/v2", "https://127.0.0.1:5001/t"),
        ("http://a.example/v2", "https://a.example/t"),
    ],
)
def test_realms_that_are_asked(base, realm):
    asked = []

    def send(*request):
        asked.append(request)
        raise errors.Unavailable("far away")

    with pytest.raises(errors.Unavailable):
        Authorizer(base, ME, send, Tokens()).challenged(bearer(realm), PULL, "")
    assert asked[0][1].startswith(realm)


@pytest.mark.parametrize("status", [400, 401, 403])
def test_a_token_server_that_refuses(own, status):
    own.replies["/t"] = [Reply(status, b'{"errors":[{"code":"DENIED"}]}')]
    made, transport = authorizer()
    with pytest.raises(errors.Unauthenticated, match="DENIED"):
        made.challenged(bearer(f"{own.url}/t"), PULL, "")
    transport.close()


@pytest.mark.parametrize("challenges", [(), ("Negotiate",), ("Basic",)])
def test_nothing_to_answer_a_challenge_with(challenges):
    made = Authorizer("https://a.example/v2", Credentials(), lambda *_: None, Tokens())
    with pytest.raises(errors.Unauthenticated):
        made.challenged(Challenge(*challenges), PULL, "")


def test_a_password_that_was_refused_is_not_given_again():
    made = Authorizer("https://a.example/v2", ME, lambda *_: None, Tokens())
    used = made.challenged(Challenge("Basic"), PULL, "")
    with pytest.raises(errors.Unauthenticated, match="refused"):
        made.challenged(Challenge("Basic"), PULL, used)
