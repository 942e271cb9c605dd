"""A snapshotter in a process of its own, as an author of a proxy plugin would run one."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
START_S = 30.0


class Proxied:
    """`daemon.serve` below `directory`. A context manager that ends it."""

    def __init__(self, directory, id="overlayfs"):
        self.address = str(directory / "proxy.sock")
        self._argv = [sys.executable, "-m", "daemon.serve", "--address", self.address]
        self._argv += ["--root", str(directory / "proxied"), id]
        self.process = None

    def start(self):
        self.process = subprocess.Popen(self._argv, cwd=REPOSITORY, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + START_S
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self._argv} did not start")
            time.sleep(0.005)

    def _answers(self):
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(self.address) == 0

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        """SIGTERM; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(START_S)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exc):
        if self.process.poll() is None:
            assert self.stop() == 0
