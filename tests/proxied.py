"""Components in a process of their own, as an author of a proxy plugin would run one."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
START_S = 30.0


CONTENT = """
import sys
from daemon.content.local import LocalContent
from daemon.serve import serve
serve(sys.argv[1], content=LocalContent(sys.argv[2]))
"""

DIFFER = """
import os, sys
from daemon.client import connect
from daemon.client.proxies import RemoteContent
from daemon.diff.walking import WalkingDiffer
from daemon.kit import context
from daemon.serve import serve

class Differ:
    '''holdd's own, over the daemon's blobs; says what it was asked for.'''

    def _differ(self):
        client = connect(sys.argv[2], namespace=context.namespace())
        return WalkingDiffer(RemoteContent(client)), client

    def apply(self, layer, mounts, cancel=None):
        differ, client = self._differ()
        with client:
            applied = differ.apply(layer, mounts, cancel)
            self._say(f"apply {context.namespace()} {layer.digest}")
            return applied

    def compare(self, *args):
        differ, client = self._differ()
        with client:
            made = differ.compare(*args)
            self._say(f"compare {context.namespace()} {made.digest}")
            return made

    def sync(self, mounts):
        WalkingDiffer(None).sync(mounts)
        self._say("sync")

    def _say(self, text):
        with open(sys.argv[1] + ".said", "a") as file:
            file.write(text + "\\n")

serve(sys.argv[1], differ=Differ())
"""


class Proxied:
    """`daemon.serve` below `directory`. A context manager that ends it."""

    def __init__(self, directory):
        self.address = str(directory / "proxy.sock")
        self._argv = [sys.executable, *self._program(self.address, str(directory / "proxied"))]
        self.process = None

    def _program(self, address, root):
        return "-m", "daemon.serve", "--address", address, "--root", root, "overlayfs"

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


class ProxiedContent(Proxied):
    """A content store."""

    def _program(self, address, root):
        return "-c", CONTENT, address, root


class ProxiedDiffer(Proxied):
    """A differ over the blobs of the daemon at `daemon`. What it was asked for is in the file beside its socket."""

    def __init__(self, directory, daemon):
        self._daemon = daemon
        super().__init__(directory)

    def _program(self, address, root):
        return "-c", DIFFER, address, self._daemon

    def said(self):
        path = Path(f"{self.address}.said")
        return path.read_text().splitlines() if path.exists() else []
