"""Blobs in a directory: `blobs/<algorithm>/<hex>`, read-only files that hash to their names.

Knows no namespaces and keeps no labels. A blob appears by rename once its bytes are on disk and verified.
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence

from daemon.content import ingest
from daemon.content.ingest import Ingest
from daemon.kit import atomic
from spec import digest as digests
from spec import errors, filters
from spec.records import ContentInfo, IngestStatus


class LocalContent:
    """A ports.ContentStore below `root`. Without `sync` a blob survives the daemon's death but not the host's."""

    def __init__(self, root: str, sync: bool = True) -> None:
        self._root = root
        self._sync = sync
        self._lock = threading.Lock()
        self._open: set[str] = set()
        for name in ("blobs", "ingest"):
            os.makedirs(os.path.join(root, name), mode=0o700, exist_ok=True)

    def info(self, digest: str) -> ContentInfo:
        try:
            return _info(digest, os.stat(self._path(digest)))
        except FileNotFoundError:
            raise _missing(digest) from None

    def update(self, info: ContentInfo, fields: Sequence[str] = ()) -> ContentInfo:
        raise errors.Unimplemented(f"updating content {info.digest}: this store keeps no labels")

    def list(self, filters_: Sequence[str] = ()) -> Iterator[ContentInfo]:
        matches = filters.matcher(filters_, _FIELDS)
        blobs = os.path.join(self._root, "blobs")
        for algorithm in sorted(os.listdir(blobs)):
            for name in sorted(os.listdir(os.path.join(blobs, algorithm))):
                try:
                    info = self.info(f"{algorithm}:{name}")
                except (errors.InvalidArgument, errors.NotFound):
                    continue  # a foreign file, or one that went
                if matches(info):
                    yield info

    def delete(self, digest: str) -> None:
        try:
            os.unlink(self._path(digest))
        except FileNotFoundError:
            raise _missing(digest) from None

    def reader(self, digest: str) -> "Blob":
        try:
            return Blob(self._path(digest))
        except FileNotFoundError:
            raise _missing(digest) from None
        except OSError as exc:
            raise errors.from_os(exc, f"opening content {digest}") from exc

    def writer(self, ref: str, total: int = 0, expected: str = "") -> Ingest:
        if not ref:
            raise errors.InvalidArgument("opening a writer: the ref is empty")
        if expected and os.path.exists(self._path(expected)):
            raise errors.AlreadyExists(f"content {expected} already exists")
        with self._lock:
            if ref in self._open:
                raise errors.Unavailable(f"ingest {ref} is open already")
            self._open.add(ref)
        directory = ingest.directory_of(self._root, ref)
        try:
            return Ingest(directory, ref, total, expected, self._publish, self._releasing(ref), self._sync)
        except OSError as exc:
            self._release(ref)
            raise errors.from_os(exc, f"opening ingest {ref}") from exc
        except BaseException:
            self._release(ref)
            raise

    def status(self, ref: str) -> IngestStatus:
        status = ingest.status_of(ingest.directory_of(self._root, ref))
        if status is None:
            raise errors.NotFound(f"ingest {ref} not found")
        return status

    def statuses(self, filters_: Sequence[str] = ()) -> Sequence[IngestStatus]:
        matches = filters.matcher(filters_, _STATUS_FIELDS)
        base = os.path.join(self._root, "ingest")
        found = (ingest.status_of(os.path.join(base, name)) for name in sorted(os.listdir(base)))
        return [status for status in found if status is not None and matches(status)]

    def abort(self, ref: str) -> None:
        self.status(ref)
        with self._lock:
            if ref in self._open:
                raise errors.Unavailable(f"aborting ingest {ref}: it is being written")
        ingest.discard(ingest.directory_of(self._root, ref))

    def _publish(self, data: str, digest: str) -> None:
        """Move finished bytes to their name. AlreadyExists when the blob is there; the bytes are gone then."""
        target = self._path(digest)
        directory = os.path.dirname(target)
        if not os.path.isdir(directory):
            os.makedirs(directory, mode=0o700, exist_ok=True)
            if self._sync:
                atomic.sync_directory(os.path.dirname(directory))
        if os.path.exists(target):
            os.unlink(data)
            raise errors.AlreadyExists(f"content {digest} already exists")
        os.rename(data, target)
        if self._sync:
            atomic.sync_directory(directory)

    def _path(self, digest: str) -> str:
        algorithm, name = digests.split(digest)
        return os.path.join(self._root, "blobs", algorithm, name)

    def _releasing(self, ref: str) -> Callable[[], None]:
        return lambda: self._release(ref)

    def _release(self, ref: str) -> None:
        with self._lock:
            self._open.discard(ref)


class Blob:
    """A ports.BlobReader over a file."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        self.size = os.fstat(self._fd).st_size

    def read(self, size: int = -1, /) -> bytes:
        return os.read(self._fd, self.size if size < 0 else size)

    def pread(self, size: int, offset: int, /) -> bytes:
        return os.pread(self._fd, size, offset)

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> "Blob":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _info(digest: str, stat: os.stat_result) -> ContentInfo:
    return ContentInfo(
        digest=digest, size=stat.st_size, created_at_ns=stat.st_mtime_ns, updated_at_ns=stat.st_mtime_ns
    )


def _missing(digest: str) -> errors.NotFound:
    return errors.NotFound(f"content {digest} not found")


_FIELDS = filters.fields_of({"digest": lambda info: info.digest, "labels": lambda info: info.labels})
_STATUS_FIELDS = filters.fields_of({"ref": lambda status: status.ref})
