"""Bare machines: Debian as debootstrap leaves it, as the root of a process tree with mounts of its own. The kernel, the
network and the cgroups are this host's."""

import os
import shutil
import subprocess
from pathlib import Path

READY = "HOLDD_BARE_"  # and a suite's name: a directory that debootstrap has made before
ENTER = """
set -e
mount --bind "$1" "$1"
cd "$1"
mount -t proc proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mount -t tmpfs -o mode=755 tmpfs run
mkdir -p .host
pivot_root . .host
cd /
umount -l /.host
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
exec env -i PATH=$PATH HOME=/root DEBIAN_FRONTEND=noninteractive bash -c "$2"
"""


def bootstrap(suite, directory):
    """The root of a `suite` of Debian, which is not to be changed."""
    ready = os.environ.get(READY + suite.upper())
    if ready:
        return Path(ready)
    argv = ["debootstrap", "--variant=minbase", suite, directory, _mirror()]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"debootstrap {suite}: {done.stdout[-2000:]}{done.stderr}")
    return Path(directory)


class Machine:
    """A copy of `base` at `directory`."""

    def __init__(self, base, directory):
        self.root = Path(directory)
        subprocess.run(["cp", "-a", "--reflink=auto", f"{base}/.", self.root], check=True)
        shutil.copy("/etc/resolv.conf", self.root / "etc/resolv.conf")

    def run(self, script, timeout=600):
        """Run a bash script in it; its output, both streams. What it leaves running ends with it."""
        argv = ["unshare", "-m", "-p", "-f", "--kill-child", "--propagation", "private", "sh", "-c", ENTER, "sh"]
        done = subprocess.run(
            [*argv, self.root, script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=timeout, check=False,
        )  # fmt: skip
        if done.returncode:
            raise AssertionError(f"{done.returncode}: {done.stdout}")
        return done.stdout


def _mirror():
    """The one that this host's own packages are from."""
    with open("/etc/os-release") as release:
        (suite,) = [line.strip().partition("=")[2] for line in release if line.startswith("VERSION_CODENAME=")]
    argv = ["apt-get", "indextargets", "--format", "$(SITE) $(CODENAME)", "Created-By: Packages"]
    lines = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
    return next(site for site, name in map(str.split, lines) if name == suite)
