"""The default AppArmor profile: loaded by ctr, and what a container that may do everything else may not do under it."""

from pathlib import Path

import pytest

from ctr.apparmor import ENABLED, LOADED

pytestmark = pytest.mark.root

NAME = "holdd-default"
PRIVILEGED = ("run", "--rm", "--privileged", "--privileged-without-host-devices", "--rootfs")


@pytest.fixture(autouse=True)
def enabled():
    if not Path(ENABLED).exists() or Path(ENABLED).read_text() != "Y\n":
        pytest.skip("AppArmor is switched off in this guest")


def shell(daemon, rootfs, script, *flags):
    return daemon.ctr(*PRIVILEGED[:-1], *flags, "--rootfs", rootfs.source, "c", "/bin/sh", "-c", script, check=False)


def test_it_is_loaded_once_and_enforced(daemon, rootfs):
    for _ in range(2):
        done = shell(daemon, rootfs, "cat /proc/self/attr/current", "--apparmor-default-profile", NAME)
        assert done.stdout == f"{NAME} (enforce)\n"
        assert Path(LOADED).read_text().count(f"{NAME} (enforce)") == 1
    assert shell(daemon, rootfs, "cat /proc/self/attr/current", "--apparmor-profile", NAME).stdout == done.stdout
    missing = shell(daemon, rootfs, "true", "--apparmor-profile", "none-such")
    assert missing.returncode == 1
    assert "none-such" in missing.stderr


@pytest.mark.parametrize(
    ("script", "may"),
    [
        ("/bin/busybox mount -t tmpfs t /tmp", False),
        ("/bin/busybox umount /dev/shm", True),
        ("echo core > /proc/sys/kernel/core_pattern", False),
        ("echo 4096 > /proc/sys/kernel/shmmni", True),
        ("echo h > /proc/sysrq-trigger", False),
        ("/bin/busybox head -c 1 /proc/kcore", False),
        ("echo x > /tmp/x", True),
        ("echo 0 > /sys/kernel/mm/ksm/run", False),
        ("sleep 100 & kill $!", True),
        ("true > /proc/self/oom_score_adj", True),
    ],
)
def test_what_a_privileged_container_may_do(daemon, rootfs, script, may):
    free = shell(daemon, rootfs, f"{script} 2>&1 >/dev/null")
    assert free.returncode == 0, free.stdout + free.stderr
    confined = shell(daemon, rootfs, f"{script} 2>&1 >/dev/null", "--apparmor-default-profile", NAME)
    assert (confined.returncode == 0) is may, confined.stdout + confined.stderr
