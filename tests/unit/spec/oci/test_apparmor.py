"""The profile as text. Where there is a parser, it must take it; it need not have a kernel that does."""

import re
import shutil
import subprocess

import pytest

from spec import errors
from spec.oci import apparmor


@pytest.mark.parametrize("abi", [False, True])
def test_what_the_profile_says(abi):
    text = apparmor.profile("holdd-default", abi)
    assert text.startswith("abi <abi/3.0>,\n" if abi else "#include <tunables/global>")
    assert "profile holdd-default flags=(attach_disconnected,mediate_deleted) {" in text
    assert "ptrace (trace,read,tracedby,readby) peer=holdd-default," in text
    for sender in ("unconfined", "runc", "crun", "holdd"):
        assert f"signal (receive) peer={sender}," in text
    assert text.count("{") == text.count("}")


def denied(path):
    """Whether a rule of ours denies writing to `path`: globs of apparmor.d(5), * within and ** across components."""
    for pattern, rights in re.findall(r"deny (\S+) ([rwklx]+),", apparmor.profile("p").replace("@{PROC}", "/proc")):
        tokens = re.split(r"(\*\*|\*|\?|\[\^?[^]]*\]|[{},])", pattern)
        words = {"**": ".*", "*": "[^/]*", "?": "[^/]", "{": "(?:", "}": ")", ",": "|"}
        made = "".join(words.get(t, t if t.startswith("[") else re.escape(t)) for t in tokens)
        if "w" in rights and re.fullmatch(made, path):
            return True
    return False


@pytest.mark.parametrize(
    "path",
    ["/proc/sysrq-trigger", "/proc/kcore", "/proc/timer_list", "/proc/sys/vm/drop_caches", "/proc/sys/net/x",
     "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/sysrq", "/proc/sys/kernel/shx", "/proc/bus/pci/x",
     "/proc/irq/1/x", "/proc/sv/x", "/proc/scsi/x", "/proc/driver/x", "/sys/firmware/x", "/sys/fs/bpf/x",
     "/sys/devices/virtual/powercap/x", "/sys/kernel/security/x", "/sys/block/sda/x"],
)  # fmt: skip
def test_writing_is_denied(path):
    assert denied(path)


@pytest.mark.parametrize(
    "path", ["/proc/1/attr/exec", "/proc/4711/task/1/comm", "/sys/fs/cgroup/x/y", "/etc/x", "/proc/sys/kernel/shmmax"]
)
def test_writing_is_not_denied(path):
    assert not denied(path)


@pytest.mark.parametrize("name", ["", "a b", "a{", "a/b", "-a", "a\n", "ä", 'a"'])
def test_names_that_would_need_quoting(name):
    with pytest.raises(errors.InvalidArgument, match="AppArmor"):
        apparmor.profile(name)


@pytest.mark.skipif(shutil.which("apparmor_parser") is None, reason="no apparmor_parser")
def test_the_parser_takes_it():
    done = subprocess.run(
        ["apparmor_parser", "--skip-kernel-load", "--skip-cache"],
        input=apparmor.profile("holdd-default"), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
