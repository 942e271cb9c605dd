"""One host of a registry as one caller may ask it; connections and tokens are kept for the next who may ask it so."""

import ssl
import threading
from collections.abc import Mapping

from daemon.images import transport
from daemon.images.auth import Authorizer, Credentials
from daemon.images.breaker import Breakers
from daemon.images.hosts import Host
from daemon.images.keeper import Keeper, states
from daemon.images.pools import Answer
from daemon.images.tokens import Tokens
from daemon.images.transport import Body, Connections, Transport
from daemon.images.wire import Wire
from spec import errors

CHALLENGES = 2  # 401s that are answered for one request
HURRIED = 2  # attempts, of which the first may be on a connection that is gone


class Known:
    """What is kept of a host: connections, and tokens by the base that they were asked for."""

    def __init__(self, host: Host) -> None:
        self.connections = Connections(host)
        self._tokens: dict[str, Tokens] = {}

    def tokens(self, base: str) -> Tokens:
        return self._tokens.setdefault(base, Tokens())

    def rest(self) -> None:
        self.connections.close()

    def close(self) -> None:
        self.connections.close()


class Session:
    """From any thread. `registry` is the name that references have. While there is another to ask, nobody is waited
    for: only the last has all the time."""

    def __init__(
        self,
        host: Host,
        credentials: Credentials,
        registry: str,
        keeper: Keeper[Known],
        breakers: Breakers | None = None,
        wire: Wire | None = None,
        is_last: bool = True,
    ) -> None:
        self.host = host
        self._registry = registry
        self._keeper = keeper
        # Other certificates of the same name are another trust.
        files = states([*host.ca, *(path for pair in host.client for path in pair)])
        self._key = keeper.key(host, credentials, registry, files)
        self._known = keeper.take(self._key, lambda: Known(host))
        often = (transport.ATTEMPTS, transport.PATIENCE_S) if is_last else (HURRIED, 0.0)
        self._transport = Transport(host, breakers, self._known.connections, wire, *often)
        self._credentials = credentials
        self._closed = False
        self._lock = threading.Lock()
        self._authorizer = self._authorized()

    @property
    def base(self) -> str:
        return self._transport.base

    def may_ask(self) -> bool:
        """False while it is known to be down."""
        return self._transport.breakers.may_ask(self.host.name)

    def request(
        self,
        method: str,
        path: str,
        scope: str,
        headers: Mapping[str, str] = {},
        body: bytes | None = None,
    ) -> Answer:
        """An answer that is no 401. Falls back to plain http once, where the host may."""
        asked = self.base
        try:
            return self._authorize(method, self.url(path), scope, headers, body)
        except errors.Unavailable as exc:
            if not self.host.fallback or asked == self.host.fallback or _is_distrusted(exc):
                raise
            with self._lock:  # of those who ask at once one falls back for all
                if self.base == asked:
                    self._transport.base = self.host.fallback
                    self._authorizer = self._authorized()
            return self._authorize(method, self.url(path), scope, headers, body)

    def send(
        self, method: str, url: str, scope: str, headers: Mapping[str, str], body: bytes | Body | None
    ) -> Answer:
        """To an address that the host gave, once: whoever sends a blob knows better where to go on. Without any
        credentials when it is another's (oras-go GHSA-jxpm-75mh-9fp7)."""
        if self._transport.is_own(url):
            return self._authorize(method, url, scope, headers, body, 1)
        transport.check_hop(method, transport.origin(self.base), url)
        return self._transport.request(method, url, headers, body, 1)

    def rest(self, attempt: int) -> None:
        """Before the next attempt. Canceled when the session is closed meanwhile."""
        self._transport.rest(transport.doubled(0.1, attempt))

    def close(self) -> None:
        self._transport.close()
        with self._lock:
            was_closed, self._closed = self._closed, True
        if not was_closed:
            self._keeper.give(self._key)

    def url(self, path: str) -> str:
        """A mirror is told which registry is meant."""
        sign = "&" if "?" in path else "?"
        query = f"{sign}ns={self._registry}" if self.host.mirror else ""
        return f"{self._transport.base}/{path}{query}"

    def _authorize(
        self,
        method: str,
        url: str,
        scope: str,
        headers: Mapping[str, str],
        body: bytes | Body | None = None,
        attempts: int = 0,
    ) -> Answer:
        header = self._authorizer.header(scope)
        for attempt in range(CHALLENGES + 1):
            given = {**headers, "Authorization": header} if header else headers
            answer = self._transport.request(method, url, given, body, attempts)
            if answer.status != 401:
                return answer
            if attempt == CHALLENGES:
                raise transport.status_error(answer, method, url)
            transport.drop(answer)
            header = self._authorizer.challenged(answer, scope, header)
        raise AssertionError("unreachable")

    def _authorized(self) -> Authorizer:
        transport, base = self._transport, self._transport.base
        return Authorizer(base, self._credentials, transport.request, self._known.tokens(base), transport.check)


def _is_distrusted(exc: BaseException | None) -> bool:
    """Whether a certificate was refused: whoever has such a one shall not be believed more without it."""
    while exc is not None:
        inner = exc.args[-1] if exc.args and isinstance(exc.args[-1], BaseException) else exc.__cause__
        if isinstance(exc, ssl.SSLCertVerificationError):
            return True
        exc = inner or exc.__context__
    return False
