"""HTTP to one host: pooled connections, bounded redirects, retries with patience. Knows urls and headers, no image.

A redirect to another origin takes no credentials, cookies or host's own headers along (CVE-2020-15157, oras-go's and
docker's alike).
"""

import contextlib
import ssl
import threading
import weakref
from collections.abc import Mapping, Set
from urllib.parse import urljoin, urlsplit

import urllib3
from urllib3.util import Timeout

from daemon.images.hosts import Host
from daemon.kit import tracing
from spec import errors
from spec.oci import distribution

CONNECT_S = 30.0
HEADER_S = 30.0  # until an answer begins
READ_S = 60.0  # without a byte of its body
MAX_REDIRECTS = 10
ATTEMPTS = 5
PATIENCE_S = 30.0  # the longest Retry-After that is waited for
TRANSIENT = (408, 429, 500, 502, 503, 504)
PRIVATE = frozenset({"authorization", "cookie", "proxy-authorization"})
OF_A_BODY = frozenset({"content-type", "content-length"})
USER_AGENT = "holdd"

UNREACHABLE = (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError)

_PORTS = {"http": 80, "https": 443}

# Whoever wants no verification has said so; one warning a request would but fill the log.
urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)

Answer = urllib3.BaseHTTPResponse


class Transport:
    """Requests to one host, and on its behalf to others. From any thread.

    `close` it: that also wakes whoever sleeps, reads or starts a request, with Canceled.
    """

    def __init__(self, host: Host) -> None:
        self.host = host
        self.base = host.base
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._answers: weakref.WeakSet[Answer] = weakref.WeakSet()
        self._own = {_origin(base) for base in (host.base, host.fallback) if base}
        self._pools = _pools(_context(host))
        self._others = _pools(ssl.create_default_context())  # trust in the host is trust in nobody else

    def request(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None) -> Answer:
        """The final answer, whatever its status; its body is for the caller to read and close.

        Unavailable when the host cannot be reached. Retries what may pass. The host's own headers go to its own origin
        only: a token server is another.
        """
        own = self.host.headers if _origin(url) in self._own else {}
        given = {"User-Agent": USER_AGENT, **own, **headers}
        for attempt in range(ATTEMPTS):
            last = attempt == ATTEMPTS - 1
            self._check()
            try:
                answer = self._follow(method, url, given, body)
            except urllib3.exceptions.SSLError as exc:
                raise errors.Unavailable(f"{method} {distribution.redacted(url)}: {_cause(exc)}") from exc
            except (urllib3.exceptions.HTTPError, OSError) as exc:
                if last or isinstance(exc, UNREACHABLE):
                    raise errors.Unavailable(f"{method} {distribution.redacted(url)}: {_cause(exc)}") from exc
                self._rest(0.05 * 2**attempt)
                continue
            if answer.status not in TRANSIENT or last:
                return answer
            patience = _patience(answer, attempt)
            answer.close()
            self._rest(patience)
        raise AssertionError("unreachable")

    def close(self) -> None:
        self._closed.set()
        with self._lock:
            answers = list(self._answers)
        for answer in answers:
            with contextlib.suppress(ValueError, RuntimeError, OSError):  # it is done, or was never begun
                answer.shutdown()
        for pools in (self._pools, self._others):
            for key in pools.pools.keys():  # noqa: SIM118 it is no dict
                pool = pools.pools.get(key)
                if pool is not None:
                    pool.close()  # clearing alone leaves idle connections open for as long as anyone holds an answer
            pools.clear()

    def _check(self) -> None:
        if self._closed.is_set():
            raise errors.Canceled(f"asking {self.host.name}: its connections were closed")

    def _rest(self, seconds: float) -> None:
        self._closed.wait(seconds)
        self._check()

    def _send(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
        """One request, whose answer `close` can interrupt."""
        with tracing.span(f"HTTP {method}", tracing.CLIENT, **{"server.address": urlsplit(url).hostname or ""}):
            return self._sent(method, url, headers, body)

    def _sent(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
        pools = self._pools if _origin(url) in self._own else self._others
        answer = pools.request(
            method, url, headers=dict(headers), body=body, redirect=False, preload_content=False, retries=False,
            decode_content=False,
        )  # fmt: skip
        sock = getattr(answer.connection, "sock", None)
        if sock is not None:
            sock.settimeout(READ_S)
        with self._lock:
            self._answers.add(answer)
        if self._closed.is_set():
            answer.close()
            self._check()
        return answer

    def _follow(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
        origin = _origin(url)
        for _ in range(MAX_REDIRECTS + 1):
            answer = self._send(method, url, headers, body)
            location = answer.headers.get("Location")
            if answer.status not in (301, 302, 303, 307, 308) or not location:
                return answer
            answer.close()
            url = _joined(url, location)
            if answer.status <= 303 and method == "POST":  # RFC 9110, 15.4
                method, body = "GET", None
                headers = _without(headers, OF_A_BODY)
            if urlsplit(url).scheme not in _PORTS:
                raise errors.InvalidArgument(f"{method} {distribution.redacted(url)}: a redirect to no http address")
            if urlsplit(url).scheme == "http" and origin[0] == "https":
                raise errors.PermissionDenied(f"{method} {distribution.redacted(url)}: a redirect from https to http")
            if _origin(url) != origin:
                if body is not None:
                    raise errors.PermissionDenied(f"{method} {distribution.redacted(url)}: what is sent is not for it")
                headers = _without(headers, PRIVATE | {name.lower() for name in self.host.headers})
        raise errors.Unavailable(f"{method} {distribution.redacted(url)}: more than {MAX_REDIRECTS} redirects")


def body_of(answer: Answer, limit: int, doing: str) -> bytes:
    """Up to `limit` bytes of a body; then the answer is closed. Unavailable when the connection breaks."""
    body = b""
    try:
        while len(body) < limit and (data := answer.read(limit - len(body))):
            body += data  # the first read of a body that was cut short is but short; the next one fails
        return body
    except (urllib3.exceptions.HTTPError, OSError) as exc:
        raise errors.Unavailable(f"{doing}: the connection breaks: {_cause(exc)}") from exc
    finally:
        answer.close()


def status_error(answer: Answer, method: str, url: str, doing: str) -> errors.Error:
    """A status that is no success, as an error in the registry's words. Releases the answer."""
    said = ""
    if method != "HEAD":
        with contextlib.suppress(errors.Unavailable):  # the status says enough
            said = distribution.problems(body_of(answer, distribution.MAX_ERROR_BODY, doing))
    answer.close()
    text = f"{doing}: {method} {distribution.redacted(url)}: status {answer.status}{': ' + said if said else ''}"
    if answer.status == 404:
        return errors.NotFound(text)
    if answer.status == 401:
        return errors.Unauthenticated(text)
    if answer.status == 403:
        return errors.PermissionDenied(text)
    if answer.status == 429 or answer.status >= 500:
        return errors.Unavailable(text)
    return errors.Unknown(text)


def _without(headers: Mapping[str, str], names: Set[str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in names}


def _pools(context: ssl.SSLContext) -> urllib3.PoolManager:
    timeout = Timeout(connect=CONNECT_S, read=HEADER_S)
    return urllib3.PoolManager(
        num_pools=8, maxsize=16, block=False, timeout=timeout, retries=False, ssl_context=context
    )


def _joined(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError as exc:
        raise errors.InvalidArgument(f"{distribution.redacted(url)}: a redirect to a malformed address") from exc


def _origin(url: str) -> tuple[str, str, int]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise errors.InvalidArgument(f"{distribution.redacted(url)}: a malformed address") from exc
    return parts.scheme, (parts.hostname or "").rstrip("."), port or _PORTS.get(parts.scheme, 0)


def _context(host: Host) -> ssl.SSLContext:
    context = ssl.create_default_context()
    try:
        for path in host.ca:
            context.load_verify_locations(cafile=path)
        for certificate, key in host.client:
            context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as exc:
        raise errors.InvalidArgument(f"loading certificates for {host.name}: {exc}") from exc
    if host.skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _patience(answer: Answer, attempt: int) -> float:
    """Seconds until the next attempt: the server's word, within reason, or twice as long each time."""
    said = answer.headers.get("Retry-After", "")
    return min(float(said[:9]), PATIENCE_S) if said.isascii() and said.isdecimal() else 0.1 * 2.0**attempt


def _cause(exc: Exception) -> str:
    """The innermost reason, in a few words."""
    reason = exc.args[-1] if exc.args else exc
    inner = getattr(reason, "reason", None)  # of an ssl error it is but a symbol
    return str(inner if isinstance(inner, Exception) else reason)[:300]
