import json

import pytest

from spec import errors
from spec.oci import arguments, build, runtime, seccomp
from spec.oci.image import ExecutionConfig, ImageConfig

SPEC = build.default_spec("ns", "c1")


def image(**config):
    return ImageConfig(config=ExecutionConfig(**config))


def test_default_is_containerds():
    document = json.loads(build.encode(SPEC))
    process, linux = document["process"], document["linux"]
    assert process["cwd"] == "/"
    assert process["noNewPrivileges"] is True
    assert process["rlimits"] == [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}]
    assert "env" not in process
    assert document["root"] == {"path": "rootfs"}
    assert linux["cgroupsPath"] == "/ns/c1"
    assert {entry["type"] for entry in linux["namespaces"]} == {"pid", "ipc", "uts", "mount", "network"}
    assert "/sys/devices/virtual/powercap" in linux["maskedPaths"]
    assert len(linux["maskedPaths"]) == 11
    assert linux["readonlyPaths"] == ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
    assert [mount["destination"] for mount in document["mounts"]] == [
        "/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys", "/run",
    ]  # fmt: skip
    assert "seccomp" not in linux
    rules = linux["resources"]["devices"]
    assert rules[0] == {"allow": False, "type": "a", "major": None, "minor": None, "access": "rwm"}
    assert {(rule["major"], rule["minor"]) for rule in rules[1:]} == {
        (1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (136, None), (5, 2),
    }  # fmt: skip


def test_default_capabilities():
    document = json.loads(build.encode(SPEC))
    capabilities = document["process"]["capabilities"]
    assert set(capabilities) == {"bounding", "effective", "permitted"}
    names = {
        "CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP",
        "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE",
    }  # fmt: skip
    for held in capabilities.values():
        assert set(held) == {f"CAP_{name}" for name in names}


def test_what_is_built_reads_back():
    spec = build.with_seccomp(SPEC, seccomp.profile("amd64", build.CAPABILITIES))
    spec = build.with_image(spec, image(cmd=["sh"], user="a:b"))
    assert build.encode(runtime.decode(build.encode(spec))) == build.encode(spec)


@pytest.mark.parametrize(
    ("entrypoint", "cmd", "args", "expected"),
    [
        (None, ["sh"], [], ["sh"]),
        (["e"], ["c"], [], ["e", "c"]),
        (["e"], ["c"], ["a", "b"], ["e", "a", "b"]),
        (["e"], None, [], ["e"]),
        (None, ["c"], ["a"], ["a"]),
    ],
)
def test_command_of_an_image(entrypoint, cmd, args, expected):
    spec = build.with_image(SPEC, image(entrypoint=entrypoint, cmd=cmd), args)
    assert list(spec.process.args) == expected


def test_an_image_without_a_command():
    for config in (image(), ImageConfig()):
        with pytest.raises(errors.InvalidArgument):
            build.with_image(SPEC, config)
    assert build.with_image(SPEC, ImageConfig(), ["x"]).process.args == ("x",)


def test_image_environment_and_place():
    spec = build.with_image(SPEC, image(cmd=["x"]))
    assert spec.process.env == (build.DEFAULT_PATH,)
    assert spec.process.cwd == "/"
    assert spec.process.user.username == "0"
    config = image(cmd=["x"], env=["A=image", "B=image"], working_dir="/w", user="1000:100")
    spec = build.with_image(build.with_env(SPEC, ["A=before"]), config)
    assert spec.process.env == ("A=before", "B=image")
    assert spec.process.cwd == "/w"
    assert spec.process.user.username == "1000:100"


def test_containers_of_one_image_share_nothing():
    """CVE-2021-21334: what one container adds must not show in another, nor in the image."""
    env = ["A=1"]
    config = image(cmd=["x"], env=env)
    specs = [build.with_env(build.with_image(SPEC, config), [f"K={number}"]) for number in range(50)]
    assert [list(spec.process.env) for spec in specs] == [["A=1", f"K={number}"] for number in range(50)]
    assert env == ["A=1"]
    assert SPEC.process.env == ()


def test_env():
    spec = build.with_env(SPEC, ["A=1", "B=2=x", "C="])
    spec = build.with_env(spec, ["A=3", "B", "D=4", "NOT_SET"])
    assert spec.process.env == ("A=3", "C=", "D=4")


@pytest.mark.parametrize(
    "user", ["0", "root", "root:root", "405:100", "guest", "1_0", "٣", "2147483647:2147483647", "+5"]
)
def test_users_are_kept_for_the_daemon(user):
    assert build.with_user(SPEC, user).process.user == runtime.User(username=user)


@pytest.mark.parametrize(
    "user",
    ["-1000", "2147483648", "9" * 36, "9" * 5000, "0:" + "9" * 36, "405:2147483648", "-0", "4294967296", "0:-1",
     "+2147483648"],
)  # fmt: skip
def test_users_out_of_range(user):
    with pytest.raises(errors.InvalidArgument, match="out of range"):
        build.with_user(SPEC, user)


@pytest.mark.parametrize("user", ["", ":", "a:", ":a", "a:b:c"])
def test_malformed_users(user):
    with pytest.raises(errors.InvalidArgument):
        build.with_user(SPEC, user)


@pytest.mark.parametrize("directory", ["", "rel", "./x", "../x"])
def test_a_working_directory_is_absolute(directory):
    with pytest.raises(errors.InvalidArgument):
        build.with_cwd(SPEC, directory)
    if directory:
        with pytest.raises(errors.InvalidArgument):
            build.with_image(SPEC, image(cmd=["x"], working_dir=directory))


def types(spec):
    return {entry.type: entry.path for entry in spec.linux.namespaces}


def test_namespaces():
    assert types(build.with_namespace(SPEC, "network", "/run/n"))["network"] == "/run/n"
    assert types(build.with_namespace(SPEC, "cgroup"))["cgroup"] == ""
    assert "pid" not in types(build.with_host_namespace(SPEC, "pid"))
    for kind, path in (("net", ""), ("pid", "self/ns/pid")):
        with pytest.raises(errors.InvalidArgument):
            build.with_namespace(SPEC, kind, path)


def test_host_network():
    spec = build.with_host_network(SPEC, "box")
    assert "network" not in types(spec)
    assert [(mount.source, tuple(mount.options)) for mount in spec.mounts[-2:]] == [
        ("/etc/hosts", ("rbind", "ro")), ("/etc/resolv.conf", ("rbind", "ro")),
    ]  # fmt: skip
    assert "HOSTNAME=box" in spec.process.env


def test_user_namespace():
    mappings = arguments.mappings("0:100000:65536,65536:4294967294:1")
    spec = build.with_user_namespace(SPEC, mappings, mappings[:1])
    assert "user" in types(spec)
    assert spec.linux.uid_mappings == tuple(mappings)
    assert spec.linux.gid_mappings == tuple(mappings[:1])
    for wrong in ([], mappings[:1] * 341):
        with pytest.raises(errors.InvalidArgument):
            build.with_user_namespace(SPEC, wrong, mappings)
        with pytest.raises(errors.InvalidArgument):
            build.with_user_namespace(SPEC, mappings, wrong)


def held(spec):
    capabilities = spec.process.capabilities
    assert capabilities.bounding == capabilities.effective == capabilities.permitted
    assert capabilities.inheritable == capabilities.ambient == ()
    return set(capabilities.bounding)


def test_capabilities():
    base = set(build.CAPABILITIES)
    assert held(build.with_capabilities(SPEC, add=["cap_sys_admin", "NET_ADMIN"])) == base | {
        "CAP_SYS_ADMIN", "CAP_NET_ADMIN",
    }  # fmt: skip
    assert held(build.with_capabilities(SPEC, drop=["kill"])) == base - {"CAP_KILL"}
    assert held(build.with_capabilities(SPEC, drop=["ALL"], add=["KILL"])) == {"CAP_KILL"}
    assert held(build.with_capabilities(SPEC, drop=["all"])) == set()
    assert held(build.with_capabilities(SPEC, add=["ALL"], drop=["SYS_ADMIN"])) == set(build.ALL_CAPABILITIES) - {
        "CAP_SYS_ADMIN"
    }
    assert held(build.with_capabilities(SPEC, add=["KILL", "SYS_TIME"], drop=["KILL"])) == (
        base - {"CAP_KILL"} | {"CAP_SYS_TIME"}
    )
    with pytest.raises(errors.InvalidArgument):
        build.with_capabilities(SPEC, add=["FLY"])


def test_capabilities_of_a_mask():
    assert build.capabilities_of(0) == []
    assert build.capabilities_of(1 << 0 | 1 << 21 | 1 << 40 | 1 << 63) == [
        "CAP_CHOWN", "CAP_SYS_ADMIN", "CAP_CHECKPOINT_RESTORE",
    ]  # fmt: skip
    assert len(build.capabilities_of((1 << 41) - 1)) == 41


def test_privileged():
    spec = build.with_apparmor(build.with_seccomp(SPEC, seccomp.profile("amd64", ())), "p")
    spec = build.with_privileged(
        build.with_mounts(spec, [runtime.Mount(destination="/c", type="cgroup", options=["ro"])])
    )
    assert held(spec) == set(build.ALL_CAPABILITIES)
    assert not spec.linux.masked_paths
    assert not spec.linux.readonly_paths
    assert spec.linux.seccomp is None
    assert spec.process.apparmor_profile == ""
    assert spec.linux.resources.devices == (runtime.DeviceRule(allow=True),)
    for mount in spec.mounts:
        if mount.type in ("sysfs", "cgroup"):
            assert "ro" not in mount.options
            assert "rw" in mount.options
    assert held(build.with_privileged(SPEC, ["SYS_ADMIN"])) == {*build.CAPABILITIES, "CAP_SYS_ADMIN"}


def test_rlimits():
    spec = build.with_rlimit(build.with_rlimit(SPEC, "RLIMIT_CORE", 0, 0), "RLIMIT_NOFILE", 1, 2)
    assert {(r.type, r.soft, r.hard) for r in spec.process.rlimits} == {("RLIMIT_CORE", 0, 0), ("RLIMIT_NOFILE", 1, 2)}
    for soft, hard in ((2, 1), (-1, 1), (0, 1 << 64)):
        with pytest.raises(errors.InvalidArgument):
            build.with_rlimit(SPEC, "RLIMIT_CORE", soft, hard)


def test_limits_add_up():
    spec = build.with_memory_limit(build.with_pids_limit(build.with_cpus(SPEC, 1.5), 7), 1 << 20)
    spec = build.with_cpu(spec, shares=512, cpus="0")
    resources = spec.linux.resources
    assert resources.memory == runtime.Memory(limit=1 << 20)
    assert resources.pids == runtime.Pids(limit=7)
    assert resources.cpu == runtime.CPU(period=100_000, quota=150_000, shares=512, cpus="0")
    assert resources.devices == SPEC.linux.resources.devices
    for cpus in (0, -1, float("nan"), float("inf")):
        with pytest.raises(errors.InvalidArgument):
            build.with_cpus(SPEC, cpus)


def test_devices():
    device = runtime.Device(path="/dev/fuse", type="c", major=10, minor=229)
    spec = build.with_device(SPEC, device, "rw")
    assert spec.linux.devices == (device,)
    assert spec.linux.resources.devices[-1] == runtime.DeviceRule(
        allow=True, type="c", major=10, minor=229, access="rw"
    )
    again = build.with_device(spec, runtime.Device(path="/dev/fuse", type="c", major=1, minor=3))
    assert [(found.major, found.minor) for found in again.linux.devices] == [(1, 3)]
    for access in ("", "x", "rwx"):
        with pytest.raises(errors.InvalidArgument):
            build.with_device(SPEC, device, access)


@pytest.mark.parametrize("kind", ["private", "rprivate", "shared", "rshared", "slave", "rslave", "unbindable"])
def test_propagation(kind):
    assert build.with_root_propagation(SPEC, kind).linux.rootfs_propagation == kind


@pytest.mark.parametrize("kind", ["", "r", "rr", "rrshared", "bind", "Shared"])
def test_propagation_that_is_none(kind):
    with pytest.raises(errors.InvalidArgument, match="propagation"):
        build.with_root_propagation(SPEC, kind)


def test_the_rest():
    assert build.with_args(SPEC, ["a", "b"]).process.args == ("a", "b")
    assert build.with_hostname(SPEC, "h").hostname == "h"
    assert build.with_terminal(SPEC).process.terminal
    assert "TERM=xterm" in build.with_terminal(SPEC).process.env
    assert build.with_root(build.with_readonly_root(SPEC), "/r").root == runtime.Root(path="/r", readonly=True)
    assert build.with_annotations(build.with_annotations(SPEC, {"a": "1", "b": "1"}), {"b": "2"}).annotations == {
        "a": "1", "b": "2",
    }  # fmt: skip
    assert build.with_masked_paths(SPEC, ["/m"]).linux.masked_paths == ("/m",)
    assert build.with_readonly_paths(SPEC, ["/r"]).linux.readonly_paths == ("/r",)
    assert build.with_cgroup(SPEC, "/x").linux.cgroups_path == "/x"
    assert build.with_new_privileges(SPEC).process.no_new_privileges is False
    assert build.default_spec("ns", "c1") == SPEC
