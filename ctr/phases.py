"""Tells what a command is busy with, once that takes long enough for somebody to wonder."""

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    import threading

SLOW_SECONDS = 1.0


class Phases:
    """Lines on `stream`: what goes on after `slow_s` seconds and each time the time has doubled, and how long it took.

    A phase that is quick says nothing, and none does where nobody watches: what a script reads is its container's.
    """

    def __init__(self, stream: TextIO, slow_s: float = SLOW_SECONDS) -> None:
        self._stream = stream
        self._slow_s = slow_s

    @contextlib.contextmanager
    def phase(self, doing: str) -> Iterator[None]:
        """`doing` is a present participle: "preparing the snapshot"."""
        if not self._stream.isatty():
            yield
            return
        import threading

        ended = threading.Event()
        started = time.monotonic()
        watcher = threading.Thread(target=self._watch, args=(doing, ended, started), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()

    def _watch(self, doing: str, ended: "threading.Event", started: float) -> None:
        wait = self._slow_s
        slow = False
        while not ended.wait(wait):
            slow = True
            self._tell(f"{doing}: {time.monotonic() - started:.1f} s so far")
            wait = max(time.monotonic() - started, self._slow_s)
        if slow:
            self._tell(f"{doing}: took {time.monotonic() - started:.1f} s")

    def _tell(self, text: str) -> None:
        with contextlib.suppress(OSError):  # nobody reads it
            self._stream.write(f"ctr: {text}\n")
            self._stream.flush()
