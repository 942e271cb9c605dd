"""References to descriptors: asks the hosts of a registry, one after the other."""

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from msgspec.structs import replace

from daemon.images import hosts, referrers, transport
from daemon.images.auth import Credentials
from daemon.images.breaker import Breakers
from daemon.images.fetcher import RegistryFetcher
from daemon.images.hosts import Host, Trust
from daemon.images.keeper import Keeper
from daemon.images.pusher import RegistryPusher
from daemon.images.ranges import Ranges
from daemon.images.session import Known, Session
from daemon.images.wire import Wire
from spec import digest as digests
from spec import errors, reference
from spec.oci import distribution
from spec.oci.image import Descriptor
from spec.reference import Reference

T = TypeVar("T")

LENGTH = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)


class RegistryResolver:
    """A ports.Resolver for one image. The credentials are for its registry; mirrors are asked without them. What
    `keeper` keeps outlives it.

    `close`, from any thread, also ends what is under way, with Canceled.
    """

    def __init__(
        self,
        hosts_dir: str = "",
        plain_http: bool = False,
        skip_verify: bool = False,
        username: str = "",
        secret: str = "",
        lookup: Callable[[str, str, bool, bool, Trust], list[Host]] = hosts.lookup,
        authorities: str = "",
        certificate: str = "",
        key: str = "",
        headers: Mapping[str, str] = {},
        breakers: Breakers | None = None,
        ranges: Ranges | None = None,
        keeper: Keeper[Known] | None = None,
        http_dump: bool = False,
        http_trace: bool = False,
    ) -> None:
        self._hosts_dir = hosts_dir
        self._plain_http = plain_http
        self._skip_verify = skip_verify
        self._credentials = Credentials(username=username, secret=secret)
        self._trust = Trust(authorities=authorities, certificate=certificate, key=key)
        self._headers = headers
        self._breakers = breakers or Breakers()
        self._ranges = ranges
        self._keeper: Keeper[Known] = keeper or Keeper()
        self._is_keeping = keeper is not None
        self._wire = Wire(http_dump, http_trace)
        self._lookup = lookup
        self._lock = threading.Lock()
        self._closed = False
        self._sessions: dict[str, list[Session]] = {}
        self._fetchers: list[RegistryFetcher] = []

    def watch(self, told: Callable[[str], None]) -> None:
        self._wire.told = told

    def resolve(self, ref: str) -> Descriptor:
        parsed = reference.parse(ref)
        sessions = self._having(parsed, "pull" if parsed.digest else "resolve")
        return _first(sessions, f"resolving {ref}", lambda session: _resolve(session, parsed))

    def referrers(self, ref: str, digest: str, artifact_types: Sequence[str] = ()) -> Sequence[Descriptor]:
        parsed = reference.parse(ref)
        doing = f"asking for referrers of {digest} in {parsed.locator}"
        digests.check(digest)

        def ask(session: Session) -> Sequence[Descriptor]:
            pages = referrers.referrers(session, parsed, digest, artifact_types)
            return list({one.digest: one for page in pages for one in page}.values())

        return _first(self._having(parsed, "referrers"), doing, ask)

    def fetcher(self, ref: str) -> RegistryFetcher:
        parsed = reference.parse(ref)
        made = RegistryFetcher(self._having(parsed, "pull"), parsed, self._ranges, self._wire)
        with self._lock:
            self._fetchers.append(made)
        return made

    def pusher(self, ref: str) -> RegistryPusher:
        parsed = reference.parse(ref)
        able = self._having(parsed, "push")
        if not able:
            raise errors.FailedPrecondition(f"pushing {ref}: no host is configured that takes it")
        return RegistryPusher(able[0], parsed)

    def close(self) -> None:
        if not self._is_keeping:
            self._keeper.close()
        with self._lock:
            self._closed = True
            sessions = [session for sessions in self._sessions.values() for session in sessions]
            fetchers = list(self._fetchers)
        for session in sessions:
            session.close()
        for fetcher in fetchers:
            fetcher.close()

    def _session(self, host: Host, registry: str, is_last: bool) -> Session:
        if self._headers and not host.mirror:
            host = replace(host, headers={**host.headers, **self._headers})
        return Session(host, self._for(host, registry), registry, self._keeper, self._breakers, self._wire, is_last)

    def _for(self, host: Host, registry: str) -> Credentials:
        """The credentials, for the registry itself; nobody else's host sees them, whatever the configuration says."""
        return self._credentials if host.name in (registry, hosts.ALIASES.get(registry)) else Credentials()

    def _having(self, ref: Reference, capability: str) -> Sequence[Session]:
        with self._lock:
            if self._closed:
                raise errors.Canceled(f"asking {ref.host}: its connections were closed")
            if ref.host not in self._sessions:
                found = self._lookup(ref.host, self._hosts_dir, self._plain_http, self._skip_verify, self._trust)
                self._sessions[ref.host] = [
                    self._session(host, ref.host, not _others(host, found[number + 1 :]))
                    for number, host in enumerate(found)
                ]
            return [session for session in self._sessions[ref.host] if capability in session.host.capabilities]


def _others(host: Host, after: Sequence[Host]) -> bool:
    """Whether there are more to ask, whatever `host` is asked."""
    return all(any(capability in other.capabilities for other in after) for capability in host.capabilities)


def _first(sessions: Sequence[Session], doing: str, ask: Callable[[Session], T]) -> T:
    """The answer of the first host that has one; the registry's own comes last and has the last word."""
    failure: errors.Error = errors.FailedPrecondition(f"{doing}: no host is configured that may be asked")
    for session in sessions:
        if session is not sessions[-1] and not session.may_ask():
            continue
        try:
            with errors.during(f"{doing} at {session.host.name}"):
                return ask(session)
        except errors.Canceled:
            raise
        except errors.Error as exc:
            failure = exc
    raise failure


def _resolve(session: Session, ref: Reference) -> Descriptor:
    """By HEAD; by GET where the answer to HEAD leaves something open."""
    path = distribution.manifest_path(ref.repository, ref.object)
    scope = distribution.pull_scope(ref.repository)
    answer = session.request("HEAD", path, scope, {"Accept": distribution.ACCEPT})
    digest = ref.digest or answer.headers.get("Docker-Content-Digest", "")
    length = answer.headers.get("Content-Length", "")
    media_type = answer.headers.get("Content-Type", "").partition(";")[0].strip()
    status = answer.status
    transport.body_of(answer, 1)
    if status == 200 and digest and media_type and LENGTH.fullmatch(length):
        digests.check(digest)
        return _descriptor(media_type, digest, int(length))
    if status == 404:
        raise errors.NotFound("not found")
    try:
        return _by_body(session, ref, path, scope)
    except errors.Unavailable:
        if status == 403:
            raise transport.status_error(answer, "HEAD", session.url(path)) from None
        raise


def _by_body(session: Session, ref: Reference, path: str, scope: str) -> Descriptor:
    answer = session.request("GET", path, scope, {"Accept": distribution.ACCEPT})
    if answer.status != 200:
        raise transport.status_error(answer, "GET", session.url(path))
    body = transport.body_of(answer, distribution.MAX_MANIFEST + 1)
    _check_size(len(body))
    digest = digests.of(body, digests.split(ref.digest)[0] if ref.digest else digests.CANONICAL)
    if ref.digest and digest != ref.digest:
        raise errors.FailedPrecondition(f"what came is {digest}")
    media_type = answer.headers.get("Content-Type", "").partition(";")[0].strip()
    return _descriptor(media_type, digest, len(body))


def _descriptor(media_type: str, digest: str, size: int) -> Descriptor:
    _check_size(size)
    return Descriptor(media_type=media_type, digest=digest, size=size)


def _check_size(size: int) -> None:
    if size > distribution.MAX_MANIFEST:
        raise errors.InvalidArgument(f"its manifest has {size} bytes, more than {distribution.MAX_MANIFEST}")
