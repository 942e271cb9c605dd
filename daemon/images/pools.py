"""Connections that are kept: one set of them for each way of trusting, through the proxies of the environment.

What a server says before a body is bounded in bytes and in time, however slowly it comes.
"""

import contextlib
import functools
import http.client
import ipaddress
import os
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment

import urllib3
import urllib3.connection
from urllib3.util import Timeout, make_headers

from daemon.images.hosts import Host
from daemon.images.wire import Wire
from spec import errors

MAX_HEAD = 64 << 10  # bytes of a status line and headers
HEAD_S = 60.0  # for all of them, once they began to come
BLOCK = 256 << 10  # bytes of a body that are sent at once
# Where Debian, Fedora, SUSE and Alpine keep the authorities that the system trusts.
AUTHORITIES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
IDLE = 16  # connections to one host that are kept

Answer = urllib3.BaseHTTPResponse


class Use:
    """What one who asks has under way, among connections that others use as well. From any thread. `wire` is told what
    they do."""

    def __init__(self, wire: Wire | None = None) -> None:
        self.wire = wire or Wire()
        self._lock = threading.Lock()
        self._taken: weakref.WeakSet[_Connection] = weakref.WeakSet()
        self._closed = False

    def check(self) -> None:
        if self._closed:
            raise ConnectionAbortedError("the connections were closed")

    @contextlib.contextmanager
    def ended(self) -> Iterator[None]:
        """Break what is being sent and waited for. While the block runs nothing goes back to the others."""
        with self._lock:
            self._closed = True
            for connection in list(self._taken):
                if isinstance(connection.sock, socket.socket):
                    with contextlib.suppress(OSError):
                        # Not its own method: that of TLS would let another thread send what follows in the clear.
                        socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)
            yield

    def take(self, connection: "_Connection") -> None:
        """ConnectionAbortedError once it has ended."""
        with self._lock:
            self.check()
            self._taken.add(connection)
        connection.use = self

    def give(self, connection: "_Connection") -> None:
        with self._lock:
            self._taken.discard(connection)


_using = threading.local()  # by whom a connection is taken


class _Connection(urllib3.connection.HTTPConnection):
    """Answers to whoever uses it."""

    response_class: type["_BoundedResponse"]
    use: Use

    def connect(self) -> None:
        began_s = time.monotonic()
        try:
            super().connect()
        except Exception as exc:
            self.use.wire.failed(self, exc, began_s)
            raise
        self.use.wire.connected(self, began_s)
        try:
            self.use.check()
        except OSError:
            self.close()
            raise


class _SecureConnection(_Connection, urllib3.connection.HTTPSConnection):
    pass


class _Pool(urllib3.HTTPConnectionPool):
    """Its connections are given back before another can take them."""

    ConnectionCls = _Connection

    def _get_conn(self, timeout: float | None = None) -> Any:
        connection = super()._get_conn(timeout)
        assert isinstance(connection, _Connection)
        try:
            _using.use.take(connection)
        except OSError:
            connection.close()
            raise
        if connection.sock is not None:
            connection.use.wire.took(connection.host, connection.port)
        return connection

    def _put_conn(self, conn: Any) -> None:
        if conn is not None:
            conn.use.give(conn)
        super()._put_conn(conn)


class _SecurePool(_Pool, urllib3.HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


class Pools:
    """Requests as one trust has them. From any thread. `dial_s` bounds connecting, `answer_s` waiting for an answer.

    `trust` is called when TLS is first spoken: reading the system's authorities takes 25 ms.
    """

    def __init__(self, trust: Callable[[], ssl.SSLContext], dial_s: float, answer_s: float) -> None:
        self._timeout = Timeout(connect=dial_s, read=answer_s)
        self._trust = trust
        self._lock = threading.Lock()
        self._proxies = getproxies_environment()
        self._managers: dict[tuple[str, str], urllib3.PoolManager] = {}  # by scheme and proxy

    def request(
        self, method: str, url: str, headers: Mapping[str, str], body: Any, use: Use, timeout: Timeout | None = None
    ) -> Answer:
        """One answer, neither redirected nor tried again, its body unread and as it was sent."""
        _using.use = use
        return self._for(url).request(
            method, url, headers=dict(headers), body=body, redirect=False, preload_content=False, retries=False,
            decode_content=False, timeout=timeout or self._timeout,
        )  # fmt: skip

    def close(self) -> None:
        """Connections that are idle; what is in use is closed when it is given back."""
        with self._lock:
            managers, self._managers = list(self._managers.values()), {}
        for manager in managers:
            for key in manager.pools.keys():  # noqa: SIM118 it is no dict
                pool = manager.pools.get(key)
                if pool is not None:
                    pool.close()  # clearing alone leaves idle connections open for as long as anyone holds an answer
            manager.clear()

    def _for(self, url: str) -> urllib3.PoolManager:
        parts = urlsplit(url)
        proxy = self._proxies.get(parts.scheme, "") or self._proxies.get("all", "")
        if not proxy or _is_here(parts.hostname or "") or _is_spared(parts.netloc, self._proxies):
            proxy = ""
        with self._lock:
            if (parts.scheme, proxy) not in self._managers:
                self._managers[parts.scheme, proxy] = self._made(parts.scheme == "https", proxy)
            return self._managers[parts.scheme, proxy]

    def _made(self, secure: bool, proxy: str) -> urllib3.PoolManager:
        options: dict[str, Any] = {
            "num_pools": 8, "maxsize": IDLE, "block": False, "timeout": self._timeout, "retries": False,
            "blocksize": BLOCK,
        }  # fmt: skip
        if secure:
            options["ssl_context"] = self._trust()
        if not proxy:
            return _ours(urllib3.PoolManager(**options))
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise errors.InvalidArgument("a proxy of the environment is no http or https address")
        headers = {}
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            headers = make_headers(proxy_basic_auth=pair)
        address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        return _ours(urllib3.ProxyManager(address, proxy_headers=headers, **options))


def _ours(manager: urllib3.PoolManager) -> urllib3.PoolManager:
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
    return manager


def context(host: Host) -> ssl.SSLContext:
    """What is trusted, the system's authorities among it, and what is shown. OSError (ssl's too) for what cannot be
    read."""
    if host.skip_verify:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    elif not (host.ca or host.authorities or host.client or host.identities):
        return everyone()
    else:
        made = _system()
    for path in host.ca:
        made.load_verify_locations(cafile=path)
    for text in host.authorities:
        made.load_verify_locations(cadata=text)
    for certificate, key in host.client:
        made.load_cert_chain(certificate, key, _no_password)
    for certificate, key in host.identities:
        with _file(certificate) as one, _file(key) as other:
            made.load_cert_chain(one, other, _no_password)
    return made


@functools.cache
def everyone() -> ssl.SSLContext:
    """Trust in the system's authorities alone, which all hosts without any of their own share."""
    return _system()


def _system() -> ssl.SSLContext:
    """Trust in the system's authorities, wherever it keeps them: OpenSSL knows where its own maker's does."""
    made = ssl.create_default_context()
    known = ssl.get_default_verify_paths()
    if known.cafile is None and known.capath is None:
        found = next(filter(os.path.exists, AUTHORITIES), None)
        if found is not None:
            made.load_verify_locations(found)
    return made


def _no_password() -> str:
    """OpenSSL would ask for one on the terminal."""
    return ""


@contextlib.contextmanager
def _file(text: str) -> Iterator[str]:
    """A name for bytes in memory: OpenSSL loads keys from files only."""
    with open(os.memfd_create("pem", os.MFD_CLOEXEC), "wb") as file:
        file.write(text.encode())
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}"


def _is_here(hostname: str) -> bool:
    """No proxy is asked for what is on this machine, as Go's clients have it."""
    if hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(hostname).is_loopback
    except ValueError:
        return False


def _is_spared(netloc: str, proxies: Mapping[str, str]) -> bool:
    """Whether `no_proxy` names it: a host, a domain, an address, or a network of addresses."""
    host = netloc.rpartition("@")[2]
    hostname = (urlsplit(f"//{host}").hostname or "").rstrip(".")
    for entry in (word.strip().lower() for word in proxies.get("no", "").split(",")):
        if entry == "*" or entry in (host, hostname) or (entry and hostname.endswith(f".{entry.lstrip('.*')}")):
            return True
        with contextlib.suppress(ValueError):
            if "/" in entry and ipaddress.ip_address(hostname) in ipaddress.ip_network(entry, strict=False):
                return True
    return False


class _Head:
    """Stands where a connection's file does while an answer's head is read."""

    def __init__(self, file: Any, sock: Any) -> None:
        self.file = file
        self._sock = sock
        self._left = MAX_HEAD
        self._until = 0.0
        self._patience = sock.gettimeout()

    def readline(self, limit: int = -1) -> bytes:
        line = bytearray()
        while not line.endswith(b"\n") and (limit < 0 or len(line) < limit):
            if self._until:
                left = self._until - time.monotonic()
                if left <= 0:
                    raise TimeoutError("the head of the answer comes too slowly")
                self._sock.settimeout(min(left, self._patience or left))
            ahead = self.file.peek(1)
            self._until = self._until or time.monotonic() + HEAD_S
            if not ahead:
                break
            end = ahead.find(b"\n") + 1 or len(ahead)
            piece = self.file.read(min(end, limit - len(line)) if limit >= 0 else end)
            self._left -= len(piece)
            if self._left < 0:
                raise http.client.HTTPException(f"the head of the answer is longer than {MAX_HEAD} bytes")
            line += piece
        return bytes(line)

    def close(self) -> None:
        self.file.close()

    def flush(self) -> None:
        self.file.flush()


class _BoundedResponse(http.client.HTTPResponse):
    def __init__(self, sock: Any, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self._sock_of_head = sock

    def begin(self) -> None:
        if self.headers is not None:
            return
        head = _Head(self.fp, self._sock_of_head)
        self.fp = head
        try:
            super().begin()
        finally:
            if self.fp is head:
                self.fp = head.file


    def _read_and_discard_trailer(self) -> None:
        """What follows the last chunk is a head too, and may be as endless."""
        head = _Head(self.fp, self._sock_of_head)
        while head.readline() not in (b"\r\n", b"\n", b""):
            pass


_Connection.response_class = _BoundedResponse
