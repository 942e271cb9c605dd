"""Heads without end, proxies, certificates, and connections that are broken from here."""

import socket
import threading

import pytest
import urllib3

from daemon.images import pools
from daemon.images.breaker import Breakers
from daemon.images.hosts import Host
from daemon.images.transport import Transport
from spec import errors
from tests.answers import Answers, Reply
from tests.registry import certificate


def endless(start, piece):
    """A server that goes on for ever; its address, and how much it sent."""
    listener = socket.create_server(("127.0.0.1", 0))
    sent = []

    def serve():
        peer, _ = listener.accept()
        with peer:
            try:
                peer.recv(10_000)
                peer.sendall(start)
                while True:
                    peer.sendall(piece)
                    sent.append(len(piece))
            except OSError:
                pass

    thread = threading.Thread(target=serve, name="endless")
    thread.start()
    return listener, thread, sent


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"X-A: " + b"b" * 1000 + b"\r\n"),
        (b"HTTP/1.1 200 OK\r\nX: ", b"b" * 1000),
        (b"HTTP/1.1 200 ", b"b" * 1000),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X-A: " + b"b" * 1000 + b"\r\n"),
    ],
    ids=["headers", "a header", "a status", "continue", "trailers"],
)
def test_a_head_without_end_is_cut_off(start, piece):
    listener, thread, _ = endless(start, piece)
    transport = Transport(Host(base=f"http://127.0.0.1:{listener.getsockname()[1]}/v2"))
    with listener:
        with pytest.raises((errors.Unavailable, urllib3.exceptions.HTTPError)):
            transport.request("GET", f"{transport.base}/x", {}, attempts=1).read()
        transport.close()
        thread.join(20)
    assert not thread.is_alive()


def test_a_head_that_comes_slowly_is_cut_off(monkeypatch):
    monkeypatch.setattr(pools, "HEAD_S", 0.2)
    stop = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        peer, _ = listener.accept()
        with peer:
            peer.recv(10_000)
            peer.sendall(b"HTTP/1.1 200 OK\r\n")
            stop.wait(20)

    thread = threading.Thread(target=serve, name="slow")
    thread.start()
    transport = Transport(Host(base=f"http://127.0.0.1:{listener.getsockname()[1]}/v2"))
    with listener, pytest.raises(errors.Unavailable):
        transport.request("GET", f"{transport.base}/x", {}, attempts=1)
    stop.set()
    transport.close()
    thread.join(20)


def test_close_wakes_who_waits_for_an_answer():
    listener = socket.create_server(("127.0.0.1", 0))
    transport = Transport(Host(base=f"http://127.0.0.1:{listener.getsockname()[1]}/v2"))

    def closes():
        peer, _ = listener.accept()
        with peer:
            peer.recv(10_000)
            transport.close()

    thread = threading.Thread(target=closes, name="closes")
    thread.start()
    with listener, pytest.raises(errors.Canceled):
        transport.request("GET", f"{transport.base}/x", {})
    thread.join(20)


def test_a_proxy_of_the_environment(monkeypatch):
    with Answers() as proxy:
        monkeypatch.setenv("http_proxy", f"http://u:p%40@{proxy.host}")
        monkeypatch.setenv("no_proxy", "spared.example,10.0.0.0/8")
        proxy.replies["http://a.example/v2/x"] = [Reply(200, b"by proxy")]
        transport = Transport(Host(base="http://a.example/v2"))
        answer = transport.request("GET", "http://a.example/v2/x", {"Authorization": "Basic mine"})
        assert answer.read() == b"by proxy"
        transport.close()
    seen = {name.lower(): value for name, value in proxy.requests[0].headers.items()}
    assert (seen["proxy-authorization"], seen["authorization"]) == ("Basic dTpwQA==", "Basic mine")


@pytest.mark.parametrize(
    ("url", "proxied"),
    [
        ("http://a.example/", True),
        ("http://spared.example/", False),
        ("http://sub.spared.example:80/", False),
        ("http://notspared.example/", True),
        ("http://10.1.2.3/", False),
        ("http://11.1.2.3/", True),
        ("http://localhost:5000/", False),
        ("http://127.0.0.1:5000/", False),
        ("http://[::1]:5000/", False),
        ("https://a.example/", False),
    ],
)
def test_who_is_asked_through_a_proxy(monkeypatch, url, proxied):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "spared.example, 10.0.0.0/8")
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    made = pools.Pools(pools.everyone, 1, 1)
    assert isinstance(made._for(url), urllib3.ProxyManager) is proxied
    made.close()


def test_certificates_as_files_and_as_text(tmp_path):
    paths = certificate(tmp_path)
    pair = (str(paths.certificate), str(paths.key))
    texts = (paths.certificate.read_text(), paths.key.read_text())
    for host in (
        Host(base="https://a/v2", ca=[str(paths.ca)], client=[pair]),
        Host(base="https://a/v2", authorities=[paths.ca.read_text()], identities=[texts]),
    ):
        assert any("test CA" in str(found) for found in pools.context(host).get_ca_certs())
    for wrong in (
        Host(base="https://a/v2", ca=[str(tmp_path / "nothing")]),
        Host(base="https://a/v2", authorities=["nonsense"]),
        Host(base="https://a/v2", identities=[("a", "b")]),
    ):
        transport = Transport(wrong)
        with pytest.raises(errors.InvalidArgument, match="certificates for a"):
            transport.request("GET", "https://a/v2/x", {})
        transport.close()


def test_a_dead_host_is_known_to_others():
    breakers = Breakers()
    dead = Transport(Host(base="http://127.0.0.1:1/v2"), breakers)
    with pytest.raises(errors.Unavailable):
        dead.request("GET", f"{dead.base}/x", {})
    assert not breakers.may_ask("127.0.0.1:1")
    dead.close()


def test_the_systems_authorities_are_found_where_openssl_does_not_look(monkeypatch, tmp_path):
    """A binary that was built on one distribution runs on another."""
    bundle = certificate(tmp_path).ca
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))
    monkeypatch.setattr(pools, "AUTHORITIES", (str(tmp_path / "neither"), str(bundle)))
    assert any("test CA" in str(found) for found in pools._system().get_ca_certs())
    monkeypatch.setattr(pools, "AUTHORITIES", (str(tmp_path / "neither"),))
    assert not pools._system().get_ca_certs()
