"""A journal that is written anew while commits go on: a large store's takes longer than a commit may wait.

A thread writes all rows, as of the transaction that it began with, into a file beside; the writer, when it comes by
next, adds what the journal has had since and puts it in the journal's place. LMDB forbids its map to grow while a view
is open: then the thread gives up, and the journal grows on until the next try.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager

import lmdb

from daemon.metadata import journal
from daemon.metadata.journal import Journal

PART, PAUSE_S = 256, 0.0005  # rows, and then a pause: who waits for the interpreter waits for no more

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
        if self._thread.is_alive():
            return False
        self._thread.join()
        if self._size:
            self._journal.replace(self._size, self._since)
        return True

    def abandon(self) -> None:
        self._stop = True
        self._thread.join()
        journal.forget(self._journal.path)

    def _work(self) -> None:
        try:
            with contextlib.closing(self._gently()) as rows:
                self._size = journal.draft(self._journal.path, self._txn, rows)
        except (OSError, lmdb.Error) as exc:
            log.warning("writing %s anew: %s", self._journal.path, exc)
        except _Unwanted:
            pass

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
