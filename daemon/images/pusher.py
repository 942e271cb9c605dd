"""Blobs and manifests to a registry: looked for, mounted from a neighbour, or sent; gone on with where it broke."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple
from urllib.parse import urlencode, urlsplit, urlunsplit

from daemon.images import referrers, transport
from daemon.images.pools import Answer
from daemon.images.session import Session
from spec import digest as digests
from spec import errors
from spec.oci import distribution, graph
from spec.oci.image import Descriptor
from spec.ports import BlobReader, Cancel
from spec.reference import Reference

RESUMES = 3  # in a row, without a byte more at the registry
CHUNK = 64 << 20  # bytes, where all at once are too many
SMALLEST = 1 << 20
BINARY = "application/octet-stream"

Told = Callable[[int], None]


class Upload(NamedTuple):
    """One that a registry has begun: where to send to, how much it has, and the most and the least to send at once (0:
    it does not say)."""

    url: str
    offset: int = 0
    chunk: int = 0
    least: int = 0


class RegistryPusher:
    """A ports.Pusher for one repository of the first host that takes pushes."""

    def __init__(self, session: Session, ref: Reference) -> None:
        self._session = session
        self._ref = ref
        self._scope = distribution.push_scope(ref.repository)

    def manifest(self, descriptor: Descriptor, body: bytes, tag: str = "") -> bool:
        """Of an index too."""
        with self._pushing(descriptor):
            return self._manifest(descriptor, body, tag or descriptor.digest, bool(tag))

    def blob(
        self, descriptor: Descriptor, reader: BlobReader, neighbours: str = "", told: Told = lambda _: None,
        cancel: Cancel | None = None,
    ) -> str:  # fmt: skip
        with self._pushing(descriptor):
            return self._blob(descriptor, reader, neighbours, told, cancel)

    def borrow(self, descriptor: Descriptor, neighbours: str = "") -> str:
        """An upload that the registry begins instead of mounting it comes to nothing."""
        with self._pushing(descriptor):
            if self._has(distribution.blob_path(self._ref.repository, descriptor.digest), "*/*", ""):
                return "already exists"
            candidate = distribution.mount_candidate(neighbours, self._ref.repository)
            return "mounted" if candidate and self._begin(descriptor.digest, candidate) is None else ""

    def begin(self) -> Upload:
        """Another upload."""
        upload = self._begin("", "")
        assert upload is not None
        return upload

    def send(self, method: str, url: str, headers: dict[str, str], body: transport.Body | None) -> Answer:
        return self._session.send(method, url, self._scope, headers, body)

    def located(self, url: str, answer: Answer) -> str:
        """Where an upload goes on."""
        location = answer.headers.get("Location", "")
        if not location:
            raise errors.DataLoss("the registry does not say where to send it to")
        found = transport.joined(url, location)
        own, parts = urlsplit(self._session.base), urlsplit(found)
        if own.scheme == "https" and parts.scheme == "http" and parts.hostname == own.hostname:
            found = urlunsplit(("https", own.netloc, *parts[2:]))  # one behind a proxy does not know that it is https
        return found

    def rest(self, attempt: int) -> None:
        self._session.rest(attempt)

    def _pushing(self, descriptor: Descriptor) -> AbstractContextManager[None]:
        return errors.during(f"pushing {descriptor.digest} to {self._ref} at {self._session.host.name}")

    def _manifest(self, descriptor: Descriptor, body: bytes, name: str, is_tag: bool) -> bool:
        path = distribution.manifest_path(self._ref.repository, name)
        accept = f"{descriptor.media_type}, */*"
        about = referrers.subject_of(descriptor, body)
        if self._has(path, accept, descriptor.digest if is_tag else ""):
            if about is not None and not referrers.is_listed(self._session, self._ref, about[0].digest):
                referrers.enlist(self._session, self._ref, *about)  # whoever pushed it may not have come that far
            return False
        headers = {"Content-Type": descriptor.media_type, "Content-Length": str(len(body))}
        answer = self._session.request("PUT", path, self._scope, headers, body)
        if answer.status not in (200, 201, 202, 204):
            error = transport.status_error(answer, "PUT", self._session.url(path))
            if answer.status == 400 and graph.is_index(descriptor.media_type):
                raise errors.FailedPrecondition(f"{error.message}: it may lack what the index names")
            raise error
        said = answer.headers.get("Docker-Content-Digest", descriptor.digest)
        transport.body_of(answer, transport.SMALL)
        if said != descriptor.digest:
            raise errors.DataLoss(f"the registry took it for {said[:200]!r}")
        if about is not None and answer.headers.get("OCI-Subject", "") != about[0].digest:
            referrers.enlist(self._session, self._ref, *about)
        return True

    def _blob(
        self, descriptor: Descriptor, reader: BlobReader, neighbours: str, told: Told, cancel: Cancel | None
    ) -> str:
        digests.check(descriptor.digest)
        if reader.size != descriptor.size:
            raise errors.FailedPrecondition(f"it has {reader.size} bytes here, not {descriptor.size}")
        if self._has(distribution.blob_path(self._ref.repository, descriptor.digest), "*/*", ""):
            return "already exists"
        candidate = distribution.mount_candidate(neighbours, self._ref.repository)
        upload = self._begin(descriptor.digest, candidate)
        if upload is None:
            return "mounted"
        _Sending(self, descriptor, reader, told, cancel).run(upload)
        return "complete"

    def _has(self, path: str, accept: str, digest: str) -> bool:
        """Whether it is there, as `digest` if that is given."""
        answer = self._session.request("HEAD", path, self._scope, {"Accept": accept})
        status, said = answer.status, answer.headers.get("Docker-Content-Digest", "")
        transport.body_of(answer, 1)
        if status == 200:
            return not digest or said == digest
        if status == 403:  # its answer to GET says why
            headers = {"Accept": accept, "Range": "bytes=0-0"}
            try:
                answer = self._session.request("GET", path, self._scope, headers)
            except errors.Unavailable:
                raise transport.status_error(answer, "HEAD", self._session.url(path)) from None
            if answer.status == 403:
                raise transport.status_error(answer, "GET", self._session.url(path))
            transport.drop(answer)
        elif status not in (404, 405):
            raise transport.status_error(answer, "HEAD", self._session.url(path))
        return False

    def _begin(self, digest: str, candidate: str) -> Upload | None:
        """None when the registry had it elsewhere, and mounted it."""
        path, scope = distribution.uploads_path(self._ref.repository), self._scope
        if candidate:
            query = urlencode({"mount": digest, "from": candidate})
            try:
                scope = distribution.push_scope(self._ref.repository, candidate)
                answer = self._session.request("POST", f"{path}?{query}", scope, {"Content-Length": "0"})
            except (errors.Unauthenticated, errors.PermissionDenied):
                return self._begin(digest, "")
            if answer.status in (401, 403, 404, 405):
                transport.drop(answer)
                return self._begin(digest, "")
        else:
            answer = self._session.request("POST", path, scope, {"Content-Length": "0"})
        if answer.status not in (200, 201, 202, 204):
            raise transport.status_error(answer, "POST", self._session.url(path))
        transport.body_of(answer, transport.SMALL)
        if answer.status == 201 and candidate:
            return None
        least = answer.headers.get("OCI-Chunk-Min-Length", "")
        return Upload(
            self.located(self._session.url(path), answer), least=int(least) if _is_number(least) else 0
        )


class _Sending:
    """One blob on its way: in one piece, or in chunks where that is refused."""

    def __init__(
        self, pusher: RegistryPusher, descriptor: Descriptor, reader: BlobReader, told: Told, cancel: Cancel | None
    ) -> None:
        self._pusher = pusher
        self._descriptor = descriptor
        self._reader = reader
        self._told = told
        self._cancel = cancel

    def run(self, upload: Upload) -> None:
        stumbles = 0
        while True:
            try:
                done = self._go_on(upload)
            except errors.Unavailable:
                if self._cancel is not None:
                    self._cancel.check()
                stumbles += 1
                if stumbles > RESUMES:
                    raise
                self._pusher.rest(stumbles)
                done = self._found(upload)
            if done is None:
                return
            if done.offset > upload.offset:
                stumbles = 0
            upload = done

    def _go_on(self, upload: Upload) -> Upload | None:
        """Send what is next; None when all is there."""
        left = self._descriptor.size - upload.offset
        if not upload.offset and not upload.chunk:
            return self._finish(upload, left)
        size = min(left, upload.chunk or left)
        if not size:
            return self._finish(upload, 0)
        headers = {
            "Content-Type": BINARY,
            "Content-Length": str(size),
            "Content-Range": f"{upload.offset}-{upload.offset + size - 1}",
        }
        answer = self._pusher.send("PATCH", upload.url, headers, self._piece(upload.offset, size))
        if answer.status in (200, 201, 202, 204):
            transport.body_of(answer, transport.SMALL)
            url = self._pusher.located(upload.url, answer)
            said = answer.headers.get("Range", "")
            offset = distribution.received(said) if said else upload.offset + size
            if not upload.offset < offset <= upload.offset + size:
                raise errors.DataLoss(f"of {upload.offset + size} bytes the registry has {said[:50]!r}")
            return upload._replace(url=url, offset=offset)
        return self._refused(answer, upload, size, "PATCH")

    def _finish(self, upload: Upload, size: int) -> Upload | None:
        """The last request, with `size` bytes."""
        parts = urlsplit(upload.url)
        digest = urlencode({"digest": self._descriptor.digest})
        url = urlunsplit((*parts[:3], f"{parts.query}&{digest}" if parts.query else digest, ""))
        headers = {"Content-Type": BINARY, "Content-Length": str(size)}
        body = self._piece(upload.offset, size) if size else None
        answer = self._pusher.send("PUT", url, headers, body)
        if answer.status not in (200, 201, 202, 204):
            return self._refused(answer, upload, size, "PUT")
        said = answer.headers.get("Docker-Content-Digest", self._descriptor.digest)
        transport.body_of(answer, transport.SMALL)
        if said != self._descriptor.digest and said.partition(":")[0] == self._descriptor.digest.partition(":")[0]:
            raise errors.DataLoss(f"the registry took it for {said[:200]!r}")
        return None

    def _refused(self, answer: Answer, upload: Upload, size: int, method: str) -> Upload:
        """What to do instead."""
        smaller = min(CHUNK, size // 2)
        if answer.status == 413 and smaller >= max(upload.least, SMALLEST):
            answer.close()
            return self._found(upload._replace(chunk=smaller))
        if answer.status == 416:
            answer.close()
            raise errors.Unavailable("the registry has another part of it")
        error = transport.status_error(answer, method, upload.url)
        if answer.status == 404:
            raise errors.Unavailable(error.message)  # it forgot the upload
        raise error

    def _found(self, upload: Upload) -> Upload:
        """What the registry has of it; another upload when it has forgotten this one."""
        answer = self._pusher.send("GET", upload.url, {}, None)
        if answer.status not in (200, 202, 204):
            answer.close()
            return self._pusher.begin()._replace(chunk=upload.chunk)
        transport.body_of(answer, transport.SMALL)
        offset = distribution.received(answer.headers.get("Range", ""))
        if offset > self._descriptor.size:
            return self._pusher.begin()._replace(chunk=upload.chunk)
        url = self._pusher.located(upload.url, answer) if answer.headers.get("Location") else upload.url
        return upload._replace(url=url, offset=offset)

    def _piece(self, start: int, size: int) -> "Piece":
        return Piece(self._reader, start, size, self._told, self._cancel)


class Piece:
    """A transport.Body: so much of a blob, from `start` on. `told` hears how far it is."""

    def __init__(self, reader: BlobReader, start: int, size: int, told: Told, cancel: Cancel | None) -> None:
        self._reader = reader
        self._start = self._at = start
        self._end = start + size
        self._told = told
        self._cancel = cancel

    def read(self, size: int = -1, /) -> bytes:
        if self._cancel is not None:
            self._cancel.check()
        left = self._end - self._at
        data = self._reader.pread(left if size < 0 else min(size, left), self._at) if left else b""
        if left and not data:
            raise errors.DataLoss(f"reading a blob to be pushed: it ends at byte {self._at}")
        self._at += len(data)
        self._told(self._at)
        return data

    def rewind(self) -> None:
        self._at = self._start


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 16
