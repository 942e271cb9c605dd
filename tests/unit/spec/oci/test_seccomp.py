import pytest

from spec.oci import build, seccomp

CLONE_FLAGS = {
    "NS": 0x20000, "CGROUP": 0x2000000, "UTS": 0x4000000, "IPC": 0x8000000, "USER": 0x10000000, "PID": 0x20000000,
    "NET": 0x40000000,
}  # fmt: skip


def rules(profile, name):
    return [rule for rule in profile.syscalls if name in rule.names]


def allows(profile, name, *args):
    """Whether a call passes: rules of one name are alternatives, the arguments of one rule must all hold."""
    tests = {
        "SCMP_CMP_EQ": lambda given, rule: given == rule.value,
        "SCMP_CMP_LT": lambda given, rule: given < rule.value,
        "SCMP_CMP_GT": lambda given, rule: given > rule.value,
        "SCMP_CMP_MASKED_EQ": lambda given, rule: given & rule.value == rule.value_two,
    }
    return any(
        rule.action == seccomp.ALLOW and all(tests[arg.op](args[arg.index], arg) for arg in rule.args)
        for rule in rules(profile, name)
    )


DEFAULT = seccomp.profile("amd64", build.CAPABILITIES)


def test_default():
    assert DEFAULT.default_action == "SCMP_ACT_ERRNO"
    assert DEFAULT.architectures == ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32")
    assert len(set(DEFAULT.syscalls[0].names)) == len(DEFAULT.syscalls[0].names) == 363
    for name in ("read", "execve", "openat2", "arch_prctl", "chroot", "ptrace", "landlock_restrict_self"):
        assert allows(DEFAULT, name)
    for name in ("mount", "io_uring_setup", "bpf", "keyctl", "add_key", "reboot", "init_module", "setns", "unshare",
                 "open_by_handle_at", "perf_event_open", "userfaultfd", "kexec_load", "clock_settime"):  # fmt: skip
        assert not rules(DEFAULT, name)


@pytest.mark.parametrize("domain", range(50))
def test_socket_domains(domain):
    assert allows(DEFAULT, "socket", domain) == (domain not in (38, 40))


@pytest.mark.parametrize("persona", [0, 8, 0x20000, 0x20008, 0xFFFFFFFF, 1, 0x40000, 0x400000])
def test_personalities(persona):
    assert allows(DEFAULT, "personality", persona) == (persona in (0, 8, 0x20000, 0x20008, 0xFFFFFFFF))


@pytest.mark.parametrize("flag", CLONE_FLAGS)
def test_new_namespaces_take_sys_admin(flag):
    assert allows(DEFAULT, "clone", 0x11)
    assert not allows(DEFAULT, "clone", CLONE_FLAGS[flag] | 0x11)
    able = seccomp.profile("amd64", ["CAP_SYS_ADMIN"])
    assert allows(able, "clone", CLONE_FLAGS[flag])
    assert allows(able, "clone3")


def test_clone3_makes_libc_fall_back():
    (rule,) = rules(DEFAULT, "clone3")
    assert (rule.action, rule.errno_ret) == ("SCMP_ACT_ERRNO", 38)


def test_flags_of_clone_come_second_on_s390x():
    assert rules(seccomp.profile("s390x", ()), "clone")[0].args[0].index == 1


@pytest.mark.parametrize(
    ("capability", "name"),
    [("CAP_SYS_BOOT", "reboot"), ("CAP_SYS_MODULE", "finit_module"), ("CAP_SYSLOG", "syslog"), ("CAP_BPF", "bpf")],
)
def test_capabilities_open_calls(capability, name):
    assert not rules(DEFAULT, name)
    assert allows(seccomp.profile("amd64", [capability]), name)


def test_machines():
    assert not rules(seccomp.profile("arm64", ()), "arch_prctl")
    assert allows(seccomp.profile("arm64", ()), "set_tls")
    assert seccomp.profile("ppc64le", ()).architectures == ()


def test_old_kernels_do_not_get_ptrace():
    assert not rules(seccomp.profile("amd64", (), kernel=(4, 7)), "ptrace")
    assert allows(seccomp.profile("amd64", (), kernel=(6, 1)), "ptrace")


def test_capabilities_that_are_named_are_ones():
    assert set(seccomp._BY_CAPABILITY) <= set(build.ALL_CAPABILITIES)
