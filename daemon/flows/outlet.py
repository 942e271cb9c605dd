"""Bytes to a descriptor of the caller's, who may stop reading or give up."""

import os
import select
import stat

from spec import errors
from spec.ports import Cancel

PIECE = select.PIPE_BUF  # what a pipe that can be written takes without blocking (pipe(7))
POLL_MS = 200  # how often one who waits for the reader looks whether he is still wanted


class Outlet:
    """Over `fd`, which stays the caller's; `doing` says in errors what is written."""

    def __init__(self, fd: int, doing: str, cancel: Cancel) -> None:
        self._fd = fd
        self._doing = doing
        self._cancel = cancel
        self._waits = not stat.S_ISREG(os.fstat(fd).st_mode)
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)

    def write(self, data: bytes | memoryview) -> None:
        """All of it. Canceled when it is no longer wanted."""
        view = memoryview(data)
        while view:
            self._cancel.check()
            if self._waits and not self._poll.poll(POLL_MS):
                continue
            try:
                view = view[os.write(self._fd, view[:PIECE] if self._waits else view) :]
            except BlockingIOError:
                continue
            except OSError as exc:
                raise errors.from_os(exc, self._doing) from exc
