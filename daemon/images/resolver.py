"""References to descriptors: asks the hosts of a registry, one after the other."""

import re
import threading
from collections.abc import Callable, Mapping, Sequence

from daemon.images import hosts, transport
from daemon.images.auth import Authorizer, Credentials
from daemon.images.fetcher import RegistryFetcher
from daemon.images.hosts import Host
from daemon.images.transport import Answer, Transport
from spec import digest as digests
from spec import errors, reference
from spec.oci import distribution
from spec.oci.image import Descriptor
from spec.reference import Reference

CHALLENGES = 2  # 401s that are answered for one request
LENGTH = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)


class Session:
    """One host, with what is known of its credentials. From any thread."""

    def __init__(self, host: Host, credentials: Credentials, registry: str) -> None:
        self.host = host
        self._registry = registry
        self._transport = Transport(host)
        self._credentials = credentials
        self._authorizer = self._authorized()

    @property
    def base(self) -> str:
        return self._transport.base

    def request(self, method: str, path: str, scope: str, doing: str, headers: Mapping[str, str] = {}) -> Answer:
        """An answer that is no 401. Falls back to plain http once, where the host may."""
        try:
            return self._authorize(method, path, scope, doing, headers)
        except errors.Unavailable:
            if not self.host.fallback or self._transport.base == self.host.fallback:
                raise
            self._transport.base = self.host.fallback
            self._authorizer = self._authorized()
            return self._authorize(method, path, scope, doing, headers)

    def close(self) -> None:
        self._transport.close()

    def _authorize(self, method: str, path: str, scope: str, doing: str, headers: Mapping[str, str]) -> Answer:
        url = self.url(path)
        header = self._authorizer.header(scope)
        for attempt in range(CHALLENGES + 1):
            given = {**headers, "Authorization": header} if header else headers
            answer = self._transport.request(method, url, given)
            if answer.status != 401:
                return answer
            if attempt == CHALLENGES:
                raise transport.status_error(answer, method, url, doing)
            try:
                header = self._authorizer.challenged(answer, scope, doing, header)
            finally:
                answer.close()
        raise AssertionError("unreachable")

    def url(self, path: str) -> str:
        """A mirror is told which registry is meant."""
        query = f"?ns={self._registry}" if self.host.mirror else ""
        return f"{self._transport.base}/{path}{query}"

    def _authorized(self) -> Authorizer:
        return Authorizer(self._transport.base, self._credentials, self._transport.request)


class RegistryResolver:
    """A ports.Resolver for one image. The credentials are for its registry; mirrors are asked without them.

    `close`, from any thread, also ends what is under way, with Canceled.
    """

    def __init__(
        self,
        hosts_dir: str = "",
        plain_http: bool = False,
        skip_verify: bool = False,
        username: str = "",
        secret: str = "",
        lookup: Callable[[str, str, bool, bool], list[Host]] = hosts.lookup,
    ) -> None:
        self._hosts_dir = hosts_dir
        self._plain_http = plain_http
        self._skip_verify = skip_verify
        self._credentials = Credentials(username=username, secret=secret)
        self._lookup = lookup
        self._lock = threading.Lock()
        self._closed = False
        self._sessions: dict[str, list[Session]] = {}
        self._fetchers: list[RegistryFetcher] = []

    def resolve(self, ref: str) -> Descriptor:
        parsed = reference.parse(ref)
        doing = f"resolving {ref}"
        failure: errors.Error = errors.FailedPrecondition(f"{doing}: no host is configured that may be asked")
        for session in self._having(parsed, "pull" if parsed.digest else "resolve"):
            try:
                return _resolve(session, parsed, doing)
            except errors.Canceled:
                raise
            except errors.Error as exc:
                failure = exc  # the registry's own host comes last and has the last word
        if failure.message.startswith(doing):
            raise failure
        raise type(failure)(f"{doing}: {failure.message}") from failure

    def fetcher(self, ref: str) -> RegistryFetcher:
        parsed = reference.parse(ref)
        made = RegistryFetcher(self._having(parsed, "pull"), parsed)
        with self._lock:
            self._fetchers.append(made)
        return made

    def close(self) -> None:
        with self._lock:
            self._closed = True
            sessions = [session for sessions in self._sessions.values() for session in sessions]
            fetchers = list(self._fetchers)
        for session in sessions:
            session.close()
        for fetcher in fetchers:
            fetcher.close()

    def _for(self, host: Host, registry: str) -> Credentials:
        """The credentials, for the registry itself; nobody else's host sees them, whatever the configuration says."""
        return self._credentials if host.name in (registry, hosts.ALIASES.get(registry)) else Credentials()

    def _having(self, ref: Reference, capability: str) -> Sequence[Session]:
        with self._lock:
            if self._closed:
                raise errors.Canceled(f"asking {ref.host}: its connections were closed")
            if ref.host not in self._sessions:
                found = self._lookup(ref.host, self._hosts_dir, self._plain_http, self._skip_verify)
                self._sessions[ref.host] = [Session(host, self._for(host, ref.host), ref.host) for host in found]
            return [session for session in self._sessions[ref.host] if capability in session.host.capabilities]


def _resolve(session: Session, ref: Reference, doing: str) -> Descriptor:
    """By HEAD; by GET where the answer to HEAD leaves something open."""
    path = distribution.manifest_path(ref.repository, ref.object)
    scope = distribution.pull_scope(ref.repository)
    answer = session.request("HEAD", path, scope, doing, {"Accept": distribution.ACCEPT})
    digest = ref.digest or answer.headers.get("Docker-Content-Digest", "")
    length = answer.headers.get("Content-Length", "")
    media_type = answer.headers.get("Content-Type", "").partition(";")[0].strip()
    status = answer.status
    transport.body_of(answer, 1, doing)
    if status == 200 and digest and media_type and LENGTH.fullmatch(length):
        digests.check(digest)
        return _descriptor(media_type, digest, int(length), doing)
    if status == 404:
        raise errors.NotFound(f"{doing}: not found at {session.host.name}")
    return _by_body(session, ref, path, scope, doing)


def _by_body(session: Session, ref: Reference, path: str, scope: str, doing: str) -> Descriptor:
    answer = session.request("GET", path, scope, doing, {"Accept": distribution.ACCEPT})
    if answer.status != 200:
        raise transport.status_error(answer, "GET", session.url(path), doing)
    body = transport.body_of(answer, distribution.MAX_MANIFEST + 1, doing)
    digest = digests.of(body, digests.split(ref.digest)[0] if ref.digest else digests.CANONICAL)
    if ref.digest and digest != ref.digest:
        raise errors.FailedPrecondition(f"{doing}: what {session.host.name} sent is {digest}")
    media_type = answer.headers.get("Content-Type", "").partition(";")[0].strip()
    return _descriptor(media_type, digest, len(body), doing)


def _descriptor(media_type: str, digest: str, size: int, doing: str) -> Descriptor:
    if size > distribution.MAX_MANIFEST:
        raise errors.InvalidArgument(f"{doing}: its manifest has {size} bytes, more than {distribution.MAX_MANIFEST}")
    return Descriptor(media_type=media_type, digest=digest, size=size)
