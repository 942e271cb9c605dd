"""A private daemon for tests and benchmarks: its own root, state and socket, a real process."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from daemon.client import connect
from spec import errors
from spec.api.version import VersionRequest
from tests import cgroups

# Where holdd and ctr are: the source's, or the frozen ones (`make test-frozen`).
BIN = Path(os.environ.get("HOLDD_TEST_BIN") or Path(sys.executable).parent).absolute()
START_S = 30.0


@contextlib.contextmanager
def passable():
    """A directory that the mapped root of a container may walk through, as /run is."""
    directory = tempfile.mkdtemp(prefix="holdd-test-", dir="/run")
    os.chmod(directory, 0o711)
    try:
        yield Path(directory)
    finally:
        shutil.rmtree(directory)


class Daemon:
    """`holdd` below `directory`. A context manager: what it ran is ended with it."""

    def __init__(self, directory, config="", binaries=BIN):
        self.binaries = binaries
        self.directory = Path(directory)
        self.root = self.directory / "root"
        self.state = self.directory / "state"
        self.address = str(self.state / "holdd.sock")
        self.log = self.directory / "holdd.log"
        self.config = self.directory / "config.toml"
        self.config.write_text(config)
        self.process = None

    def start(self, under=(), **options):
        """Start it and wait for its first answer. `under` is a command that executes what follows it."""
        argv = [*under, self.binaries / "holdd", "--config", self.config, "--root", self.root, "--state", self.state]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **options)
        deadline = time.monotonic() + START_S
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"holdd did not start: {self.log.read_text()}")
            time.sleep(0.005)
        return self

    def answers(self):
        with contextlib.suppress(errors.Unavailable), self.client() as client:
            client.version.version(VersionRequest())
            return True
        return False

    def says(self, text):
        """Wait until it has logged `text`."""
        deadline = time.monotonic() + START_S
        while text not in self.log.read_text():
            if time.monotonic() > deadline:
                raise AssertionError(f"holdd did not say {text!r}: {self.log.read_text()}")
            time.sleep(0.005)

    def client(self, namespace="default"):
        return connect(self.address, namespace=namespace)

    def ctr(self, *args, check=True, namespace="default", **options):
        """Run ctr against it; the finished process, with its output as text."""
        argv = [self.binaries / "ctr", "--address", self.address, "--namespace", namespace, *map(str, args)]
        options = {"capture_output": True, "text": True, "timeout": 120, "stdin": subprocess.DEVNULL} | options
        done = subprocess.run(argv, check=False, **options)
        if check and done.returncode:
            raise AssertionError(f"ctr {' '.join(map(str, args))}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def kill(self):
        """kill -9, as a power user or the OOM killer would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        """SIGTERM; what runs, runs on."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(30)

    def __enter__(self):
        return self.start()

    def __exit__(self, *exc):
        if self.process.poll() is not None:
            self.start()
        namespaces = self.namespaces()
        for namespace in namespaces:
            self.end_everything(namespace)
        self.stop()
        for namespace in namespaces:
            cgroups.remove(namespace)
        if os.path.ismount(self.state):
            raise AssertionError(f"{self.state} is still mounted: {self.log.read_text()}")

    def namespaces(self):
        tasks = self.state / "tasks"
        return sorted(os.listdir(tasks)) if tasks.exists() else []

    def end_everything(self, namespace):
        """Kill and delete all tasks of a namespace."""
        from spec.api import tasks as api

        with self.client(namespace) as client:
            for process in client.tasks.list(api.ListRequest()).tasks:
                with contextlib.suppress(errors.NotFound, errors.FailedPrecondition):
                    client.tasks.kill(api.KillRequest(container_id=process.container_id, signal=9, all=True))
                client.tasks.wait(api.WaitRequest(container_id=process.container_id))
                client.tasks.delete(api.DeleteRequest(container_id=process.container_id))
