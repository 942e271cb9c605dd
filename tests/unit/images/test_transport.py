"""Redirects, retries, and what goes to whom."""

import contextlib
import socket
import ssl
import threading
import time

import pytest

from daemon.images import transport as transports
from daemon.images.hosts import Host
from daemon.images.transport import Transport, body_of
from spec import errors
from tests import tricks
from tests.answers import Reply
from tests.fake import Fake
from tests.registry import certificate


def transport_to(server, **host):
    return Transport(Host(base=f"{server.url}/v2", **host))


def asked(transport, method, url, headers=None, body=None):
    answer = transport.request(method, url, headers or {}, body)
    try:
        return answer.status, answer.read()
    finally:
        answer.close()
        transport.close()


def test_a_redirect_to_another_origin_takes_nothing_private_along(own, other):
    own.replies["/a"] = [Reply(307, headers={"Location": f"{other.url}/b"})]
    other.replies["/b"] = [Reply(200, b"yes")]
    transport = transport_to(own, headers={"X-Own": "secret"})
    headers = {"Authorization": "Bearer x", "Cookie": "c", "Accept": "a/b"}
    assert asked(transport, "GET", f"{own.url}/a", headers) == (200, b"yes")
    assert own.requests[0].headers["X-Own"] == "secret"
    assert own.requests[0].headers["Authorization"] == "Bearer x"
    assert not {"Authorization", "Cookie", "X-Own"} & set(other.requests[0].headers)
    assert other.requests[0].headers["Accept"] == "a/b"


@pytest.mark.parametrize("status", [307, 308])
def test_a_body_never_crosses_origins(own, other, status):
    own.replies["/a"] = [Reply(status, headers={"Location": f"{other.url}/b"})]
    with pytest.raises(errors.PermissionDenied):
        asked(transport_to(own), "POST", f"{own.url}/a", body=b"refresh_token=secret")
    assert not other.requests


@pytest.mark.parametrize("status", [301, 302, 303])
def test_a_post_goes_on_as_a_get_without_its_body(own, other, status):
    own.replies["/a"] = [Reply(status, headers={"Location": f"{other.url}/b"})]
    other.replies["/b"] = [Reply(200)]
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    assert asked(transport_to(own), "POST", f"{own.url}/a", headers, b"secret")[0] == 200
    (request,) = other.requests
    assert (request.method, request.body) == ("GET", b"")
    assert "Content-Type" not in request.headers


def test_a_body_stays_on_its_own_origin(own):
    own.replies["/a"] = [Reply(307, headers={"Location": "/b"})]
    own.replies["/b"] = [Reply(200)]
    assert asked(transport_to(own), "POST", f"{own.url}/a", body=b"x")[0] == 200
    assert [(request.method, request.body) for request in own.requests] == [("POST", b"x"), ("POST", b"x")]


def test_the_hosts_own_headers_are_for_its_origin_only(own, other):
    other.replies["/token"] = [Reply(200)]
    transport = transport_to(own, headers={"Authorization": "Basic secret"})
    assert asked(transport, "GET", f"{other.url}/token")[0] == 200
    assert "Authorization" not in other.requests[0].headers


def test_redirects_end(own):
    own.replies["/a"] = [Reply(302, headers={"Location": "/a"})] * 20
    with pytest.raises(errors.Unavailable, match="redirects"):
        asked(transport_to(own), "GET", f"{own.url}/a")


def test_a_redirect_to_no_http_address(own):
    own.replies["/a"] = [Reply(302, headers={"Location": "file:///etc/passwd"})]
    with pytest.raises(errors.InvalidArgument):
        asked(transport_to(own), "GET", f"{own.url}/a")


def test_what_may_pass_is_tried_again(own):
    own.replies["/a"] = [Reply(503, headers={"Retry-After": "0"}), Reply(200, b"now")]
    assert asked(transport_to(own), "GET", f"{own.url}/a") == (200, b"now")


def test_close_wakes_who_waits_for_a_retry(own):
    own.replies["/a"] = [Reply(503, headers={"Retry-After": "30"})] * 9
    transport = transport_to(own)
    with pytest.raises(errors.Canceled):
        closed_when(lambda: own.requests, transport, lambda: transport.request("GET", f"{own.url}/a", {}))
    assert len(own.requests) == 1


def test_close_wakes_who_reads(own):
    own.replies["/a"] = [Reply(200, b"half", promised=1000, hold=True)]
    transport = transport_to(own)
    answer = transport.request("GET", f"{own.url}/a", {})
    with pytest.raises(errors.Unavailable, match="the connection breaks"):
        closed_when(lambda: True, transport, lambda: body_of(answer, 1000))
    with pytest.raises(errors.Canceled):
        transport.request("GET", f"{own.url}/a", {})


@pytest.mark.parametrize(
    ("start", "target", "error"),
    [
        ("https://a.example", "http://a.example/x", errors.PermissionDenied),
        ("https://a.example", "http://b.example/x", errors.PermissionDenied),
        ("http://a.example", "http://127.0.0.1/x", errors.PermissionDenied),
        ("https://a.example", "https://169.254.169.254/x", errors.PermissionDenied),
        ("https://a.example", "https://localhost./x", errors.PermissionDenied),
        ("https://a.example", "file:///etc/passwd", errors.InvalidArgument),
        ("https://a.example", "gopher://b.example/x", errors.InvalidArgument),
        ("https://a.example", "https:///x", errors.InvalidArgument),
        ("https://a.example", "https://b.example/x", None),
        ("http://a.example", "https://b.example/x", None),
        ("http://127.0.0.1:1", "http://127.0.0.1:2/x", None),
    ],
)
def test_where_a_redirect_may_lead(start, target, error):
    with pytest.raises(error) if error else contextlib.nullcontext():
        transports.check_hop("GET", transports.origin(start), target)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("https://h/x", "https://h:443/y", True),
        ("http://h", "http://h:80", True),
        ("https://H/x", "https://h/x", True),
        ("https://h", "http://h", False),
        ("https://h", "https://h:444", False),
        ("https://h", "https://i", False),
        ("https://h", "https://h.", False),
        ("https://h", "https://h@i", False),
    ],
)
def test_what_is_one_origin(one, other, same):
    """GHSA-742w-89gc-8m9c: credentials stay with theirs."""
    assert (transports.origin(one) == transports.origin(other)) is same


def test_a_body_that_trickles_is_given_up(monkeypatch):
    """However short a document is, nobody waits for it for ever."""
    monkeypatch.setattr(transports, "BODY_S", 0.2)
    with Fake() as fake:
        fake.manifest("1", b"x" * 10_000)
        fake.tricks["1"] = [tricks.trickles]
        transport = Transport(Host(base=f"http://{fake.host}/v2"))
        answer = transport.request("GET", f"{transport.base}/a/manifests/1", {})
        with pytest.raises(errors.Unavailable, match="too few"):
            body_of(answer, 1 << 20)
        transport.close()


@pytest.mark.parametrize(("body", "connections"), [(b"", 1), (b"x" * 1000, 1), (b"x" * 100_000, 2)])
def test_a_small_answer_that_nobody_wants_costs_no_connection(own, body, connections):
    own.replies["/a"] = [Reply(503, body), Reply(307, body, {"Location": "/b"})]
    own.replies["/b"] = [Reply(200, b"yes")]
    assert asked(transport_to(own), "GET", f"{own.url}/a") == (200, b"yes")
    assert len(own._connections) in (connections, 2 * connections - 1)


def test_a_warning_is_logged_once(own, caplog):
    own.replies["/a"] = [Reply(200, headers={"Warning": f'299 - "moves {n}"'}) for n in (1, 1, *range(2, 50))]
    transport = transport_to(own)
    for _ in range(40):
        transport.request("GET", f"{own.url}/a", {}).close()
    transport.close()
    assert [record.getMessage() for record in caplog.records] == [
        f"{own.host} warns: moves {n}" for n in range(1, transports.WARNINGS + 1)
    ]


def closed_when(ready, transport, work):
    """Do `work`; another closes `transport` as soon as `ready`."""

    def closes():
        deadline = time.monotonic() + 20
        while not ready() and time.monotonic() < deadline:
            time.sleep(0.005)
        transport.close()

    closer = threading.Thread(target=closes, name="closer")
    closer.start()
    try:
        return work()
    finally:
        closer.join()


def test_trust_in_a_host_is_trust_in_nobody_else(tmp_path):
    """A host whose certificate need not be checked has a token server that is not who it says."""
    paths = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(paths.certificate, paths.key)
    heard = []

    def serve(listener):
        peer, _ = listener.accept()
        with peer, contextlib.suppress(OSError), context.wrap_socket(peer, server_side=True) as secure:
            heard.append(secure.recv(1000))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        transport = Transport(Host(base="https://127.0.0.1:1/v2", skip_verify=True))
        realm = f"https://127.0.0.1:{listener.getsockname()[1]}/token"
        with pytest.raises(errors.Unavailable, match=r"(?i)certificate"):
            transport.request("GET", realm, {"Authorization": "Basic c2VjcmV0"})
        transport.close()
        thread.join()
    assert not any(heard)


def test_a_server_that_hangs_in_tls():
    """It accepts, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/v2"
        transport = Transport(Host(base=url, dial_s=0.2))
        with pytest.raises(errors.Unavailable, match=r"127\.0\.0\.1.*timed out"):
            transport.request("GET", f"{url}/", {}, attempts=1)
        transport.close()
