"""HTTP to one host: pooled connections, bounded redirects, retries with patience. Knows urls and headers, no image.

A redirect to another origin takes no credentials, cookies or host's own headers along (CVE-2020-15157, oras-go's and
docker's alike).
"""

import ssl
import time
from collections.abc import Mapping
from urllib.parse import urljoin, urlsplit

import urllib3
from urllib3.util import Timeout

from daemon.images.hosts import Host
from spec import errors
from spec.oci import distribution

CONNECT_S = 30.0
READ_S = 60.0  # without a byte
MAX_REDIRECTS = 10
ATTEMPTS = 5
PATIENCE_S = 30.0  # the longest Retry-After that is waited for
TRANSIENT = (408, 429, 500, 502, 503, 504)
PRIVATE = frozenset({"authorization", "cookie", "proxy-authorization"})
USER_AGENT = "holdd"

_PORTS = {"http": 80, "https": 443}

Answer = urllib3.BaseHTTPResponse


class Transport:
    """Requests to one host. `close` it."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.base = host.base
        self._pools = urllib3.PoolManager(
            num_pools=8,
            maxsize=16,
            block=False,
            timeout=Timeout(connect=CONNECT_S, read=READ_S),
            retries=False,
            ssl_context=_context(host),
        )

    def request(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None) -> Answer:
        """The final answer, whatever its status; its body is for the caller to read and close.

        Unavailable when the host cannot be reached. Retries what may pass.
        """
        given = {"User-Agent": USER_AGENT, **self.host.headers, **headers}
        for attempt in range(ATTEMPTS):
            last = attempt == ATTEMPTS - 1
            try:
                answer = self._follow(method, url, given, body)
            except urllib3.exceptions.SSLError as exc:
                raise errors.Unavailable(f"{method} {distribution.redacted(url)}: {_cause(exc)}") from exc
            except (urllib3.exceptions.HTTPError, OSError) as exc:
                if last or isinstance(exc, urllib3.exceptions.NewConnectionError):
                    raise errors.Unavailable(f"{method} {distribution.redacted(url)}: {_cause(exc)}") from exc
                time.sleep(0.05 * 2**attempt)
                continue
            if answer.status not in TRANSIENT or last:
                return answer
            patience = _patience(answer, attempt)
            answer.close()
            time.sleep(patience)
        raise AssertionError("unreachable")

    def close(self) -> None:
        self._pools.clear()

    def _follow(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
        origin = _origin(url)
        for _ in range(MAX_REDIRECTS + 1):
            answer = self._pools.request(
                method, url, headers=dict(headers), body=body, redirect=False, preload_content=False, retries=False,
                decode_content=False,
            )  # fmt: skip
            location = answer.headers.get("Location")
            if answer.status not in (301, 302, 303, 307, 308) or not location:
                return answer
            answer.close()
            url = urljoin(url, location)
            if urlsplit(url).scheme not in _PORTS:
                raise errors.InvalidArgument(f"{method} {distribution.redacted(url)}: a redirect to no http address")
            if urlsplit(url).scheme == "http" and origin[0] == "https":
                raise errors.PermissionDenied(f"{method} {distribution.redacted(url)}: a redirect from https to http")
            if _origin(url) != origin:
                own = {name.lower() for name in self.host.headers} | PRIVATE
                headers = {name: value for name, value in headers.items() if name.lower() not in own}
        raise errors.Unavailable(f"{method} {distribution.redacted(url)}: more than {MAX_REDIRECTS} redirects")


def status_error(answer: Answer, method: str, url: str, doing: str) -> errors.Error:
    """A status that is no success, as an error in the registry's words. Releases the answer."""
    said = distribution.problems(answer.read(distribution.MAX_ERROR_BODY) or b"") if method != "HEAD" else ""
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


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    try:
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
    return min(float(said), PATIENCE_S) if said.isdigit() else 0.1 * 2.0**attempt


def _cause(exc: Exception) -> str:
    """The innermost reason, in a few words."""
    reason = exc.args[-1] if exc.args else exc
    text = str(getattr(reason, "reason", None) or reason)
    return text[:300]
