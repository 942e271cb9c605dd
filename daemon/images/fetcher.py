"""Blobs from a registry: from any offset, going on where a broken connection stopped."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import urllib3

from daemon.images import transport
from daemon.images.hosts import Host
from daemon.images.transport import Answer
from spec import digest as digests
from spec import errors
from spec.oci import distribution, graph
from spec.oci.image import Descriptor
from spec.reference import Reference

RECONNECTS = 3  # in a row without a byte between them


class Asking(Protocol):
    """One host that can be asked."""

    host: Host

    def request(self, method: str, path: str, scope: str, doing: str, headers: Mapping[str, str] = {}) -> Answer: ...

    def url(self, path: str) -> str: ...


class RegistryFetcher:
    """A ports.Fetcher over the hosts of one registry, tried in order."""

    def __init__(self, sessions: Sequence[Asking], ref: Reference) -> None:
        self._sessions = sessions
        self._ref = ref

    def fetch(self, descriptor: Descriptor, offset: int = 0) -> "Embedded | Download":
        digests.check(descriptor.digest)
        if descriptor.data and digests.of(descriptor.data, digests.split(descriptor.digest)[0]) == descriptor.digest:
            return Embedded(descriptor.data[offset:])
        doing = f"fetching {descriptor.digest} of {self._ref}"
        failure: errors.Error = errors.FailedPrecondition(f"{doing}: no host is configured that may be asked")
        for session in self._sessions:
            try:
                return Download(session, self._path(descriptor), self._ref, offset, doing)
            except (errors.NotFound, errors.Unavailable) as exc:
                failure = exc
        raise failure

    def _path(self, descriptor: Descriptor) -> str:
        if graph.is_manifest(descriptor.media_type) or graph.is_index(descriptor.media_type):
            return distribution.manifest_path(self._ref.repository, descriptor.digest)
        return distribution.blob_path(self._ref.repository, descriptor.digest)


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
    """A ports.Source over a blob at one host."""

    def __init__(self, session: Asking, path: str, ref: Reference, offset: int, doing: str) -> None:
        self._session = session
        self._path = path
        self._scope = distribution.pull_scope(ref.repository)
        self._offset = offset
        self._doing = doing
        self._answer = self._connect()
        self._stumbles = 0

    def read(self, size: int, /) -> bytes:
        while True:
            try:
                data = self._answer.read(size) or b""
            except (urllib3.exceptions.HTTPError, OSError) as exc:
                self._stumbles += 1
                if self._stumbles > RECONNECTS:
                    raise errors.Unavailable(f"{self._doing}: the connection breaks at byte {self._offset}") from exc
                self._answer.close()
                self._answer = self._connect()
                continue
            if data:
                self._offset += len(data)
                self._stumbles = 0
            return data

    def close(self) -> None:
        self._answer.close()

    def _connect(self) -> Answer:
        headers = {"Accept": f"{distribution.ACCEPT}", "Accept-Encoding": "identity"}
        if self._offset:
            headers["Range"] = f"bytes={self._offset}-"
        answer = self._session.request("GET", self._path, self._scope, self._doing, headers)
        if answer.status == 206 and self._offset:
            first = distribution.content_range(answer.headers.get("Content-Range", "")).first
            if first != self._offset:
                answer.close()
                raise errors.DataLoss(f"{self._doing}: asked from byte {self._offset}, it came from {first}")
        elif answer.status == 200:
            self._discard(answer)
        else:
            raise transport.status_error(answer, "GET", self._session.url(self._path), self._doing)
        return answer

    def _discard(self, answer: Answer) -> None:
        """A server that knows no ranges sends it all again."""
        left = self._offset
        while left:
            data = answer.read(min(left, 1 << 20)) or b""
            if not data:
                raise errors.DataLoss(f"{self._doing}: it ends before byte {self._offset}, which it had before")
            left -= len(data)
