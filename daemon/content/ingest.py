"""One ingest: bytes on their way to become a blob, resumable after anything.

An ingest is a directory `ingest/<sha256 of its ref>/` with `data` and `about` (what its opener said, as JSON). Whoever
takes one up hashes what is there again, at 1.4 GB/s: a hash that was kept could outlive bytes that a crash of the host
took, and would vouch for them.
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Callable

import msgspec
from msgspec.structs import replace

from daemon.kit import atomic
from spec import digest as digests
from spec import errors
from spec.base import Record, to_json
from spec.records import IngestStatus, Labels

CHUNK = 1 << 20
BEHIND = 8 << 20  # bytes that a tail has read, between two times that it lets go of them


class About(Record, frozen=True):
    ref: str
    total: int = 0
    expected: str = ""
    started_at_ns: int = 0


_about = msgspec.json.Decoder(About)


def directory_of(root: str, ref: str) -> str:
    return os.path.join(root, "ingest", digests.split(digests.of(ref.encode("utf-8", "surrogateescape")))[1])


def status_of(directory: str) -> IngestStatus | None:
    """What is known of an ingest without opening it; None when it is none."""
    about = _read(directory)
    if about is None:
        return None
    try:
        info = os.stat(os.path.join(directory, "data"))
    except FileNotFoundError:
        return _status(about, 0, about.started_at_ns)
    return _status(about, info.st_size, info.st_mtime_ns)


class Ingest:
    """A ports.BlobWriter. `publish(path, digest, size)` moves the data to where blobs are; `released` is called on
    close, `failed` when the disk does not take the data."""

    def __init__(
        self,
        directory: str,
        ref: str,
        total: int,
        expected: str,
        publish: Callable[[str, str, int], None],
        released: Callable[[], None],
        failed: Callable[[OSError], None],
        sync: bool,
    ) -> None:
        self._directory = directory
        self._publish = publish
        self._released = released
        self._failed = failed
        self._sync = sync
        self._about, self._fd = _open(directory, About(ref=ref, total=total, expected=expected))
        self._updated_at_ns = 0
        try:
            self._algorithm = digests.split(self._about.expected)[0] if self._about.expected else digests.CANONICAL
            self._hash, self._offset = self._hashed(self._algorithm)
        except BaseException:
            os.close(self._fd)
            raise

    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        fd = self._open()
        view = memoryview(data).cast("B")
        written = 0
        try:
            while written < len(view):
                written += os.pwrite(fd, view[written:], self._offset + written)
        except OSError as exc:
            raise errors.from_os(exc, f"writing ingest {self._about.ref}") from exc
        finally:
            self._hash.update(view[:written])
            self._offset += written
        return written

    def status(self) -> IngestStatus:
        """Its time is the file's, as for those who ask without opening it."""
        if self._fd >= 0:
            self._updated_at_ns = os.fstat(self._fd).st_mtime_ns
        return _status(self._about, self._offset, self._updated_at_ns)

    def digest(self) -> str:
        return f"{self._algorithm}:{self._hash.hexdigest()}"

    def truncate(self) -> None:
        try:
            os.ftruncate(self._open(), 0)
        except OSError as exc:
            raise errors.from_os(exc, f"truncating ingest {self._about.ref}") from exc
        self._offset = 0
        self._hash = digests.hasher(self._algorithm)

    def tail(self) -> "Tail":
        return Tail(os.dup(self._open()), self._about.ref, self._sync)

    def commit(self, size: int = 0, expected: str = "", labels: Labels | None = None) -> str:
        doing = f"committing ingest {self._about.ref}"
        fd = self._open()
        try:
            if self._sync:
                self._settle(fd)
            digest = self._verified(size, expected or self._about.expected, doing)
            os.utime(fd)  # a blob's time is that of its commit
            os.fchmod(fd, 0o444)
            self._publish(os.path.join(self._directory, "data"), digest, self._offset)
        except errors.AlreadyExists:
            self._end()
            raise
        except OSError as exc:
            raise errors.from_os(exc, doing) from exc
        self._end()
        return digest

    def close(self) -> None:
        if self._fd >= 0:
            self.status()
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

    def _settle(self, fd: int) -> None:
        """What a sync that failed was about may be read from memory and be on no disk, and the next sync would say
        nothing of it (fsync(2)): it is given up."""
        try:
            os.fdatasync(fd)
        except OSError as exc:
            with contextlib.suppress(errors.Error):
                self.truncate()
            self._failed(exc)
            raise

    def _end(self) -> None:
        """The directory goes before the ref is free: whoever opens it next has a new one. What resists stays for the
        next sweep."""
        try:
            with contextlib.suppress(OSError):
                discard(self._directory)
        finally:
            self.close()

    def _verified(self, size: int, expected: str, doing: str) -> str:
        """The digest, by the algorithm that is expected."""
        if size and size != self._offset:
            raise errors.FailedPrecondition(f"{doing}: it has {self._offset} bytes, not {size}")
        digest = self.digest()
        algorithm = digests.split(expected)[0] if expected else self._algorithm
        if algorithm != self._algorithm:
            digest = f"{algorithm}:{self._hashed(algorithm)[0].hexdigest()}"
        if expected and digest != expected:
            raise errors.FailedPrecondition(f"{doing}: its digest is {digest}, not {expected}")
        return digest

    def _hashed(self, algorithm: str) -> "tuple[hashlib._Hash, int]":
        """Hash and length of what is on disk."""
        running = digests.hasher(algorithm)
        offset = 0
        while chunk := os.pread(self._fd, CHUNK, offset):
            running.update(chunk)
            offset += len(chunk)
        return running, offset


class Tail:
    """A ports.Tail; it owns `fd`, which the rename to a blob leaves good. With `passing` what was read is sent to the
    disk, and what is there leaves memory to what is made of it: a layer's blob is seldom read twice."""

    def __init__(self, fd: int, ref: str, passing: bool) -> None:
        self._fd = fd
        self._ref = ref
        self._passing = passing
        self._passed = 0

    def preadinto(self, buffer: memoryview, offset: int, /) -> int:
        if self._fd < 0:
            raise errors.FailedPrecondition(f"the tail of ingest {self._ref} is closed")
        try:
            if self._passing and offset - self._passed >= BEHIND:
                # It begins to write what is not yet written, and lets go of the rest (posix_fadvise(2)).
                os.posix_fadvise(self._fd, 0, offset, os.POSIX_FADV_DONTNEED)
                self._passed = offset
            return os.preadv(self._fd, [buffer], offset)
        except OSError as exc:
            raise errors.from_os(exc, f"reading ingest {self._ref}") from exc

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def discard(directory: str) -> None:
    """Remove an ingest; `about` last, so that what is left of a cut-off removal is still one."""
    with contextlib.suppress(FileNotFoundError):
        for name in sorted(os.listdir(directory), key="about".__eq__):
            os.unlink(os.path.join(directory, name))
        os.rmdir(directory)


def sweep(root: str) -> None:
    """Remove what is no ingest any more: a crash of the host can take `about`, and with it the only name. Only while
    nobody writes."""
    base = os.path.join(root, "ingest")
    for name in os.listdir(base):
        directory = os.path.join(base, name)
        if os.path.isdir(directory) and _read(directory) is None:
            with contextlib.suppress(OSError):
                discard(directory)


def _open(directory: str, asked: About) -> tuple[About, int]:
    """The ingest's data for appending; one of another total starts again, as does one whose `about` is damaged."""
    os.makedirs(directory, mode=0o700, exist_ok=True)
    found = _read(directory)
    if found is None or (asked.total and found.total and asked.total != found.total):
        about, flags = replace(asked, started_at_ns=time.time_ns()), os.O_TRUNC
    else:
        about, flags = replace(
            found, total=asked.total or found.total, expected=asked.expected or found.expected
        ), 0
    fd = os.open(os.path.join(directory, "data"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | flags, 0o600)
    try:
        if about != found:  # after the truncation, lest new words stand over old bytes
            atomic.write(os.path.join(directory, "about"), to_json(about), durable=False)
    except BaseException:
        os.close(fd)
        raise
    return about, fd


def _read(directory: str) -> About | None:
    """What the opener said; None when it is not there, or damaged."""
    try:
        with open(os.path.join(directory, "about"), "rb") as file:
            return _about.decode(file.read())
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        return None


def _status(about: About, offset: int, updated_at_ns: int) -> IngestStatus:
    return IngestStatus(
        ref=about.ref,
        offset=offset,
        total=about.total,
        expected=about.expected,
        started_at_ns=about.started_at_ns,
        updated_at_ns=max(updated_at_ns, about.started_at_ns),
    )
