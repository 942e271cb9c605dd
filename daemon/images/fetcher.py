"""Blobs from a registry: from any offset, going on where a broken connection stopped."""

import time
from collections.abc import Mapping, Sequence
from typing import Protocol
from urllib.parse import urlsplit

import urllib3

from daemon.images import transport
from daemon.images.hosts import Host, is_inward
from daemon.images.pools import Answer
from daemon.images.ranges import Parts, Ranges
from daemon.images.transport import Transport
from daemon.images.wire import Wire
from spec import digest as digests
from spec import errors
from spec.oci import distribution, graph
from spec.oci.image import Descriptor
from spec.ports import Source
from spec.reference import Reference

RECONNECTS = 3  # in a row without a byte between them
SLOWEST = 1024  # bytes a second, of a connection that is not given up
WATCHED_S = 30.0  # over so much of waiting
PIECE = 256 << 10
FLUSH_S = 0.1  # what came is handed on


class Asking(Protocol):
    """One host that can be asked."""

    host: Host

    def request(self, method: str, path: str, scope: str, headers: Mapping[str, str] = {}) -> Answer: ...

    def url(self, path: str) -> str: ...

    def may_ask(self) -> bool: ...


class Elsewhere:
    """The place that a foreign layer's url names; asked without any credentials."""

    def __init__(self, url: str, wire: Wire | None) -> None:
        parts = urlsplit(url)
        self.host = Host(base=f"{parts.scheme}://{parts.netloc}")
        self._url = url
        self._transport = Transport(self.host, wire=wire)

    def request(self, method: str, path: str, scope: str, headers: Mapping[str, str] = {}) -> Answer:
        return self._transport.request(method, self._url, headers)

    def url(self, path: str) -> str:
        return self._url

    def may_ask(self) -> bool:
        return True

    def close(self) -> None:
        self._transport.close()


class RegistryFetcher:
    """A ports.Fetcher over the hosts of one registry, tried in order. `close` ends what goes elsewhere. With `ranges` a
    large blob comes in parts, where the server has them."""

    def __init__(
        self, sessions: Sequence[Asking], ref: Reference, ranges: Ranges | None = None, wire: Wire | None = None
    ) -> None:
        self._sessions = sessions
        self._ref = ref
        self._ranges = ranges
        self._wire = wire
        self._elsewhere: list[Elsewhere] = []
        self._senders: dict[str, str] = {}

    def fetch(self, descriptor: Descriptor, offset: int = 0) -> Source:
        digests.check(descriptor.digest)
        if descriptor.data and digests.of(descriptor.data, digests.split(descriptor.digest)[0]) == descriptor.digest:
            return Embedded(descriptor.data[offset:])
        if offset and offset == descriptor.size:
            return Embedded(b"")
        doing = f"fetching {descriptor.digest} of {self._ref}"
        failure: errors.Error = errors.FailedPrecondition(f"{doing}: no host is configured that may be asked")
        asked = (*self._foreign(descriptor), *self._sessions)
        for session in asked:
            if session is not asked[-1] and not session.may_ask():
                continue
            try:
                source = self._begin(session, descriptor, offset, f"{doing} at {session.host.name}")
                self._senders[descriptor.digest] = session.host.name
                return source
            except errors.Canceled:
                raise
            except errors.Error as exc:
                failure = exc  # the registry's own host comes last and has the last word
        raise failure

    def sender(self, digest: str) -> str:
        return self._senders.get(digest, "")

    def close(self) -> None:
        for elsewhere in self._elsewhere:
            elsewhere.close()

    def _begin(self, session: Asking, descriptor: Descriptor, offset: int, doing: str) -> Source:
        path, size = self._path(descriptor), descriptor.size

        def part(start: int, end: int) -> Download:
            made = Download(session, path, self._ref, start, doing, size, end)
            if not made.in_parts:
                made.close()
                raise errors.DataLoss(f"{doing}: asked for bytes {start} to {end - 1}, all of it came")
            return made

        end = self._ranges.end(offset, size) if self._ranges is not None else 0
        first = Download(session, path, self._ref, offset, doing, size, end)
        if self._ranges is None or not first.in_parts:
            return first
        return Parts(self._ranges, first, end, size, part)

    def _foreign(self, descriptor: Descriptor) -> list[Elsewhere]:
        """Only layers that may not be redistributed are looked for outside of the registry: an image must not make the
        daemon ask whomever it names, least of all on this machine."""
        if graph.is_distributable(descriptor.media_type):
            return []
        own = urlsplit(f"//{self._ref.host}").hostname
        found = [Elsewhere(url, self._wire) for url in descriptor.urls if _may_ask(url, own)]
        self._elsewhere += found
        return found

    def _path(self, descriptor: Descriptor) -> str:
        if graph.is_manifest(descriptor.media_type) or graph.is_index(descriptor.media_type):
            return distribution.manifest_path(self._ref.repository, descriptor.digest)
        return distribution.blob_path(self._ref.repository, descriptor.digest)


def _may_ask(url: str, own: str | None) -> bool:
    if not url.isascii() or not url.isprintable():
        return False
    try:
        parts = urlsplit(url)
        port_is_good = parts.port != 0
    except ValueError:
        return False
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or not port_is_good:
        return False
    return parts.hostname == own or not is_inward(parts.hostname)


class Embedded:
    """A ports.Source over bytes that came with the descriptor."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, size: int, /) -> bytes:
        data, self._data = self._data[:size], self._data[size:]
        return data

    def close(self) -> None:
        self._data = b""


class Download:
    """A ports.Source over a blob at one host, to its end or, unless 0, to `end`. A server that has no parts gives all:
    `in_parts` is false, and so it is read to its end."""

    def __init__(
        self, session: Asking, path: str, ref: Reference, offset: int, doing: str, size: int, end: int = 0
    ) -> None:
        self._session = session
        self._path = path
        self._scope = distribution.pull_scope(ref.repository)
        self._offset = offset
        self._size = size
        self._end = end
        self._doing = doing
        self._stumbles = 0
        self._came, self._waited_s, self._slow = 0, 0.0, 0
        self._broken: Exception | None = None
        self.in_parts = False
        with errors.during(doing):
            self._answer = self._connect()
        if not self.in_parts:
            self._end = 0

    def read(self, size: int, /) -> bytes:
        with errors.during(self._doing):
            return self._read(size)

    def close(self) -> None:
        self._answer.close()

    def _read(self, size: int) -> bytes:
        while not self._end or self._offset < self._end:
            try:
                data = self._some(min(size, self._end - self._offset) if self._end else size)
                if self._end and not data:
                    raise EOFError("it ends within a part")
            except (urllib3.exceptions.HTTPError, OSError, EOFError) as exc:
                self._answer.close()
                self._stumbles += 1
                if max(self._stumbles, self._slow) > RECONNECTS:
                    raise errors.Unavailable(f"the connection breaks at byte {self._offset}") from exc
                self._answer = self._connect()
                continue
            self._offset += len(data)
            self._stumbles = 0
            return data
        return b""

    def _some(self, size: int) -> bytes:
        """Up to `size` bytes, fewer when they come slowly. A connection that trickles counts as broken: whoever waits
        for the rest of it would wait for hours (moby#26146 and its kin)."""
        if self._broken is not None:
            broken, self._broken = self._broken, None
            raise broken
        began = time.monotonic()
        pieces, got = [], 0
        while got < size:
            try:
                piece = self._answer.read1(min(size - got, PIECE)) or b""
                pieces.append(piece)
                got += len(piece)
                now = time.monotonic()
                self._watch(len(piece), now - began)
            except (urllib3.exceptions.HTTPError, OSError) as exc:
                if not got:
                    raise
                self._broken = exc  # once what came before it was handed on
                break
            if not piece or now - began > FLUSH_S:
                break
        self._waited_s += time.monotonic() - began
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _watch(self, size: int, waiting_s: float) -> None:
        """`size` bytes came; only time that is spent on waiting for them counts."""
        self._came += size
        spent_s = self._waited_s + waiting_s
        if spent_s < WATCHED_S:
            return
        came, self._came, self._waited_s = self._came, 0, -waiting_s
        self._slow = self._slow + 1 if came < SLOWEST * spent_s else 0
        if self._slow:
            raise TimeoutError(f"{came} bytes in {spent_s:.0f} s are too few")

    def _connect(self) -> Answer:
        headers = {"Accept": distribution.ACCEPT, "Accept-Encoding": "identity"}
        if self._offset or self._end:
            headers["Range"] = f"bytes={self._offset}-{self._end - 1 if self._end else ''}"
        answer = self._session.request("GET", self._path, self._scope, headers)
        if answer.status not in (200, 206) or (answer.status == 206 and "Range" not in headers):
            raise transport.status_error(answer, "GET", self._session.url(self._path))
        try:
            if answer.status == 206:
                self._check_range(answer)
            self._check_length(answer)
            if answer.status == 200:
                self._discard(answer)
        except (urllib3.exceptions.HTTPError, OSError) as exc:
            answer.close()
            raise errors.Unavailable(f"the connection breaks before byte {self._offset}") from exc
        except errors.Error:
            answer.close()
            raise
        return answer

    def _check_length(self, answer: Answer) -> None:
        """What is of another length is something else, such as a page to log in: not a byte of it is kept."""
        encoding = answer.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise errors.DataLoss(f"it comes encoded as {encoding[:50]!r}, which was not asked for")
        length = answer.headers.get("Content-Length", "")
        left = (self._end or self._size) - self._offset if answer.status == 206 else self._size
        if self._size <= 0 or not length.isascii() or not length.isdecimal():
            return
        if int(length[:20]) > left:
            raise errors.FailedPrecondition(f"it is longer than {self._size} bytes")
        if int(length[:20]) < left:
            raise errors.DataLoss(f"it ends after {length[:20]} of {left} bytes")

    def _check_range(self, answer: Answer) -> None:
        given = distribution.content_range(answer.headers.get("Content-Range", ""))
        if given.first != self._offset:
            raise errors.DataLoss(f"asked from byte {self._offset}, it came from {given.first}")
        if given.total >= 0 and 0 < self._size != given.total:
            raise errors.FailedPrecondition(f"it has {given.total} bytes, not {self._size}")
        if self._end and given.last >= self._end and not self.in_parts:
            self._end = 0  # all that is left, whatever was asked for
        if self._end and given.last != self._end - 1:
            raise errors.DataLoss(f"asked to byte {self._end - 1}, it came to {given.last}")
        self.in_parts = self._end > 0

    def _discard(self, answer: Answer) -> None:
        """A server that knows no ranges sends it all again."""
        left = self._offset
        while left:
            data = answer.read(min(left, 1 << 20)) or b""
            if not data:
                raise errors.DataLoss(f"it ends before byte {self._offset}, which it had before")
            left -= len(data)
