"""A Debian that boots with systemd and the package installed: its units start, restart, stop and are socket-activated,
and what runs, runs on. One boot, in which a list of steps is typed."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from spec.version import VERSION
from tests.frozen.image import archive_of
from tests.machine import Machine, bootstrap
from tests.packaging import PACKAGING
from tests.vm.cpio import Archive
from tests.vm.kernel import closure, debian
from tests.vm.lab import BOOT_SECONDS, CACHE, DISK_MB, boot

pytestmark = [pytest.mark.root, pytest.mark.vm]

MODULES = ("virtio_pci", "virtio_blk")
INIT = """#!/busybox sh
/busybox mount -t devtmpfs dev /dev
for module in /modules/*; do /busybox insmod $module; done
until [ -b /dev/vda ]; do /busybox sleep 0.1; done
/busybox mount -t ext4 /dev/vda /root
/busybox mount --move /dev /root/dev
exec /busybox switch_root /root /sbin/init
"""
UNIT = """[Unit]
Description=what is typed
[Service]
ExecStart=/bin/bash /typed
StandardOutput=file:/dev/ttyS1
StandardError=inherit
Environment=HOME=/root
[Install]
WantedBy=multi-user.target
"""
WAIT = "until ctr version >/dev/null 2>&1; do sleep 0.5; done"
COMM = "cat /proc/$(cat /run/holdd/tasks/default/c/init.pid)/comm"
PID = "ctr tasks ls | awk '$1 == \"c\" {print $2, $3}'"
STEPS = {
    "at the boot": f"{WAIT}; systemctl is-enabled holdd; systemctl is-active holdd; systemctl show -p Type holdd",
    "version": "ctr version",
    "import": "ctr images import /root/one.tar | cat",
    "run": f"ctr run -d one:1 c /bin/sleep 1000; {PID}",
    "restart": f"systemctl restart holdd; {PID}",
    "exec": "ctr tasks exec --exec-id a c /bin/echo inside",
    "reload": "systemctl reload holdd && systemctl is-active holdd",
    "kill": f"systemctl kill -s KILL --kill-who=main holdd; sleep 1; {WAIT}; systemctl show -p NRestarts holdd; {PID}",
    "upgrade": f"dpkg -i /root/holdd.deb >/dev/null && {WAIT} && systemctl is-active holdd; {PID}",
    "remove too early": "dpkg -r holdd",
    "stop": f"systemctl stop holdd; systemctl is-active holdd; {COMM}",
    "socket": f"systemctl start holdd.socket; systemctl is-active holdd; {PID}; systemctl is-active holdd",
    "end": "ctr tasks kill -s KILL c; ctr tasks wait c",
    "clean": "ctr tasks rm c; ctr containers rm c",
    "warnings": "journalctl -u holdd -o cat --no-pager | grep -i -e warn -e error | grep -v CVE-",
    "remove": "dpkg -r holdd >/dev/null; systemctl is-active holdd; grep holdd /proc/mounts; pidof holdd holdd-shim",
    "journal": "journalctl -u holdd -o cat --no-pager",
}


def typed():
    steps = [f"echo '## {name}'\n{{ {line}\n}} 2>&1\necho \"## exit $?\"" for name, line in STEPS.items()]
    return "\n".join(["stty -F /dev/ttyS1 -opost", *steps, "systemctl poweroff --force --force", ""])


@pytest.fixture(scope="module")
def disk(dist, tmp_path_factory):
    """An ext4 with such a Debian."""
    if shutil.which("debootstrap") is None:
        pytest.skip("no debootstrap")
    where = tmp_path_factory.mktemp("systemd")
    CACHE.mkdir(exist_ok=True)
    modules = debian(CACHE).modules
    machine = Machine(bootstrap("bookworm", where / "base"), where / "machine")
    argv = [sys.executable, PACKAGING / "dist.py", "--binaries", dist, "deb", where]
    made = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()
    shutil.copy(made, machine.root / "root/holdd.deb")
    shutil.copy(archive_of(where, "one:1"), machine.root / "root/one.tar")
    for path in closure(modules, ("overlay",)):
        target = machine.root / "lib/modules" / modules.name / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(modules / path, target)
    machine.run(
        "set -e; apt-get update -q; apt-get install -y -q --no-install-recommends systemd systemd-sysv kmod runc; "
        f"depmod {modules.name}; dpkg -i /root/holdd.deb; apt-get clean"
    )
    (machine.root / "typed").write_text(typed())
    (machine.root / "etc/systemd/system/typed.service").write_text(UNIT)
    machine.run("systemctl enable typed.service")
    with open(where / "disk", "wb") as file:
        os.truncate(file.fileno(), DISK_MB << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-d", machine.root, where / "disk"], check=True)
    return where


@pytest.fixture(scope="module")
def steps(disk):
    """What was printed at each step, and its exit code."""
    kernel = debian(CACHE)
    with (disk / "initramfs").open("wb") as file:
        archive = Archive(file)
        for name in ("dev", "root", "modules"):
            archive.directory(name)
        for number, path in enumerate(closure(kernel.modules, MODULES)):
            archive.copy(f"modules/{number:03}-{path.rpartition('/')[2]}", kernel.modules / path)
        archive.copy("busybox", "/bin/busybox")
        archive.data("init", INIT.encode(), 0o755)
        archive.close()
    stopped = boot(kernel.image, disk, BOOT_SECONDS, "rdinit=/init systemd.show_status=no")
    said = (disk / "results").read_text(errors="replace").replace("\r", "")
    found = re.findall(r"^## (.+)\n((?:(?!## ).*\n)*)## exit (\d+)$", said, re.MULTILINE)
    assert not stopped, said + (disk / "console").read_text(errors="replace")
    return {name: (text.split("\n")[:-1], int(code)) for name, text, code in found}


def test_everything_was_typed(steps):
    assert list(steps) == list(STEPS)


def test_the_package_starts_it_with_the_machine(steps):
    assert steps["at the boot"] == (["enabled", "active", "Type=notify"], 0)
    assert steps["version"][1] == 0
    assert "\n".join(steps["version"][0]).count(f"Version:  {VERSION}") == 2


def test_a_container_survives_what_is_done_to_the_unit(steps):
    """Restart, reload, death, an upgrade of the package, stop, and a start by the socket."""
    assert steps["import"][1] == steps["run"][1] == 0, steps
    runs = steps["run"][0][-1]
    assert re.fullmatch(r"\d+ RUNNING", runs)
    assert steps["restart"] == ([runs], 0)
    assert steps["exec"] == (["inside"], 0)
    assert steps["reload"] == (["active"], 0)
    assert steps["kill"] == (["NRestarts=1", runs], 0)
    assert steps["upgrade"] == (["active", runs], 0)
    assert steps["stop"] == (["inactive", "sleep"], 0)
    assert steps["socket"] == (["inactive", runs, "active"], 0)
    assert steps["end"][1] == 137


def test_the_package_goes_when_nothing_runs_and_leaves_nothing(steps):
    text, code = steps["remove too early"]
    assert code != 0
    assert any("not removed, for these containers run: default/c" in line for line in text), text
    assert steps["clean"][1] == 0
    assert steps["remove"] == (["inactive"], 1)


def test_the_journal_has_no_warning(steps):
    assert steps["warnings"] == ([], 1), steps["journal"][0]
