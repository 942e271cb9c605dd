"""Differences of mounts made into layers: walk, pack, hash and compress in one pass.

Where the upper mounts are those of the lower with one overlay's layer on top, that layer's directory alone is read.
"""

import contextlib
import errno
import itertools
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from daemon.diff import compression, stacks, storing
from daemon.kit import mounting
from pyx.changes import Changes, Unclear
from pyx.pack import Packer, Reserved, Shrunk
from spec import digest as digests
from spec import errors
from spec.oci.image import OCI_LAYER_GZIP, Descriptor
from spec.ports import BlobWriter, Cancel, ContentStore
from spec.records import Labels
from spec.types import Mount

CHUNK = 1 << 20  # bytes of plain tar at once
DOING = "comparing mounts"

# What a walk meets when somebody else moves and removes meanwhile.
MOVED = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE})

_sequence = itertools.count()


class WalkingComparer:
    """A ports.Comparer into `content`, for mounts of every kind."""

    def __init__(self, content: ContentStore) -> None:
        self._content = content

    def compare(
        self,
        lower: Sequence[Mount],
        upper: Sequence[Mount],
        media_type: str = "",
        ref: str = "",
        labels: Labels | None = None,
        source_date_epoch_s: int | None = None,
        cancel: Cancel | None = None,
    ) -> Descriptor:
        media_type = media_type or OCI_LAYER_GZIP
        compression.compressor(media_type)  # before anything is mounted or written
        own = ref or f"diff-{time.time_ns()}-{next(_sequence)}"
        try:
            with self._content.writer(own) as writer:
                if writer.status().offset:
                    writer.truncate()
                with _doing():
                    diff_id = _write(writer, media_type, lower, upper, source_date_epoch_s, cancel)
                return storing.commit(self._content, writer, media_type, diff_id, labels or {})
        except BaseException:
            if not ref:
                with contextlib.suppress(errors.Error):
                    self._content.abort(own)
            raise


def _write(
    writer: BlobWriter,
    media_type: str,
    lower: Sequence[Mount],
    upper: Sequence[Mount],
    latest: int | None,
    cancel: Cancel | None,
) -> str:
    """The layer's bytes; its diff id."""
    with ExitStack() as stack:
        below = stack.enter_context(mounting.opened(stacks.read_only(lower))) if lower else -1
        top = stacks.top(lower, upper)
        if top is not None:
            directory, overlay = top
            with _directory(directory) as layer, contextlib.suppress(Unclear):
                return _pour(writer, media_type, _archive(below, layer, overlay, latest, cancel))
            writer.truncate()
        above = stack.enter_context(mounting.opened(stacks.read_only(upper)))
        return _pour(writer, media_type, _archive(below, above, "", latest, cancel))


def _pour(writer: BlobWriter, media_type: str, archive: Iterator[memoryview]) -> str:
    running = digests.hasher()
    packing = compression.compressor(media_type)
    for data in archive:
        running.update(data)
        if packed := packing.compress(data):
            writer.write(packed)
    if packed := packing.flush():
        writer.write(packed)
    return f"{digests.CANONICAL}:{running.hexdigest()}"


def _archive(
    lower: int, upper: int, overlay: str, latest: int | None, cancel: Cancel | None
) -> Iterator[memoryview]:
    """The plain tar, in whole chunks but for the last; each is good until the next."""
    buffer = memoryview(bytearray(CHUNK))
    filled = 0
    with Changes(lower, upper, overlay) as changes, Packer(upper, latest) as packer:
        ended = False
        while not ended:
            if cancel is not None:
                cancel.check()
            if records := changes.read():
                packer.feed(records)
            else:
                packer.finish()
                ended = True
            while size := packer.readinto(buffer[filled:]):
                filled += size
                if filled == CHUNK:
                    if cancel is not None:
                        cancel.check()
                    yield buffer
                    filled = 0
    if filled:
        yield buffer[:filled]


@contextmanager
def _directory(path: str) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _doing() -> Iterator[None]:
    try:
        yield
    except Shrunk as exc:
        raise errors.Aborted(f"{DOING}: {exc} at {os.fsdecode(exc.entry)!r}") from exc
    except Reserved as exc:
        raise errors.FailedPrecondition(f"{DOING}: {exc} at {os.fsdecode(exc.entry)!r}") from exc
    except OSError as exc:
        text = f"{DOING} at {exc.filename!r}" if exc.filename else DOING
        if exc.errno in MOVED:
            raise errors.Aborted(f"{text}: it changed while it was read: {exc.strerror}") from exc
        raise errors.from_os(exc, text) from exc
