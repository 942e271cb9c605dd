"""A virtual machine for tests that need another kernel or every cgroup v2 controller: boots, runs them, is gone.

`Lab(cache).run(args)` starts pytest with `args` in a guest and returns what it said. The guest has two processors of
software emulation, no network, an ext4 of its own at /scratch, and all controllers of one cgroup v2 hierarchy.
"""

import json
import os
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests.vm import initramfs
from tests.vm.cpio import Archive
from tests.vm.kernel import debian
from tests.vm.report import RESULTS

CACHE = initramfs.REPOSITORY / ".vm"
ACCELERATOR = "HOLDD_VM_ACCELERATOR"  # in the environment: another than emulation, such as kvm
BOOT_SECONDS = 900  # four times what it takes on two idle processors
BOOTS = 2  # when the processors come to a stand in the kernel: under emulation they do once in some hundred boots
STUCK = "soft lockup"  # what the kernel says then (Documentation/admin-guide/lockup-watchdogs.rst)
MEMORY_MB = 2560
DISK_MB = 2048
TAIL = 60  # lines of the console that a failure shows
COMMAND_LINE = "console=ttyS0 quiet panic=-1 oops=panic hugepages=4 apparmor=0 cgroup_no_v1=all"
WATCHDOG = "softlockup_panic=1 watchdog_thresh=60"  # twice as many seconds


class Result(NamedTuple):
    """Of one guest test; `text` is why it failed or was skipped."""

    id: str
    outcome: str
    seconds: float
    text: str


class Answer(NamedTuple):
    """`done` is pytest's exit code, None when the guest ended before it; `console` all that the guest printed."""

    results: list[Result]
    done: int | None
    console: str

    def tail(self):
        return "\n".join(self.console.splitlines()[-TAIL:])


class Lab:
    """`options` come last on the kernel's command line."""

    def __init__(self, kernel=None, cache=CACHE, options=""):
        self._options = options
        self._cache = Path(cache)
        self._cache.mkdir(exist_ok=True)
        self._kernel = kernel or debian(self._cache)

    def run(self, args, seconds=BOOT_SECONDS):
        """Boot, run pytest with `args`, and turn off; the Answer, whatever became of it."""
        for _ in range(BOOTS):
            answer = self._run(args, seconds)
            if STUCK not in answer.console:
                break
            print(f"the guest's processors came to a stand:\n{answer.tail()}")
        return answer

    def _run(self, args, seconds):
        with tempfile.TemporaryDirectory(prefix="holdd-vm-") as directory:
            where = Path(directory)
            with open(where / "initramfs", "wb") as file:
                initramfs.write(self._kernel, self._cache, file)
                archive = Archive(file)
                archive.data("order", order(args).encode())
                archive.close()
            make_disk(where / "disk")
            timed_out = boot(self._kernel.image, where, seconds, self._options)
            console = (where / "console").read_text(errors="replace")
            if timed_out:
                console += f"\nthe guest had not ended after {seconds} s"
            return read(where / "results", console)


def order(args):
    """What the guest's first process is to do, for its shell."""
    python = shlex.quote(str(initramfs.VENV / "bin/python"))
    options = "-v --no-header --color=no -p no:cacheprovider -p tests.vm.report --basetemp=/scratch/t"
    return (
        f"cd {shlex.quote(str(initramfs.REPOSITORY))}\n"
        f"export {RESULTS}=/dev/ttyS1 PYTHONDONTWRITEBYTECODE=1\n"
        f"{python} -m pytest {options} {shlex.join(args)}\n"
    )


def make_disk(path):
    with open(path, "wb") as file:
        os.truncate(file.fileno(), DISK_MB << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", path], check=True)


def boot(image, where, seconds, options):
    """Run the machine until it turns itself off; whether it had to be stopped."""
    argv = [
        "qemu-system-x86_64",
        *("-accel", os.environ.get(ACCELERATOR, "tcg,thread=multi")),
        *("-machine", "q35", "-smp", "2", "-m", str(MEMORY_MB)),
        *("-nodefaults", "-no-user-config", "-display", "none", "-nic", "none", "-no-reboot"),
        *("-kernel", image, "-initrd", where / "initramfs", "-append", f"{COMMAND_LINE} {WATCHDOG} {options}"),
        *("-serial", f"file:{where / 'console'}", "-serial", f"file:{where / 'results'}"),
        *("-drive", f"file={where / 'disk'},if=virtio,format=raw,cache=unsafe"),
    ]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as machine:
        try:
            machine.wait(seconds)
        except subprocess.TimeoutExpired:
            machine.kill()
            return True
        finally:
            said = machine.stderr.read()
    if machine.returncode:
        raise RuntimeError(f"{argv[0]} ended with {machine.returncode}: {said}")
    return False


def read(path, console):
    results, done = [], None
    for line in path.read_text(errors="replace").splitlines():
        try:
            said = json.loads(line)
        except ValueError:
            continue  # cut short by a crash
        if "done" in said:
            done = said["done"]
        else:
            results.append(Result(**said))
    return Answer(results, done, console)
