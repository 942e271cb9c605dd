"""One ingest: bytes on their way to become a blob, resumable after anything.

An ingest is a directory `ingest/<sha256 of its ref>/` with `data` and `about` (what its opener said, as JSON).
"""

import contextlib
import os
import time
from collections.abc import Callable

import msgspec

from daemon.kit import atomic
from spec import digest as digests
from spec import errors
from spec.base import Record, to_json
from spec.records import IngestStatus, Labels

CHUNK = 1 << 20


class About(Record, frozen=True):
    ref: str
    total: int = 0
    expected: str = ""
    started_at_ns: int = 0


_about = msgspec.json.Decoder(About)


def directory_of(root: str, ref: str) -> str:
    return os.path.join(root, "ingest", digests.split(digests.of(ref.encode("utf-8", "surrogateescape")))[1])


def status_of(directory: str) -> IngestStatus | None:
    """What is known of an ingest without opening it; None when it is not a whole one."""
    try:
        with open(os.path.join(directory, "about"), "rb") as file:
            about = _about.decode(file.read())
        info = os.stat(os.path.join(directory, "data"))
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return _status(about, info.st_size, info.st_mtime_ns)


class Ingest:
    """A ports.BlobWriter. `publish(path, digest)` moves the data to where blobs are; `released` is called on close."""

    def __init__(
        self,
        directory: str,
        ref: str,
        total: int,
        expected: str,
        publish: Callable[[str, str], None],
        released: Callable[[], None],
        sync: bool,
    ) -> None:
        self._directory = directory
        self._publish = publish
        self._released = released
        self._sync = sync
        self._algorithm = digests.split(expected)[0] if expected else digests.CANONICAL
        self._about, self._fd = _open(directory, About(ref=ref, total=total, expected=expected))
        self._offset = 0
        self._hash = digests.hasher(self._algorithm)
        self._updated_at_ns = time.time_ns()
        try:
            self._rehash()
        except BaseException:
            os.close(self._fd)
            raise

    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        view = memoryview(data).cast("B")
        written = 0
        try:
            while written < len(view):
                written += os.write(self._open(), view[written:])
        except OSError as exc:
            self._forget(written, view)
            raise errors.from_os(exc, f"writing ingest {self._about.ref}") from exc
        self._forget(written, view)
        return written

    def status(self) -> IngestStatus:
        return _status(self._about, self._offset, self._updated_at_ns)

    def digest(self) -> str:
        return f"{self._algorithm}:{self._hash.hexdigest()}"

    def truncate(self) -> None:
        os.ftruncate(self._open(), 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        self._offset = 0
        self._hash = digests.hasher(self._algorithm)

    def commit(self, size: int = 0, expected: str = "", labels: Labels | None = None) -> str:
        doing = f"committing ingest {self._about.ref}"
        if self._sync:
            try:
                os.fdatasync(self._open())
            except OSError as exc:
                raise errors.from_os(exc, doing) from exc
        expected = expected or self._about.expected
        if size and size != self._offset:
            raise errors.FailedPrecondition(f"{doing}: it has {self._offset} bytes, not {size}")
        self._use(expected)
        digest = self.digest()
        if expected and digest != expected:
            raise errors.FailedPrecondition(f"{doing}: its digest is {digest}, not {expected}")
        try:
            os.fchmod(self._open(), 0o444)
            self._publish(os.path.join(self._directory, "data"), digest)
        except OSError as exc:
            raise errors.from_os(exc, doing) from exc
        finally:
            published = not os.path.exists(os.path.join(self._directory, "data"))
            if published:
                self.close()
                discard(self._directory)
        return digest

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._released()

    def __enter__(self) -> "Ingest":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _open(self) -> int:
        if self._fd < 0:
            raise errors.FailedPrecondition(f"ingest {self._about.ref} is closed")
        return self._fd

    def _forget(self, written: int, view: memoryview) -> None:
        self._hash.update(view[:written])
        self._offset += written
        self._updated_at_ns = time.time_ns()

    def _use(self, expected: str) -> None:
        """Hash with the algorithm that is expected, again if it was another."""
        algorithm = digests.split(expected)[0] if expected else self._algorithm
        if algorithm != self._algorithm:
            self._algorithm = algorithm
            self._hash = digests.hasher(algorithm)
            self._rehash()

    def _rehash(self) -> None:
        """Take in what is on disk already."""
        offset = 0
        while chunk := os.pread(self._open(), CHUNK, offset):
            self._hash.update(chunk)
            offset += len(chunk)
        os.lseek(self._fd, offset, os.SEEK_SET)
        self._offset = offset


def discard(directory: str) -> None:
    """Remove an ingest; `about` last, so that what is left of a cut-off removal is still one."""
    for name in ("data", "about"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(directory, name))
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(directory)


def _open(directory: str, asked: About) -> tuple[About, int]:
    """The ingest's data for appending; one of another total starts again, as does one whose `about` is damaged."""
    os.makedirs(directory, mode=0o700, exist_ok=True)
    found = None
    with contextlib.suppress(FileNotFoundError, msgspec.DecodeError), open(f"{directory}/about", "rb") as file:
        found = _about.decode(file.read())
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    if found is None or (asked.total and found.total and asked.total != found.total):
        found = About(ref=asked.ref, total=asked.total, expected=asked.expected, started_at_ns=time.time_ns())
        atomic.write(f"{directory}/about", to_json(found), durable=False)
        flags |= os.O_TRUNC
    return found, os.open(f"{directory}/data", flags, 0o600)


def _status(about: About, offset: int, updated_at_ns: int) -> IngestStatus:
    return IngestStatus(
        ref=about.ref,
        offset=offset,
        total=about.total,
        expected=about.expected,
        started_at_ns=about.started_at_ns,
        updated_at_ns=max(updated_at_ns, about.started_at_ns),
    )
