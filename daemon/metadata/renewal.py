"""A journal that is written anew while commits go on: a large store's takes longer than a commit may wait.

A thread writes all rows, as of the transaction that it began with, into a file beside, and what the journal has had
since; the writer, when it comes by next, adds the rest and puts it in the journal's place. LMDB forbids its map to grow
while a view is open: then the thread gives up, and the journal grows on until the next try.
"""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager

import lmdb

from daemon.metadata import journal
from daemon.metadata.journal import Journal

PART, PAUSE_S = 256, 0.0005  # rows, and then a pause: who waits for the interpreter waits for no more
LITTLE, ROUNDS = 1 << 16, 8  # bytes that the writer may add, and how often the thread tries to leave it no more

log = logging.getLogger(__name__)

Rows = Iterator[tuple[bytes, bytes]]


class Renewal:
    """Of `target`, whose last transaction is the one that `view` is opened on, here. Its rows are read on another
    thread, until they are `unwanted`. RuntimeError when there can be none."""

    def __init__(
        self, target: Journal, view: AbstractContextManager[tuple[int, Rows]], unwanted: Callable[[], bool]
    ) -> None:
        self._journal = target
        self._since = target.size
        self._unwanted = unwanted
        self._stop = False
        self._size = 0
        self._old_fd = -1
        self._written = threading.Event()
        self._seen = threading.Event()
        self._undo = contextlib.ExitStack()
        self._txn, self._rows = self._undo.enter_context(view)
        self._thread = threading.Thread(target=self._work, name="metadata-journal", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # no room for its stack
            self._undo.close()
            raise

    def finish(self) -> bool:
        """Put it in place, if it is done; whether there is nothing left to do."""
        if self._written.is_set() and not self._seen.is_set():
            self._old_fd = self._journal.replace(self._size, self._since) if self._size else -1
            self._seen.set()
        if self._thread.is_alive():
            return False
        self._thread.join()
        return True

    def abandon(self) -> None:
        self._stop = True
        self._seen.set()
        self._thread.join()
        journal.forget(self._journal.path)

    def _work(self) -> None:
        try:
            with contextlib.closing(self._gently()) as rows:
                size = journal.draft(self._journal.path, self._txn, rows)
            self._size = size + self._caught_up()
        except (OSError, lmdb.Error) as exc:
            log.warning("writing %s anew: %s", self._journal.path, exc)
            journal.forget(self._journal.path)
        except _Unwanted:
            pass
        self._written.set()
        self._seen.wait()
        if self._old_fd >= 0:
            os.close(self._old_fd)

    def _caught_up(self) -> int:
        """The bytes that were added of the journal, which grows on meanwhile."""
        began = self._since
        for _ in range(ROUNDS):
            until = self._journal.size
            if until - self._since <= LITTLE:
                break
            journal.catch_up(self._journal.path, self._since, until)
            self._since = until
        return self._since - began

    def _gently(self) -> Generator[tuple[bytes, bytes], None, None]:
        with self._undo:
            for number, row in enumerate(self._rows):
                if number % PART == 0:
                    if self._stop or self._unwanted():
                        raise _Unwanted
                    time.sleep(PAUSE_S)
                yield row


class _Unwanted(Exception):
    """The view has to go."""
