"""Blobs on their way into the store: one thread writes a blob, others read it as it grows."""

import threading
from concurrent.futures import Future

from daemon.flows.crew import Turn
from spec import errors
from spec.oci.image import Descriptor
from spec.ports import BlobWriter, Cancel, ContentStore, Source, Tail

POLL_S = 0.2  # how often those who wait look whether they are still wanted


class Arrival:
    """One blob. What is read of it before `wait` has returned is not verified: it may be anything."""

    def __init__(self, descriptor: Descriptor, content: ContentStore) -> None:
        self.descriptor = descriptor
        self.begun: Future[None] = Future()  # there is something to read, or the blob's end is known
        self._content = content
        self._ended: Future[None] = Future()
        self._grown = threading.Condition()
        self._offset = 0
        self._tail: Tail | None = None
        self.is_second = False  # what was read before was wrong: it is to be read once more

    # For the one who brings it

    def begin(self, writer: BlobWriter, offset: int) -> None:
        """`offset` bytes are there from the start. A writer that lets nobody read is waited for, and so is one who
        begins again."""
        if self.is_second:
            return
        try:
            self._tail = writer.tail()
        except errors.Unimplemented:
            return
        self._offset = offset
        self.begun.set_result(None)

    def begin_again(self) -> None:
        """Nothing of what was there is right; who reads it hears so."""
        with self._grown:
            self.is_second = True
            self._grown.notify_all()

    def grow(self, offset: int) -> None:
        """So many bytes are there now."""
        with self._grown:
            self._offset = offset
            self._grown.notify_all()

    def end(self, failure: BaseException | None) -> None:
        """It is in the store, verified; or it never will be."""
        if failure is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(failure)
        with self._grown:
            self._grown.notify_all()
        if not self.begun.done():
            self.begun.set_result(None)

    def close(self) -> None:
        """Once nobody reads it any more."""
        if self._tail is not None:
            self._tail.close()

    # For those who wait for it

    def wait(self, cancel: Cancel) -> None:
        """Until it is in the store; raises what kept it from there."""
        failure = _outcome(self._ended, cancel)
        if failure is not None:
            raise failure

    def source(self, turn: Turn, cancel: Cancel) -> Source:
        """Its bytes, as they come. Whoever reads rests his `turn` while there are none."""
        if not self.begun.done():
            with turn.rest():
                _outcome(self.begun, cancel)
        if self._tail is not None and not self.is_second:
            return _Growing(self, self._tail, turn, cancel)
        self.wait(cancel)
        return self._content.reader(self.descriptor.digest)

    def reach(self, offset: int, cancel: Cancel) -> int:
        """Wait until more than `offset` bytes are there, or all; how many."""
        with self._grown:
            while True:
                if self.is_second:
                    raise errors.Canceled(f"reading {self.descriptor.digest}: it begins again")
                if self._offset > offset or self._offset >= self.descriptor.size:
                    return self._offset
                if self._ended.done():
                    raise errors.Canceled(f"reading {self.descriptor.digest}: it did not come whole")
                self._grown.wait(POLL_S)
                cancel.check()

    def has(self, offset: int) -> bool:
        """Whether `reach` would not wait."""
        return self.is_second or self._offset > offset or self._offset >= self.descriptor.size


def stored(descriptor: Descriptor, content: ContentStore) -> Arrival:
    """Of a blob that is in the store; waiting for one that never came, or was given up, is NotFound."""
    arrival = Arrival(descriptor, content)
    try:
        content.info(descriptor.digest)
    except errors.NotFound as exc:
        arrival.end(exc)
    else:
        arrival.end(None)
    return arrival


def _outcome(future: "Future[None]", cancel: Cancel) -> BaseException | None:
    """Wait for its end; what it failed with."""
    while True:
        try:
            return future.exception(POLL_S)
        except TimeoutError:
            cancel.check()


class _Growing:
    """A ports.Source over an arrival."""

    def __init__(self, arrival: Arrival, tail: Tail, turn: Turn, cancel: Cancel) -> None:
        self._arrival = arrival
        self._tail = tail
        self._turn = turn
        self._cancel = cancel
        self._offset = 0

    def read(self, size: int, /) -> bytes:
        buffer = memoryview(bytearray(size))
        return bytes(buffer[: self.readinto(buffer)])

    def readinto(self, buffer: memoryview, /) -> int:
        if not self._arrival.has(self._offset):
            with self._turn.rest():
                self._arrival.reach(self._offset, self._cancel)
        there = self._arrival.reach(self._offset, self._cancel)
        if there == self._offset:
            return 0
        got = self._tail.preadinto(buffer[: there - self._offset], self._offset)
        if not got:
            raise errors.Canceled(f"reading {self._arrival.descriptor.digest}: what came of it was dropped")
        self._offset += got
        return got

    def close(self) -> None:
        """The tail is the arrival's."""
