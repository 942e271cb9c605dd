"""A machine that has a kernel, busybox and the two binaries: no libc, no Python, no runtime."""

import subprocess

import pytest

from spec.version import VERSION
from tests.frozen.image import archive_of
from tests.vm.cpio import Archive
from tests.vm.kernel import closure, debian
from tests.vm.lab import BOOT_SECONDS, CACHE, boot, make_disk

pytestmark = [pytest.mark.root, pytest.mark.vm]

INIT = """#!/busybox sh
/busybox mount -t proc proc /proc
/busybox mount -t sysfs sys /sys
/busybox mount -t devtmpfs dev /dev
/busybox mount -t tmpfs tmpfs /tmp
say() { echo "$@"; "$@" 2>&1; echo "exit $?"; }
say /holdd --root /tmp/no/root --state /tmp/no/state
say /busybox ls -A /tmp
for module in /modules/*; do /busybox insmod $module; done
/busybox mount -t cgroup2 cgroup2 /sys/fs/cgroup
say /holdd --selftest
/holdd --root /tmp/root --state /tmp/state --address /tmp/s >/tmp/log 2>&1 &
until /ctr -a /tmp/s version >/dev/null 2>&1; do /busybox sleep 1; done
say /ctr -a /tmp/s version
say /ctr -a /tmp/s images import /one.tar
say /ctr -a /tmp/s images check
say /ctr -a /tmp/s images mount one:1 /mnt
say /busybox cat /mnt/etc/passwd
say /ctr -a /tmp/s images unmount /mnt
/busybox cat /tmp/log
/busybox poweroff -f
"""


@pytest.fixture(scope="module")
def console(dist, tmp_path_factory):
    """What such a machine printed, by command."""
    where = tmp_path_factory.mktemp("vm")
    CACHE.mkdir(exist_ok=True)
    kernel = debian(CACHE)
    with (where / "initramfs").open("wb") as file:
        archive = Archive(file)
        for name in ("proc", "sys", "dev", "tmp", "mnt", "modules"):
            archive.directory(name)
        for number, path in enumerate(closure(kernel.modules, ("overlay",))):
            archive.copy(f"modules/{number:03}-{path.rpartition('/')[2]}", kernel.modules / path)
        for name in ("holdd", "ctr"):
            archive.copy(name, dist / name)
        archive.copy("busybox", "/bin/busybox")
        archive.copy("one.tar", archive_of(where, "one:1"))
        archive.data("init", INIT.encode(), 0o755)
        archive.close()
    make_disk(where / "disk")
    stopped = boot(kernel.image, where, BOOT_SECONDS, "rdinit=/init")
    said = "\n" + (where / "console").read_text(errors="replace").replace("\r", "")
    assert not stopped, said
    return said


def answer(console, command):
    """What a command printed, and its exit code."""
    assert f"\n{command}\n" in console, console
    output = console.partition(f"\n{command}\n")[2]
    text, _, rest = output.partition("exit ")
    return text, int(rest.split()[0])


def test_the_selftest(console):
    text, code = answer(console, "/holdd --selftest")
    assert code == 0, console
    assert "failed" not in text


def test_a_kernel_without_overlay(console):
    text, code = answer(console, "/holdd --root /tmp/no/root --state /tmp/no/state")
    assert (text.count("\n"), code) == (1, 1)
    assert text.startswith("holdd: default_snapshotter overlayfs: the kernel has no overlay; load its module, or")
    assert answer(console, "/busybox ls -A /tmp") == ("", 0)


def test_the_daemon_answers(console):
    text, code = answer(console, "/ctr -a /tmp/s version")
    assert code == 0
    assert text.count(f"Version:  {VERSION}") == 2


def test_an_image_comes_in_and_is_seen(console):
    for command in ("images import /one.tar", "images check", "images mount one:1 /mnt", "images unmount /mnt"):
        assert answer(console, f"/ctr -a /tmp/s {command}")[1] == 0, console
    assert answer(console, "/busybox cat /mnt/etc/passwd")[0].startswith("root:x:0:0")


def test_no_library_is_there(dist):
    for name in ("holdd", "ctr"):
        said = subprocess.run(["ldd", dist / name], capture_output=True, text=True, check=False)
        assert "statically linked" in said.stdout or "not a dynamic executable" in said.stderr
