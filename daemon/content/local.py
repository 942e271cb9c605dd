"""Blobs in a directory: `blobs/<algorithm>/<hex>`, read-only files that hash to their names.

Knows no namespaces and keeps no labels. A blob appears by rename once its bytes are on disk and verified.
"""

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterator, Sequence

from daemon.content import ingest
from daemon.content.ingest import Ingest
from daemon.kit import atomic
from spec import digest as digests
from spec import errors, filterable
from spec.filters import matcher
from spec.records import ContentInfo, IngestStatus


class LocalContent:
    """A ports.ContentStore below `root`. Without `sync` a blob survives the daemon's death but not the host's. `failed`
    is called when the disk fails a sync, and has more to fear for."""

    def __init__(self, root: str, sync: bool = True, failed: Callable[[OSError], None] = lambda exc: None) -> None:
        self._root = root
        self._sync = sync
        self._failed = failed
        self._lock = threading.Lock()
        self._open: set[str] = set()
        for name in ("", "blobs", "ingest"):
            os.makedirs(os.path.join(root, name), mode=0o700, exist_ok=True)
        ingest.sweep(root)

    def info(self, digest: str) -> ContentInfo:
        path = self._path(digest)
        with _doing("looking at", digest):
            stat = os.stat(path)
        return ContentInfo(
            digest=digest, size=stat.st_size, created_at_ns=stat.st_mtime_ns, updated_at_ns=stat.st_mtime_ns
        )

    def update(self, info: ContentInfo, fields: Sequence[str] = ()) -> ContentInfo:
        raise errors.Unimplemented(f"updating content {info.digest}: this store keeps no labels")

    def list(self, filters: Sequence[str] = ()) -> Iterator[ContentInfo]:
        matches = matcher(filters, filterable.CONTENT)
        return filter(matches, self._infos())

    def delete(self, digest: str) -> None:
        path = self._path(digest)
        with _doing("deleting", digest):
            os.unlink(path)

    def reader(self, digest: str) -> "Blob":
        path = self._path(digest)
        with _doing("opening", digest):
            return Blob(path, digest)

    def writer(self, ref: str, total: int = 0, expected: str = "") -> Ingest:
        if not ref:
            raise errors.InvalidArgument("opening a writer: the ref is empty")
        if expected and os.path.exists(self._path(expected)):
            raise errors.AlreadyExists(f"content {expected} already exists")
        self._claim(ref, "opening")
        try:
            directory = ingest.directory_of(self._root, ref)
            return Ingest(
                directory, ref, total, expected, self._publish, lambda: self._release(ref), self._told, self._sync
            )
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

    def statuses(self, filters: Sequence[str] = ()) -> Sequence[IngestStatus]:
        matches = matcher(filters, filterable.INGEST)
        base = os.path.join(self._root, "ingest")
        found = (ingest.status_of(os.path.join(base, name)) for name in sorted(os.listdir(base)))
        return [status for status in found if status is not None and matches(status)]

    def abort(self, ref: str) -> None:
        self._claim(ref, "aborting")
        try:
            directory = ingest.directory_of(self._root, ref)
            if not os.path.isdir(directory):
                raise errors.NotFound(f"ingest {ref} not found")
            ingest.discard(directory)
        except OSError as exc:
            raise errors.from_os(exc, f"aborting ingest {ref}") from exc
        finally:
            self._release(ref)

    def _infos(self) -> Iterator[ContentInfo]:
        blobs = os.path.join(self._root, "blobs")
        for algorithm in sorted(os.listdir(blobs)):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                for name in _in_order(os.path.join(blobs, algorithm)):
                    # A foreign file, or a blob that went since, is passed over.
                    with contextlib.suppress(errors.InvalidArgument, errors.NotFound):
                        yield self.info(f"{algorithm}:{name}")

    def _publish(self, data: str, digest: str, size: int) -> None:
        """Move finished bytes to their name. AlreadyExists when the blob is there; but one of another size is damaged,
        and makes way for what was just verified."""
        target = self._path(digest)
        directory = os.path.dirname(target)
        with self._lock:  # until the name of a first blob's directory is durable, no other blob counts on it
            if not os.path.isdir(directory):
                os.mkdir(directory, 0o700)
                if self._sync:
                    self._sync_directory(os.path.dirname(directory))
            exists = _size(target) == size
            if not exists:
                os.rename(data, target)
        if self._sync:  # when it exists too: whoever made it may not have come this far
            self._sync_directory(directory)
        if exists:
            raise errors.AlreadyExists(f"content {digest} already exists")

    def _sync_directory(self, path: str) -> None:
        try:
            atomic.sync_directory(path)
        except OSError as exc:
            self._told(exc)
            raise

    def _told(self, exc: OSError) -> None:
        if exc.errno in (errno.EIO, errno.EROFS):
            self._failed(exc)

    def _path(self, digest: str) -> str:
        algorithm, name = digests.split(digest)
        return os.path.join(self._root, "blobs", algorithm, name)

    def _claim(self, ref: str, doing: str) -> None:
        """Keep everyone else from an ingest until it is released."""
        with self._lock:
            if ref in self._open:
                raise errors.Unavailable(f"{doing} ingest {ref}: it is open already")
            self._open.add(ref)

    def _release(self, ref: str) -> None:
        with self._lock:
            self._open.discard(ref)


class Blob:
    """A ports.BlobReader over a file."""

    def __init__(self, path: str, digest: str) -> None:
        self._digest = digest
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        self._offset = 0
        self.size = os.fstat(self._fd).st_size

    def read(self, size: int = -1, /) -> bytes:
        data = self.pread(max(self.size - self._offset, 0) if size < 0 else size, self._offset)
        self._offset += len(data)
        return data

    def pread(self, size: int, offset: int, /) -> bytes:
        fd = self.fileno()
        with _doing("reading", self._digest):
            data = os.pread(fd, size, offset)
            while len(data) < size and offset + len(data) < self.size:  # one pread(2) ends at 2 GiB
                more = os.pread(fd, size - len(data), offset + len(data))
                if not more:
                    break
                data += more
            return data

    def fileno(self) -> int:
        if self._fd < 0:
            raise errors.FailedPrecondition(f"content {self._digest} is closed")
        return self._fd

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> "Blob":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@contextlib.contextmanager
def _doing(doing: str, digest: str) -> Iterator[None]:
    """Translates what the system says of a blob."""
    try:
        yield
    except FileNotFoundError:
        raise errors.NotFound(f"content {digest} not found") from None
    except OSError as exc:
        if exc.errno == errno.ELOOP:  # none of ours: whoever put it there could show us anything
            raise errors.DataLoss(f"{doing} content {digest}: it is a symbolic link") from exc
        raise errors.from_os(exc, f"{doing} content {digest}") from exc


def _in_order(directory: str) -> Iterator[str]:
    """The names in it, sorted a part at a time: to sort 100,000 at once keeps the interpreter from others for 30 ms."""
    parts: dict[str, list[str]] = {}
    with os.scandir(directory) as entries:
        for entry in entries:
            parts.setdefault(entry.name[:2], []).append(entry.name)
    for start in sorted(parts):
        yield from sorted(parts[start])


def _size(path: str) -> int:
    """-1 when it is not there."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return -1
