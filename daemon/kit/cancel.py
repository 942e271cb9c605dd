"""Cancellation tokens: long work looks at one between chunks."""

import threading
import time

from spec import errors


class Token:
    """Satisfies ports.Cancel. Cancelling a token cancels those made below it; so does its deadline.

    `deadline_ns` is of the monotonic clock, 0 for none.
    """

    def __init__(self, deadline_ns: int = 0, parent: "Token | None" = None) -> None:
        self._deadline_ns = deadline_ns
        self._parent = parent
        self._lock = threading.Lock()
        self._reason: str | None = None

    def child(self, deadline_ns: int = 0) -> "Token":
        """One for a part of the work: it ends with this one, and can end alone."""
        return Token(deadline_ns, self)

    def cancel(self, reason: str = "the work was cancelled") -> None:
        """From any thread, any number of times; the first reason counts."""
        with self._lock:
            if self._reason is None:
                self._reason = reason

    def check(self) -> None:
        """Raise Canceled or DeadlineExceeded when the work is no longer wanted."""
        if self._reason is not None:
            raise errors.Canceled(self._reason)
        if self._deadline_ns and time.monotonic_ns() >= self._deadline_ns:
            raise errors.DeadlineExceeded("the work took longer than its deadline")
        if self._parent is not None:
            self._parent.check()

    @property
    def cancelled(self) -> bool:
        try:
            self.check()
        except errors.Error:
            return True
        return False

    @property
    def deadline_ns(self) -> int:
        """The first deadline of this token and those above it, 0 for none."""
        above = self._parent.deadline_ns if self._parent is not None else 0
        return min(filter(None, (self._deadline_ns, above)), default=0)
