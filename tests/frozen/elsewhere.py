"""A root filesystem that has next to nothing: holdd, ctr, /proc, /tmp and /dev/null, and what a test adds."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

# Its arguments: the new root, which is made of a tmpfs, the directory of what is in it, and a command to become there.
ENTER = """set -e
busybox=$1 new=$2 wanted=$3
shift 3
$busybox mount -t tmpfs -o mode=755 tmpfs $new
cd $new
$busybox cp -R $wanted/. .
$busybox mkdir -p proc tmp dev old
$busybox mknod dev/null c 1 3
$busybox chmod 666 dev/null
$busybox mount -t proc proc proc
if [ -d sys ]; then $busybox mount --rbind /sys sys; fi
$busybox pivot_root . old
cd /
/old$busybox umount -l /old
exec "$@"
"""
BUSYBOX = "/bin/busybox"
NOT_OF_THE_TEST = ("/proc", "/sys", "/tmp/root", "/tmp/state")
START_S = 30.0


class Elsewhere:
    """`dist`'s binaries in a root below `directory`, in which the daemon runs. A context manager; `programs` are taken
    along, with the libraries that they are linked with."""

    def __init__(self, directory, dist, programs=()):
        self.log = Path(directory, "log")
        self._dist, self._programs = dist, programs
        self._new, self._wanted = Path(directory, "new"), Path(directory, "wanted")
        self.process = None

    def __enter__(self):
        self._new.mkdir()
        self._wanted.mkdir()
        for name in ("holdd", "ctr"):
            shutil.copy(self._dist / name, self._wanted)
        for program in self._programs:
            for path in (program, *linked(program)):
                target = self._wanted / path.lstrip("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)
        if self._programs:
            (self._wanted / "sys").mkdir()
        serve = ["/holdd", "--root", "/tmp/root", "--state", "/tmp/state", "--address", "/tmp/holdd.sock"]
        argv = ["unshare", "-m", "--propagation", "private", BUSYBOX, "sh", "-c", ENTER, "sh", BUSYBOX]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*argv, self._new, self._wanted, *serve], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={"PATH": "/usr/sbin:/usr/bin:/bin"},
            )  # fmt: skip
        deadline = time.monotonic() + START_S
        while self.ctr("version", check=False).returncode:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)
        return self

    @property
    def root(self):
        """The root, as it is seen from here."""
        return Path(f"/proc/{self.process.pid}/root")

    def ctr(self, *args, check=True):
        argv = ["nsenter", "-t", str(self.process.pid), "--mount", "--root", "/ctr", "-a", "/tmp/holdd.sock"]
        done = subprocess.run(
            [*argv, *args], capture_output=True, text=True, timeout=60, env={"PATH": "/usr/bin"}, check=False
        )
        assert not check or done.returncode == 0, done.stderr + self.log.read_text()
        return done

    def files(self):
        """All regular files there, but for what the daemon keeps."""
        found = []
        for folder, folders, files in os.walk(self.root):
            here = "/" + os.path.relpath(folder, self.root).lstrip(".")
            folders[:] = [name for name in folders if os.path.join(here, name) not in NOT_OF_THE_TEST]
            found += [os.path.join(here, name) for name in files]
        return sorted(found)

    def __exit__(self, *exc):
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)


def linked(program):
    """The shared libraries of a program, and what loads them."""
    said = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    words = [word for line in said.splitlines() for word in line.split()]
    return [word for word in words if word.startswith("/")]
