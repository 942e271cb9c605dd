"""Programs that say whether an image may be used: those of a directory, as containerd calls them.

Each is run with `-name REFERENCE -digest DIGEST -stdin-media-type application/vnd.oci.descriptor.v1+json` and the
descriptor on its standard input. Exit status 0 lets the image pass, any other does not, and what it printed is why.
"""

import logging
import os
import select
import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress

from daemon.kit.spawn import end, spawn
from spec import errors
from spec.base import to_json
from spec.oci.image import Descriptor
from spec.ports import Cancel

log = logging.getLogger(__name__)

INPUT_TYPE = "application/vnd.oci.descriptor.v1+json"
LIMIT = 32 << 10  # bytes of what a verifier prints that are kept
PIECE = 64 << 10
LOOK_S = 0.2  # how often one that is silent is asked for whether anybody still wants it


class BinDir:
    """A ports.ImageVerifier: the programs of `bin_dir`, in order of their names, of which the first that rejects an
    image decides. `max_verifiers` of them are asked, all when it is negative; a directory that is not there lets all
    pass."""

    def __init__(self, bin_dir: str, max_verifiers: int, per_verifier_timeout_s: float) -> None:
        self._directory = bin_dir
        self._most = max_verifiers
        self._timeout_s = per_verifier_timeout_s

    def verify(self, name: str, target: Descriptor, cancel: Cancel | None = None) -> None:
        """FailedPrecondition when one comes to no verdict: that is no pass."""
        found = self._programs()
        chosen = found if self._most < 0 else found[: self._most]
        if len(chosen) < len(found):
            log.warning("image verifiers not asked, for there are more than %d: %s", self._most, found[len(chosen) :])
        for program in chosen:
            self._ask(program, name, target, cancel)

    def _programs(self) -> Sequence[str]:
        try:
            return sorted(os.listdir(self._directory))
        except FileNotFoundError:
            return ()
        except OSError as exc:
            raise errors.from_os(exc, f"reading the image verifiers of {self._directory}") from exc

    def _ask(self, program: str, name: str, target: Descriptor, cancel: Cancel | None) -> None:
        doing = f"image verifier {program}: {name} ({target.digest})"
        argv = [os.path.join(self._directory, program)]
        argv += ["-name", name, "-digest", target.digest, "-stdin-media-type", INPUT_TYPE]
        try:
            run = _Run(argv, to_json(target))
        except OSError as exc:
            raise errors.FailedPrecondition(f"{doing}: it cannot be run: {exc.strerror}") from exc
        try:
            in_time = run.wait(self._timeout_s, cancel)
        finally:
            run.close()
        if run.err:
            log.debug("%s: %s", doing, _text(run.err))
        said = f": {_text(run.out)}" if run.out.strip() else ""
        if not in_time:
            raise errors.FailedPrecondition(f"{doing}: no verdict within {self._timeout_s:g} s{said}")
        if run.status < 0:
            raise errors.FailedPrecondition(f"{doing}: no verdict: {signal.strsignal(-run.status)}{said}")
        if run.status:
            raise errors.PermissionDenied(f"{doing}: rejected{said or f' with exit status {run.status}'}")
        log.info("%s: passed%s", doing, said)


class _Run:
    """One program at work. OSError when it cannot be started."""

    def __init__(self, argv: Sequence[str], given: bytes) -> None:
        self.out, self.err, self.status = b"", b"", 0
        with ExitStack() as mine, ExitStack() as its:
            source = _open(its, os.memfd_create("stdin", os.MFD_CLOEXEC))
            os.write(source, given)
            os.lseek(source, 0, os.SEEK_SET)
            self._out, out = _pipe(mine, its)
            self._err, err = _pipe(mine, its)
            pid = spawn(argv, os.environ, (source, out, err))
            mine.callback(self._end, pid)
            self._pidfd = _open(mine, os.pidfd_open(pid))
            self._held = mine.pop_all()

    def wait(self, timeout_s: float, cancel: Cancel | None) -> bool:
        """Whether it has ended in time; what it left to others to print is not waited for."""
        until = time.monotonic() + timeout_s
        poll = select.poll()
        for fd in (self._out, self._err, self._pidfd):
            poll.register(fd, select.POLLIN)
        while (left := until - time.monotonic()) > 0:
            if cancel is not None:
                cancel.check()
            ready = {fd for fd, _ in poll.poll(min(left, LOOK_S) * 1000)}
            if self._pidfd in ready:
                for fd in (self._out, self._err):  # at most what a pipe holds
                    os.set_blocking(fd, False)
                    with suppress(BlockingIOError):
                        self._listen(fd)
                return True
            for fd in ready:
                if not self._listen(fd):
                    poll.unregister(fd)
        return False

    def close(self) -> None:
        """Ended, with all it started."""
        self._held.close()

    def _listen(self, fd: int) -> bool:
        """Whether it may say more."""
        data = os.read(fd, PIECE)
        if fd == self._out:
            self.out = (self.out + data)[:LIMIT]
        else:
            self.err = (self.err + data)[:LIMIT]
        return bool(data)

    def _end(self, pid: int) -> None:
        self.status = end(pid)


def _pipe(ours: ExitStack, theirs: ExitStack) -> tuple[int, int]:
    """Its ends, to read from and to write to."""
    reading, writing = os.pipe()
    return _open(ours, reading), _open(theirs, writing)


def _open(stack: ExitStack, fd: int) -> int:
    stack.callback(os.close, fd)
    return fd


def _text(words: bytes) -> str:
    """On one line, and without what a terminal would obey."""
    text = " ".join(words.decode(errors="replace").split())
    return "".join(character if character.isprintable() else "?" for character in text)
