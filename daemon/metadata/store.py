"""One LMDB environment: inline reads, and one writer thread that commits for everyone.

Reads see the last commit and cost microseconds. Writes are functions handed to the writer thread, which runs all that
wait in one transaction and makes them durable with one fdatasync (group commit). Knows keys and bytes, no records.

Damage is found when it is opened (`pages`), before LMDB maps it, and when a row is read (`sealed`); then nothing is
written. What is committed is written to a journal, too. Room for removals is kept on a full disk: the file's next pages
are allocated ahead, and when that cannot be done any more only changes that remove are taken. Once the disk has failed
a sync nothing is written any more until the store is opened again (`failure`).
"""

import asyncio
import contextlib
import errno
import fcntl
import logging
import mmap
import os
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Generic, TypeVar, cast

import lmdb

from daemon.metadata import failure, journal, sealed
from daemon.metadata.jobs import Jobs
from daemon.metadata.journal import Change, Journal, private
from daemon.metadata.pages import PAGE, Pages
from daemon.metadata.renewal import Renewal
from spec import errors
from spec.exposition import Family

T = TypeVar("T")

ROOM = 4 << 20  # bytes allocated ahead: jobs.MOST removals, each on a page of its own, take half of it
UNSEALED = b"1"  # the schema's version of before rows had checksums
READERS, READER = 1024, 64  # at once, and the bytes of each in lock.mdb
DATA, JOURNAL = "data.mdb", "journal"

log = logging.getLogger(__name__)

Job = tuple[Callable[["Txn"], Any], "Commit[Any]"]


class View:
    """One read transaction: a consistent state of the store."""

    def __init__(self, txn: lmdb.Transaction) -> None:
        self._txn = txn

    def get(self, key: bytes) -> bytes | None:
        """DataLoss when it is damaged, here and in `items`."""
        stored = cast("bytes | None", self._txn.get(key))
        return None if stored is None else sealed.unseal(key, stored)

    def stored(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """As `items`, as they are stored."""
        with self._txn.cursor() as cursor:
            if cursor.set_range(prefix or b"\0"):
                for key, value in cast("Iterator[tuple[bytes, bytes]]", cursor):
                    if not key.startswith(prefix):
                        return
                    yield key, value

    def items(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Keys that begin with `prefix`, in order, from `prefix + start` on, with their values."""
        with self._txn.cursor() as cursor:
            if not cursor.set_range(prefix + start or b"\0"):
                return
            for key, value in cast("Iterator[tuple[bytes, bytes]]", cursor):
                if not key.startswith(prefix):
                    return
                yield key, sealed.unseal(key, value)


class Txn(View):
    """One write transaction, shared by all functions of a batch. `changes` is what was written, `size` its bytes."""

    dirty = False

    def __init__(self, txn: lmdb.Transaction, full: bool = False) -> None:
        super().__init__(txn)
        self._full = full
        self.changes: list[Change] = []
        self.size = 0

    def put(self, key: bytes, value: bytes) -> None:
        if self._full:
            raise errors.ResourceExhausted("writing metadata: the disk is full, only removals are taken")
        self.dirty = True
        row = sealed.seal(key, value)
        self.size += len(key) + len(row)
        self._txn.put(key, row)
        self.changes.append((key, row))

    def delete(self, key: bytes) -> bool:
        """Whether it was there."""
        self.dirty = True
        self.changes.append((key, None))
        return bool(self._txn.delete(key))


class Commit(Future[T], Generic[T]):
    """A write under way. Threads wait with `result()`, coroutines await it; both return once it is durable."""

    def __await__(self) -> Generator[Any, None, T]:
        return asyncio.wrap_future(self).__await__()


class Store:
    """The environment at `directory`; at most one process has it open, once.

    `map_size` is where the map starts, in bytes; it doubles when it is full. Without `sync` a commit survives the
    daemon's death but not the host's. DataLoss when it is damaged, and nothing is changed. `failed` says why nothing is
    written any more; it is empty while all is well.
    """

    def __init__(self, directory: str, *, map_size: int = 1 << 30, sync: bool = True) -> None:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        self._directory = directory
        self._lock_fd = lock(directory)
        self._map_size = map_size
        self._sync = sync
        self.failed = ""
        self._full = False
        self._allocated = 0
        self._renewal: Renewal | None = None
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, self._lock_fd)
            self._open(undo)
            self._undo = undo.pop_all()
        self._gate = threading.Condition()
        self._reading = 0
        self._growing = False
        self._depth = threading.local()
        self._jobs: Jobs[Job] = Jobs()
        self._closed = False
        self._writer = threading.Thread(target=self._write, name="metadata-writer", daemon=True)
        self._writer.start()

    def _open(self, undo: contextlib.ExitStack) -> None:
        directory = self._directory
        path = os.path.join(directory, DATA)
        used = check(directory, self._sync)
        # It is written by way of a map: a hole on a full disk would be a SIGBUS. Before LMDB opens it, for to close it
        # would drop LMDB's locks on it (fcntl_locking(2)).
        with contextlib.suppress(OSError), open(os.path.join(directory, "lock.mdb"), "ab", opener=private) as file:
            os.posix_fallocate(file.fileno(), 0, (READERS + 2) * READER)
        try:
            self._env = lmdb.open(
                directory,
                map_size=max(self._map_size, used + ROOM),
                mode=0o600,
                sync=self._sync,
                metasync=self._sync,
                max_readers=READERS,
                max_spare_txns=16,
            )
        except lmdb.Error as exc:
            raise errors.DataLoss(f"opening metadata at {directory}: {exc}") from exc
        undo.callback(self._env.close)
        self._map_size = self._env.info()["map_size"]
        self._data_fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        undo.callback(os.close, self._data_fd)
        stat = os.fstat(self._data_fd)
        self._allocated = min(stat.st_size, stat.st_blocks * 512)  # by who had it open before
        self._allocate()
        self._journal = Journal(os.path.join(directory, JOURNAL))
        undo.callback(self._journal.close)
        txn = self._env.info()["last_txnid"]
        if not self._journal.resume(txn):
            self._begin_journal()

    def _begin_journal(self) -> None:
        try:
            with self._env.begin() as txn:
                self._journal.rewrite(txn.id(), View(txn).stored())
        except (OSError, lmdb.Error) as exc:
            log.warning("writing the journal of metadata at %s: %s", self._directory, exc)

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
        except lmdb.Error as exc:
            raise errors.DataLoss(f"reading metadata at {self._directory}: {exc}") from exc
        finally:
            self._depth.value = depth
            with self._gate:
                self._reading -= 1
                if self._growing:
                    self._gate.notify_all()

    def update(self, change: Callable[[Txn], T], patient: bool = False) -> Commit[T]:
        """Have the writer thread run `change` and commit; a `patient` one when it keeps nobody waiting (`jobs`).

        When it raises, none of its writes is made and the Commit raises the same. It may be run more than once, so it
        must do nothing but read and write the transaction.
        """
        commit: Commit[T] = Commit()
        if self._closed:
            raise errors.Unavailable("writing metadata: the store is closed")
        if self.failed:
            raise errors.DataLoss(self.failed)
        self._jobs.put((change, commit), patient)
        return commit

    def settle(self) -> None:
        """Wait until every change that has begun is made."""
        self.update(lambda txn: None).result()

    def fail(self, why: str) -> None:
        """Write nothing any more: the disk did not take what was written, here or beside."""
        if not self.failed:
            self.failed = (
                f"writing metadata at {self._directory}: the disk failed: {why}; nothing is written until the daemon "
                "is started again, with a disk that works"
            )
            log.error("%s", self.failed)

    def families(self) -> Sequence[Family]:
        """What the metrics tell of it."""
        told = "Whether the disk failed, and no record is written until the next start."
        return [Family("holdd_metadata_failed", "gauge", told, [("", "", int(bool(self.failed)))])]

    def close(self) -> None:
        """Commit what is waiting, and close."""
        if self._closed:
            return
        self._closed = True
        self._jobs.close()
        self._writer.join()
        if self._renewal is not None and (self.failed or not self._renewal.finish()):
            self._renewal.abandon()
        self._undo.close()
        if self.failed:
            for name in (DATA, JOURNAL):
                failure.uncache(os.path.join(self._directory, name))

    def _write(self) -> None:
        while batch := self._jobs.take():
            self._commit(batch)

    def _commit(self, batch: list[Job]) -> None:
        """Commit a batch; a function that fails after it wrote costs one more round for the others."""
        if self._full:
            self._allocate()
        while batch:
            if self.failed:
                _tell(batch, errors.DataLoss(self.failed))
                return
            try:
                txn = self._env.begin(write=True)
            except lmdb.Error as exc:
                self._refuse(batch, exc, 0)
                return
            try:
                writing = Txn(txn, self._full)
                outcomes, offender = _run(writing, batch)
                if offender is not None:
                    txn.abort()
                    job, raised = offender
                    batch = [other for other in batch if other is not job]
                    job[1].set_exception(raised)
                    continue
                id = txn.id()
                txn.commit()
            except lmdb.MapFullError as exc:
                txn.abort()
                if self._grow():
                    continue
                self._one_by_one(batch, exc, writing.size)
                return
            except lmdb.Error as exc:
                txn.abort()
                self._one_by_one(batch, exc, writing.size)
                return
            if writing.changes:
                self._committed(id, writing.changes)
            for commit, result, failed in outcomes:
                if failed is None:
                    commit.set_result(result)
                else:
                    commit.set_exception(failed)
            return

    def _one_by_one(self, batch: list[Job], exc: lmdb.Error, need: int) -> None:
        """What had no room together may have it alone: a removal beside what fills the disk."""
        if len(batch) == 1 or self._lasts(exc, need):
            self._refuse(batch, exc, need)
            return
        for job in batch:
            self._commit([job])

    def _refuse(self, batch: list[Job], exc: lmdb.Error, need: int) -> None:
        _tell(batch, errors.DataLoss(self.failed) if self._lasts(exc, need) else failure.translate(exc))

    def _lasts(self, exc: lmdb.Error, need: int) -> bool:
        """Whether nothing may be written after `exc`."""
        why = self.failed or failure.lasting(exc, self._data_fd, need + ROOM, self._sync)
        if why:
            self.fail(why)
        return bool(why)

    def _committed(self, txn: int, changes: list[Change]) -> None:
        self._allocate()
        self._journal.append(txn, changes)
        if self._renewal is not None:
            if self._renewal.finish():
                self._renewal = None
        elif self._journal.stale():
            self._renew_journal()

    def _renew_journal(self) -> None:
        if self._journal.ended:
            self._begin_journal()
            return
        self._journal.tried()
        with contextlib.suppress(RuntimeError):
            self._renewal = Renewal(self._journal, self._all(), lambda: self._growing)

    @contextmanager
    def _all(self) -> Iterator[tuple[int, Iterator[tuple[bytes, bytes]]]]:
        """The last transaction and all rows as of it. It may end on another thread than it began."""
        with self._gate:
            self._reading += 1
        try:
            with self._env.begin() as txn:
                yield txn.id(), View(txn).stored()
        finally:
            with self._gate:
                self._reading -= 1
                self._gate.notify_all()

    def _allocate(self) -> None:
        """Keep between half and all of ROOM allocated behind the last page in use."""
        used = (self._env.info()["last_pgno"] + 1) * PAGE
        if self._allocated - used >= ROOM // 2:
            return
        self._env.reader_check()  # one that died would keep pages from being used again
        try:
            os.posix_fallocate(self._data_fd, used, ROOM)
            self._allocated = used + ROOM
            self._full = False
        except OSError as exc:
            if exc.errno in (errno.EIO, errno.EROFS):
                self.fail(str(exc))
            full = exc.errno in (errno.ENOSPC, errno.EDQUOT)
            if full and not self._full:
                log.warning("metadata at %s: the disk is full, only removals are taken", self._directory)
            self._full = full

    def _grow(self) -> bool:
        """Double the map. LMDB forbids that while transactions of this process are open: wait for the readers."""
        with self._gate:
            self._growing = True
            while self._reading:
                self._gate.wait()
            try:
                # LMDB gives up the old map before it has the new one: see first whether there is room for one.
                mmap.mmap(-1, self._map_size * 2, mmap.MAP_PRIVATE, mmap.PROT_READ).close()
                self._env.set_mapsize(self._map_size * 2)
                self._map_size *= 2
            except (lmdb.Error, OSError, MemoryError, OverflowError) as exc:
                log.warning("metadata at %s: its map of %d bytes cannot grow: %s", self._directory, self._map_size, exc)
                return False
            finally:
                self._growing = False
                self._gate.notify_all()
        return True


def check(directory: str, sync: bool = True) -> int:
    """Walk all pages and rows of the store at `directory`; the bytes in use. DataLoss when it is damaged."""
    path = os.path.join(directory, DATA)
    ends, _, _ = journal.read(os.path.join(directory, JOURNAL))
    try:
        with Pages(path) as pages:
            faults = [*pages.faults]
            if not pages.size and not ends:
                return 0
            if not faults:
                faults = inspect(pages)
            meta = pages.meta
    except FileNotFoundError:
        if not ends:
            return 0
        faults, meta = ["data.mdb is not there"], None
    if not faults and sync and meta is not None and meta.txn < ends:
        faults = [f"it ends with transaction {meta.txn}, its journal with {ends}"]
    if faults:
        more = f" (and {len(faults) - 3} more)" if len(faults) > 3 else ""
        raise errors.DataLoss(
            f"opening metadata at {directory}: it is damaged: {'; '.join(faults[:3])}{more}; nothing was changed. "
            "holdd fsck tells more, holdd fsck --rebuild makes it anew, holdd restore takes a backup"
        )
    return 0 if meta is None else (meta.last + 1) * PAGE


def inspect(pages: Pages) -> list[str]:
    """What is wrong with the pages and the rows."""
    bad = []
    bare = False
    for key, stored in pages.rows():
        bare = bare or (key == VERSION_KEY and stored == UNSEALED)
        if not sealed.sound(key, stored):
            bad.append(f"row {sealed.name(key)}: its checksum differs")
    return pages.faults if bare else [*pages.faults, *bad]


VERSION_KEY = b"*\0schema\0version\0"
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


def lock(directory: str) -> int:
    """Make the store at `directory` ours while the descriptor is open. FailedPrecondition when it is another's."""
    path = os.path.join(directory, "daemon.lock")
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        holder = os.read(fd, 32).decode(errors="replace").strip()
        os.close(fd)
        raise errors.FailedPrecondition(
            f"opening metadata at {directory}: another daemon has it (pid {holder or 'unknown'})"
        ) from exc
    with contextlib.suppress(OSError):  # in place, for there may be no room for a new block
        os.pwrite(fd, b"%-20d\n" % os.getpid(), 0)
    return fd


def _tell(batch: list[Job], error: errors.Error) -> None:
    for _, commit in batch:
        commit.set_exception(error)
