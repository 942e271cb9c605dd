"""Credentials of one registry: Basic, and tokens from its token server. They are bound to the host they were given for.

A token server's realm is refused when it would weaken what the registry itself is: http for an https registry, or an
address of this machine or link for a registry that is elsewhere.
"""

import base64
import time
from collections.abc import Callable, Mapping
from urllib.parse import urlencode, urlsplit

from daemon.images.hosts import is_inward, is_private
from daemon.images.pools import Answer
from daemon.images.tokens import Tokens
from daemon.images.transport import body_of, drop, status_error
from spec import errors
from spec.base import Record
from spec.oci import distribution

EARLY_S = 10  # before its end a token is not used any more
DEFAULT_S = 60  # a token's life when nothing is said (the token protocol)
MAX_BODY = 1 << 20
CLIENT_ID = "holdd"

Send = Callable[[str, str, Mapping[str, str], bytes | None], Answer]


class Credentials(Record, frozen=True):
    """A user and password; without `username` the secret is a refresh token; empty is anonymous."""

    username: str = ""
    secret: str = ""


class Authorizer:
    """The Authorization header for one host. `send` makes a request of that host's transport; `tokens` are what others
    with the same credentials have for it; `check` raises when nobody waits any more."""

    def __init__(
        self, base: str, credentials: Credentials, send: Send, tokens: Tokens, check: Callable[[], None] = lambda: None
    ) -> None:
        self._base = base
        self._credentials = credentials
        self._send = send
        self._tokens = tokens
        self._check = check

    def header(self, scope: str) -> str:
        """What is known to be good; "" before the first challenge."""
        return self._tokens.header(scope) or (self._pair() if self._tokens.asks_password else "")

    def challenged(self, answer: Answer, scope: str, used: str) -> str:
        """A header that answers a 401 to a request with `used`. Unauthenticated without one, or when it was refused."""
        offers = {c.scheme: c for c in distribution.challenges(answer.headers.getlist("WWW-Authenticate"))}
        if "bearer" in offers:
            with self._tokens.turn(self._check):
                if self.header(scope) == used:
                    self._tokens.put(scope, *self._fetch(offers["bearer"], scope))
                return self.header(scope)
        if "basic" in offers and self._credentials.username:
            if used == self._pair():
                raise errors.Unauthenticated("the user name or password was refused")
            self._tokens.asks_password = True
            return self._pair()
        if "basic" in offers:
            raise errors.Unauthenticated("the registry asks for a user name and password")
        raise errors.Unauthenticated("the registry asks for credentials of no kind that is known")

    def _fetch(self, challenge: distribution.Challenge, scope: str) -> tuple[str, float]:
        """A token, and until when it is good."""
        realm = challenge.parameters.get("realm", "")
        with errors.during("asking for a token"):
            self._check_realm(realm)
            return self._asked(realm, challenge, scope)

    def _asked(self, realm: str, challenge: distribution.Challenge, scope: str) -> tuple[str, float]:
        service = challenge.parameters.get("service", "")
        asked = distribution.merged(scope, challenge.parameters.get("scope", ""))
        if self._credentials.secret and not self._credentials.username:
            answer = self._post(realm, service, asked)
        else:
            answer = self._get(realm, service, asked)
            if self._credentials.username and answer.status in (404, 405):
                drop(answer)  # it has the OAuth2 way only
                answer = self._post(realm, service, asked)
        if answer.status != 200:
            error = status_error(answer, "GET", realm)
            raise errors.Unauthenticated(error.message) if answer.status in (400, 401, 403) else error
        token = distribution.token(body_of(answer, MAX_BODY))
        life = max(token.expires_in or DEFAULT_S, EARLY_S + 1)
        if token.refresh_token and self._credentials.secret and not self._credentials.username:
            self._tokens.refresh = token.refresh_token  # what it was asked with may be good no more
        return f"Bearer {token.value}", time.monotonic() + life - EARLY_S

    def _get(self, realm: str, service: str, scope: str) -> Answer:
        headers = {}
        if self._credentials.username:
            headers["Authorization"] = self._pair()
        fields = [("service", service), *(("scope", one) for one in scope.split())]
        query = urlencode([(name, value) for name, value in fields if value])
        return self._send("GET", f"{realm}{'&' if '?' in realm else '?'}{query}", headers, None)

    def _pair(self) -> str:
        """User and password as RFC 7617 has them."""
        pair = f"{self._credentials.username}:{self._credentials.secret}".encode()
        return f"Basic {base64.b64encode(pair).decode()}"

    def _post(self, realm: str, service: str, scope: str) -> Answer:
        """The OAuth2 way, for a refresh token or a password."""
        form = {"service": service, "client_id": CLIENT_ID, "scope": scope}
        if self._credentials.username:
            form |= {
                "grant_type": "password",
                "username": self._credentials.username,
                "password": self._credentials.secret,
            }
        else:
            form |= {"grant_type": "refresh_token", "refresh_token": self._tokens.refresh or self._credentials.secret}
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return self._send("POST", realm, headers, urlencode(form).encode())

    def _check_realm(self, realm: str) -> None:
        own = urlsplit(self._base)
        try:
            other = urlsplit(realm)
        except ValueError as exc:
            raise errors.Unauthenticated(f"the token server {realm[:100]!r} is no http address") from exc
        if other.scheme not in ("http", "https") or not other.hostname:
            raise errors.Unauthenticated(f"the token server {realm[:100]!r} is no http address")
        if own.scheme == "https" and other.scheme == "http":
            raise errors.Unauthenticated(f"the token server {realm[:100]!r} is less safe than the registry")
        if other.hostname != own.hostname and is_inward(other.hostname):
            raise errors.Unauthenticated(f"the token server {realm[:100]!r} is on this machine or link")
        if other.hostname != own.hostname and is_private(other.hostname) and not is_private(own.hostname or ""):
            raise errors.Unauthenticated(f"the token server {realm[:100]!r} is in a private network")
        if "@" in other.netloc:
            raise errors.Unauthenticated(f"the token server {realm[:100]!r} comes with a name of its own")
