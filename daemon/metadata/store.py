"""One LMDB environment: inline reads, and one writer thread that commits for everyone.

Reads see the last commit and cost microseconds. Writes are functions handed to the writer thread, which runs all that
wait in one transaction and makes them durable with one fdatasync (group commit). Knows keys and bytes, no records.
"""

import asyncio
import fcntl
import os
import queue
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Generic, TypeVar, cast

import lmdb

from spec import errors

T = TypeVar("T")

MAX_BATCH = 512  # changes in one commit
Job = tuple[Callable[["Txn"], Any], "Commit[Any]"]


class View:
    """One read transaction: a consistent state of the store."""

    def __init__(self, txn: lmdb.Transaction) -> None:
        self._txn = txn

    def get(self, key: bytes) -> bytes | None:
        return cast("bytes | None", self._txn.get(key))

    def items(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Keys that begin with `prefix`, in order, from `prefix + start` on, with their values."""
        with self._txn.cursor() as cursor:
            if not cursor.set_range(prefix + start or b"\0"):
                return
            for key, value in cast("Iterator[tuple[bytes, bytes]]", cursor):
                if not key.startswith(prefix):
                    return
                yield key, value


class Txn(View):
    """One write transaction, shared by all functions of a batch."""

    dirty = False

    def put(self, key: bytes, value: bytes) -> None:
        self.dirty = True
        self._txn.put(key, value)

    def delete(self, key: bytes) -> bool:
        """Whether it was there."""
        self.dirty = True
        return bool(self._txn.delete(key))


class Commit(Future[T], Generic[T]):
    """A write under way. Threads wait with `result()`, coroutines await it; both return once it is durable."""

    def __await__(self) -> Generator[Any, None, T]:
        return asyncio.wrap_future(self).__await__()


class Store:
    """The environment at `directory`; at most one process has it open, once.

    `map_size` is where the map starts, in bytes; it doubles when it is full. Without `sync` a commit survives the
    daemon's death but not the host's.
    """

    def __init__(self, directory: str, *, map_size: int = 1 << 30, sync: bool = True) -> None:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        self._lock_fd = _lock(os.path.join(directory, "daemon.lock"))
        self._map_size = map_size
        try:
            self._env = lmdb.open(
                directory, map_size=map_size, mode=0o600, sync=sync, metasync=sync, max_readers=1024, max_spare_txns=16
            )
        except lmdb.Error as exc:
            os.close(self._lock_fd)
            raise errors.DataLoss(f"opening metadata at {directory}: {exc}") from exc
        self._gate = threading.Condition()
        self._reading = 0
        self._growing = False
        self._depth = threading.local()
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._closed = False
        self._writer = threading.Thread(target=self._write, name="metadata-writer", daemon=True)
        self._writer.start()

    @contextmanager
    def view(self) -> Iterator[View]:
        """A consistent read. Hold it briefly, and never across an await."""
        depth: int = getattr(self._depth, "value", 0)
        with self._gate:
            while self._growing and not depth:
                self._gate.wait()
            self._reading += 1
        self._depth.value = depth + 1
        try:
            with self._env.begin() as txn:
                yield View(txn)
        finally:
            self._depth.value = depth
            with self._gate:
                self._reading -= 1
                if self._growing:
                    self._gate.notify_all()

    def update(self, change: Callable[[Txn], T]) -> Commit[T]:
        """Have the writer thread run `change` and commit.

        When it raises, none of its writes is made and the Commit raises the same. It may be run more than once, so it
        must do nothing but read and write the transaction.
        """
        commit: Commit[T] = Commit()
        if self._closed:
            raise errors.Unavailable("writing metadata: the store is closed")
        self._queue.put((change, commit))
        return commit

    def close(self) -> None:
        """Commit what is waiting, and close."""
        if self._closed:
            return
        self._closed = True
        self._queue.put(None)
        self._writer.join()
        self._env.close()
        os.close(self._lock_fd)

    def _write(self) -> None:
        while True:
            batch = [self._queue.get()]
            while len(batch) < MAX_BATCH:
                try:
                    batch.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            self._commit([job for job in batch if job is not None])
            if None in batch:
                return

    def _commit(self, batch: list[Job]) -> None:
        """Commit a batch; a function that fails after it wrote costs one more round for the others."""
        while batch:
            txn = self._env.begin(write=True)
            try:
                outcomes, offender = _run(Txn(txn), batch)
                if offender is not None:
                    txn.abort()
                    job, exc = offender
                    batch = [other for other in batch if other is not job]
                    job[1].set_exception(exc)
                    continue
                txn.commit()
            except lmdb.MapFullError:
                txn.abort()
                self._grow()
                continue
            except lmdb.Error as exc:
                for _, commit in batch:
                    commit.set_exception(_translate(exc))
                return
            for commit, result, failure in outcomes:
                if failure is None:
                    commit.set_result(result)
                else:
                    commit.set_exception(failure)
            return

    def _grow(self) -> None:
        """Double the map. LMDB forbids that while transactions of this process are open: wait for the readers."""
        with self._gate:
            self._growing = True
            while self._reading:
                self._gate.wait()
            try:
                self._map_size *= 2
                self._env.set_mapsize(self._map_size)
            finally:
                self._growing = False
                self._gate.notify_all()


Outcome = tuple["Commit[Any]", Any, Exception | None]


def _run(txn: Txn, batch: list[Job]) -> tuple[list[Outcome], tuple[Job, Exception] | None]:
    """Run all functions; also the first that failed after writing, whose writes must not be committed."""
    outcomes: list[Outcome] = []
    for job in batch:
        change, commit = job
        txn.dirty = False
        try:
            outcomes.append((commit, change(txn), None))
        except lmdb.BadValsizeError as exc:  # a key that is empty or too long: this change's own fault
            return [], (job, errors.InvalidArgument(f"writing metadata: {exc}"))
        except lmdb.Error:
            raise
        except Exception as exc:  # the caller's error, whatever it is, travels to the caller
            if txn.dirty:
                return [], (job, exc)
            outcomes.append((commit, None, exc))
    return outcomes, None


def _lock(path: str) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        holder = os.read(fd, 32).decode(errors="replace").strip()
        os.close(fd)
        raise errors.FailedPrecondition(
            f"opening metadata at {os.path.dirname(path)}: another daemon has it (pid {holder or 'unknown'})"
        ) from exc
    os.ftruncate(fd, 0)
    os.write(fd, str(os.getpid()).encode())
    return fd


def _translate(exc: lmdb.Error) -> errors.Error:
    if isinstance(exc, lmdb.DiskError) or "No space left" in str(exc):
        return errors.ResourceExhausted(f"writing metadata: {exc}")
    return errors.DataLoss(f"writing metadata: {exc}")
