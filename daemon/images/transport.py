"""HTTP to one host: pooled connections, bounded redirects, retries with patience. Knows urls and headers, no image.

A redirect to another origin takes no credentials, cookies or host's own headers along (CVE-2020-15157, oras-go's and
docker's alike), and none leads from elsewhere to this machine.
"""

import contextlib
import logging
import random
import ssl
import threading
import time
import weakref
from collections.abc import Mapping, Sequence, Set
from email.utils import parsedate_to_datetime
from typing import Protocol
from urllib.parse import urljoin, urlsplit

import urllib3
from urllib3.util import Timeout

from daemon.images import pools
from daemon.images.breaker import Breakers
from daemon.images.hosts import Host, is_inward
from daemon.images.pools import Answer, Pools, Use
from daemon.images.wire import Wire
from daemon.kit import tracing
from spec import errors
from spec.oci import distribution

CONNECT_S = 30.0
HEADER_S = 30.0  # until an answer begins
TAKEN_S = 300.0  # the same, once all of a blob was sent: the registry may hash and move it first
READ_S = 30.0  # without a byte of its body
BODY_S = 60.0  # for all of one that is no blob's
DROP_S = 1.0  # the same, of one that nobody wants
MAX_REDIRECTS = 10
ATTEMPTS = 5
PATIENCE_S = 30.0  # the longest Retry-After that is waited for
TRANSIENT = (408, 429, 500, 502, 503, 504)
PRIVATE = frozenset({"authorization", "cookie", "proxy-authorization"})
OF_A_BODY = frozenset({"content-type", "content-length"})
SMALL = 64 << 10  # bytes of an answer that nobody reads
WARNINGS = 16  # of one host that are logged
USER_AGENT = "holdd"

log = logging.getLogger(__name__)

UNREACHABLE = (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError)

_PORTS = {"http": 80, "https": 443}

# Whoever wants no verification has said so; one warning a request would but fill the log.
urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)


class Body(Protocol):
    """What is sent of a blob. Its length is a header of the request."""

    def read(self, size: int = -1, /) -> bytes: ...

    def rewind(self) -> None:
        """To where it began, to be sent once more."""


class Connections:
    """To one host, as it is trusted, and on its behalf to others: trust in the host is trust in nobody else. From any
    thread."""

    def __init__(self, host: Host) -> None:
        self.own = _pools(host)
        self.others = Pools(pools.everyone, CONNECT_S, HEADER_S)
        self._warned: set[str] = set()

    def heed(self, host: str, warnings: Sequence[str]) -> None:
        """Log what it warns of, once."""
        for text in warnings:
            if text not in self._warned and len(self._warned) < WARNINGS:
                self._warned.add(text)
                log.warning("%s warns: %s", host, text)

    def close(self) -> None:
        """Those that are idle."""
        self.own.close()
        self.others.close()


class Transport:
    """Requests to one host, and on its behalf to others. From any thread. `connections` are others', too. What may pass
    is tried `attempts` times, and a Retry-After of up to `patience_s` waited for.

    `close` it: that also wakes whoever sleeps, reads or starts a request, with Canceled.
    """

    def __init__(
        self,
        host: Host,
        breakers: Breakers | None = None,
        connections: Connections | None = None,
        wire: Wire | None = None,
        attempts: int = ATTEMPTS,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.host = host
        self.base = host.base
        self.breakers = breakers or Breakers()
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._answers: weakref.WeakSet[Answer] = weakref.WeakSet()
        self._own = {origin(base) for base in (host.base, host.fallback) if base}
        self._connections = connections or Connections(host)
        self._is_sharing = connections is not None
        self._attempts = attempts
        self._patience_s = patience_s
        self._wire = wire or Wire()
        self._use = Use(self._wire)

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | Body | None = None,
        attempts: int = 0,
    ) -> Answer:
        """The final answer, whatever its status; its body is for the caller to read and close.

        Unavailable when the host cannot be reached. Retries what may pass. The host's own headers go to its own origin
        only: a token server is another.
        """
        own = self.host.headers if self.is_own(url) else {}
        given = {"User-Agent": USER_AGENT, **own, **headers}
        attempts = attempts or self._attempts
        for attempt in range(attempts):
            last = attempt == attempts - 1
            self.check()
            try:
                answer = self._follow(method, url, given, body)
            except urllib3.exceptions.SSLError as exc:
                raise errors.Unavailable(f"{method} {distribution.redacted(url)}: {_cause(exc)}") from exc
            except (urllib3.exceptions.HTTPError, OSError) as exc:
                self.check()
                if last or isinstance(exc, UNREACHABLE):
                    self._failed(url)
                    raise errors.Unavailable(f"{method} {distribution.redacted(url)}: {_cause(exc)}") from exc
                self.rest(doubled(0.05, attempt))
                continue
            if answer.status not in TRANSIENT:
                self.breakers.answered(self.host.name)
                return answer
            said = _retry_after(answer)
            if last or said > self._patience_s:
                self._failed(url, said)
                return answer
            drop(answer)
            self.rest(said + random.uniform(0, said / 10) if said >= 0 else doubled(0.1, attempt))
        raise AssertionError("unreachable")

    def is_own(self, url: str) -> bool:
        """Whether it is of this host, not of another that it named."""
        return origin(url) in self._own

    def close(self) -> None:
        self._closed.set()
        with self._lock:
            answers = list(self._answers)
        with self._use.ended():
            for answer in answers:
                with contextlib.suppress(ValueError, RuntimeError, OSError):  # it is done, or was never begun
                    answer.shutdown()
        if not self._is_sharing:
            self._connections.close()

    def _failed(self, url: str, rest_s: float = 0.0) -> None:
        if self.is_own(url):
            self.breakers.failed(self.host.name, rest_s)

    def check(self) -> None:
        """Canceled once it is closed."""
        if self._closed.is_set():
            raise errors.Canceled(f"asking {self.host.name}: its connections were closed")

    def rest(self, seconds: float) -> None:
        self._closed.wait(seconds)
        self.check()

    def _send(self, method: str, url: str, headers: Mapping[str, str], body: bytes | Body | None) -> Answer:
        """One request, whose answer `close` can interrupt."""
        with tracing.span(f"HTTP {method}", tracing.CLIENT, **{"server.address": urlsplit(url).hostname or ""}):
            return self._sent(method, url, headers, body)

    def _sent(self, method: str, url: str, headers: Mapping[str, str], body: bytes | Body | None) -> Answer:
        timeout = None
        if body is not None and not isinstance(body, bytes):
            body.rewind()
            timeout = Timeout(connect=self.host.dial_s or CONNECT_S, read=TAKEN_S)
        kept = self._connections.own if self.is_own(url) else self._connections.others
        self._wire.asked(method, url, headers, {name.lower() for name in self.host.headers})
        began_s = time.monotonic()
        answer = kept.request(method, url, headers, body, self._use, timeout)
        self._wire.answered(answer, began_s)
        self._connections.heed(self.host.name, distribution.warnings(answer.headers.getlist("Warning")))
        sock = getattr(answer.connection, "sock", None)
        if sock is not None:
            sock.settimeout(READ_S)
        with self._lock:
            self._answers.add(answer)
        if self._closed.is_set():
            answer.close()
            self.check()
        return answer

    def _follow(self, method: str, url: str, headers: Mapping[str, str], body: bytes | Body | None) -> Answer:
        start = origin(url)
        for _ in range(MAX_REDIRECTS + 1):
            answer = self._send(method, url, headers, body)
            location = answer.headers.get("Location")
            if answer.status not in (301, 302, 303, 307, 308) or not location:
                return answer
            drop(answer)
            url = joined(url, location)
            if answer.status <= 303 and method == "POST":  # RFC 9110, 15.4
                method, body = "GET", None
                headers = _without(headers, OF_A_BODY)
            check_hop(method, start, url)
            if origin(url) != start:
                if body is not None:
                    raise errors.PermissionDenied(f"{method} {distribution.redacted(url)}: what is sent is not for it")
                headers = _without(headers, PRIVATE | {name.lower() for name in self.host.headers})
        raise errors.Unavailable(f"{method} {distribution.redacted(url)}: more than {MAX_REDIRECTS} redirects")


def check_hop(method: str, start: tuple[str, str, int], url: str) -> None:
    """InvalidArgument or PermissionDenied when a server at the origin `start` may not send us to `url`."""
    doing = f"{method} {distribution.redacted(url)}"
    scheme, hostname, _ = origin(url)
    if scheme not in _PORTS or not hostname:
        raise errors.InvalidArgument(f"{doing}: a redirect to no http address")
    if scheme == "http" and start[0] == "https":
        raise errors.PermissionDenied(f"{doing}: a redirect from https to http")
    if is_inward(hostname) and not is_inward(start[1]):
        raise errors.PermissionDenied(f"{doing}: a redirect to this machine or link")


def body_of(answer: Answer, limit: int) -> bytes:
    """Up to `limit` bytes of a body; then the answer is closed. Unavailable when the connection breaks, or it comes too
    slowly."""
    return _body_of(answer, limit, BODY_S)


def drop(answer: Answer) -> None:
    """Close an answer that nobody wants. What is small is read first: then its connection serves another request."""
    length = answer.headers.get("Content-Length", "0")
    if length.isascii() and length.isdecimal() and int(length[:20]) < SMALL:
        with contextlib.suppress(errors.Unavailable):
            _body_of(answer, SMALL, DROP_S)
    answer.close()


def _body_of(answer: Answer, limit: int, seconds: float) -> bytes:
    body = bytearray()
    until = time.monotonic() + seconds
    try:
        # The end of a body that was cut short is an error of the read after it.
        while len(body) < limit and (data := answer.read1(limit - len(body))):
            body += data
            if time.monotonic() > until:
                raise TimeoutError(f"{len(body)} bytes in {seconds:g} s are too few")
        return bytes(body)
    except (urllib3.exceptions.HTTPError, OSError) as exc:
        raise errors.Unavailable(f"the connection breaks: {_cause(exc)}") from exc
    finally:
        answer.close()


def status_error(answer: Answer, method: str, url: str) -> errors.Error:
    """A status that is no success, as an error in the registry's words. Releases the answer."""
    said = ""
    if method != "HEAD":
        with contextlib.suppress(errors.Unavailable):  # the status says enough
            said = distribution.problems(body_of(answer, distribution.MAX_ERROR_BODY))
    answer.close()
    text = f"{method} {distribution.redacted(url)}: status {answer.status}{': ' + said if said else ''}"
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


def _pools(host: Host) -> Pools:
    def trust() -> ssl.SSLContext:
        try:
            return pools.context(host)
        except (OSError, ValueError) as exc:
            raise errors.InvalidArgument(f"loading certificates for {host.name}: {exc}") from exc

    return Pools(trust, host.dial_s or CONNECT_S, HEADER_S)


def joined(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError as exc:
        raise errors.InvalidArgument(f"{distribution.redacted(url)}: a redirect to a malformed address") from exc


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise errors.InvalidArgument(f"{distribution.redacted(url)}: a malformed address") from exc
    return parts.scheme, parts.hostname or "", port or _PORTS.get(parts.scheme, 0)


def _retry_after(answer: Answer) -> float:
    """Seconds that the server wants to be left alone (RFC 9110, 10.2.3); -1 when it does not say."""
    said = answer.headers.get("Retry-After", "").strip()
    if said.isascii() and said.isdecimal():
        return float(said[:9])
    try:
        return max(0.0, parsedate_to_datetime(said).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return -1.0


def doubled(first_s: float, attempt: int) -> float:
    """Twice as long each time; not all who wait shall come back at one moment."""
    return first_s * 2.0**attempt * random.uniform(0.75, 1.25)


def _cause(exc: Exception) -> str:
    """The innermost reason, in a few words."""
    reason = exc.args[-1] if exc.args else exc
    inner = getattr(reason, "reason", None)  # of an ssl error it is but a symbol
    return str(inner if isinstance(inner, Exception) else reason)[:300]
