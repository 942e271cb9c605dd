"""Every flag that says what a container is: the spec it comes to, and for those whose effect can be seen, a container
that shows it."""

import contextlib
import json
import os
import pty
import re
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

from ctr import cli
from spec.api import tasks
from spec.oci import build
from tests import cgroups
from tests.daemon import BIN, Daemon, passable
from tests.registry import Registry, make_image

NAMESPACE = f"run-{os.getpid()}"  # cgroups bear its name
WORKDIR = "/made/up"
MAPS = ("--uidmap", "0:100000:65536", "--gidmap", "0:200000:65536")


class Own(Daemon):
    """One that works in our namespace."""

    def ctr(self, *args, namespace=NAMESPACE, **options):
        return super().ctr(*args, namespace=namespace, **options)

    def shown(self, id, command, *flags):
        """What a shell prints in a container made with these flags."""
        done = self.ctr("run", "--rm", *flags, self.ref, id, "sh", "-c", command, check=False)
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A daemon that has pulled one image, `ref`, whose configuration says more than most."""
    work = tmp_path_factory.mktemp("run")
    config = ("--config.workingdir", WORKDIR, "--config.env", "FROM=image", "--config.label", "a.label=image",
              "--config.label", "containerd.io/gc.root=image", "--config.stopsignal", "SIGUSR1")  # fmt: skip
    with passable() as directory, Registry(work / "registry") as registry, Own(directory) as daemon:
        owned = {"made/up/file": b"", "etc/owned": b""}
        make_image(work, registry, "said:1", layers=[owned], config=config)
        daemon.ref = f"{registry.host}/said:1"
        daemon.ctr("images", "pull", "--plain-http", daemon.ref)
        yield daemon


@pytest.fixture
def dumped(shared, capfdbinary):
    """Makes the spec of flags, by ctr in this process."""

    def dump(*flags, code=0):
        argv = ["--address", shared.address, "--namespace", NAMESPACE, "run", "--dump-config"]
        assert cli.main([*argv, *map(str, flags), shared.ref, "c", "prog", "arg"]) == code
        out, err = capfdbinary.readouterr()
        return json.loads(out) if code == 0 else err.decode()

    return dump


def at(document, path):
    """The value at `a.b.0.c`; None where there is none."""
    for key in path.split("."):
        if isinstance(document, list):
            document = document[int(key)] if -len(document) <= int(key) < len(document) else None
        elif isinstance(document, dict):
            document = document.get(key)
        else:
            return None
    return document


def namespace(document, kind):
    return next((entry for entry in document["linux"]["namespaces"] if entry["type"] == kind), None)


CPU, MEMORY = "linux.resources.cpu", "linux.resources.memory"
BOUNDING = [*build.CAPABILITIES]


@pytest.mark.parametrize(
    ("flags", "path", "expected"),
    [
        ((), "process.args", ["prog", "arg"]),
        ((), "process.cwd", WORKDIR),
        ((), "process.user.username", "0"),
        ((), "process.env.1", "FROM=image"),
        ((), "process.noNewPrivileges", True),
        ((), "process.capabilities.inheritable", None),
        ((), "process.capabilities.ambient", None),
        ((), "process.capabilities.bounding", BOUNDING),
        ((), "linux.seccomp", None),
        ((), "linux.cgroupsPath", f"/{NAMESPACE}/c"),
        ((), "root.path", "rootfs"),
        (("--tty",), "process.terminal", True),
        (("--env", "A=1", "--env", "FROM"), "process.env.1", "A=1"),
        (("--cwd", "/tmp"), "process.cwd", "/tmp"),
        (("--user", "user:extra"), "process.user.username", "user:extra"),
        (("--hostname", "h"), "hostname", "h"),
        (("--mount", "type=bind,src=/a,dst=/b,options=rbind:ro"), "mounts.-1",
         {"destination": "/b", "type": "bind", "source": "/a", "options": ["rbind", "ro"]}),
        (("--annotation", "a=1", "--label", "b=2", "--label", "c"), "annotations", {"a": "1", "b": "2", "c": "true"}),
        (("--uidmap", "0:1000:10,10:5000:1", "--gidmap", "0:1:1"), "linux.uidMappings",
         [{"containerID": 0, "hostID": 1000, "size": 10}, {"containerID": 10, "hostID": 5000, "size": 1}]),
        (("--uidmap", "0:1:1", "--gidmap", "0:2:3"), "linux.gidMappings",
         [{"containerID": 0, "hostID": 2, "size": 3}]),
        (("--read-only",), "root.readonly", True),
        (("--rootfs-propagation", "rslave"), "linux.rootfsPropagation", "rslave"),
        (("--allow-new-privs",), "process.noNewPrivileges", None),
        (("--cap-drop", "ALL", "--cap-add", "kill"), "process.capabilities",
         {name: ["CAP_KILL"] for name in ("bounding", "effective", "permitted")}),
        (("--privileged",), "linux.maskedPaths", None),
        (("--privileged",), "linux.readonlyPaths", None),
        (("--privileged",), "linux.resources.devices",
         [{"allow": True, "type": "a", "major": None, "minor": None, "access": "rwm"}]),
        (("--privileged", "--privileged-without-host-devices"), "linux.devices", None),
        (("--seccomp",), "linux.seccomp.defaultAction", "SCMP_ACT_ERRNO"),
        (("--cgroup", "/elsewhere/c"), "linux.cgroupsPath", "/elsewhere/c"),
        (("--memory-limit", "67108864"), MEMORY, {"limit": 67108864}),
        (("--pids-limit", "7"), "linux.resources.pids", {"limit": 7}),
        (("--cpus", "1.5"), CPU, {"quota": 150000, "period": 100000}),
        (("--cpu-quota", "5000", "--cpu-period", "10000"), CPU, {"quota": 5000, "period": 10000}),
        (("--cpu-quota", "0"), CPU, {"quota": 0}),
        (("--cpu-burst", "100"), CPU, {"burst": 100}),
        (("--cpu-shares", "512"), CPU, {"shares": 512}),
        (("--cpuset-cpus", "0-1", "--cpuset-mems", "0"), CPU, {"cpus": "0-1", "mems": "0"}),
        (("--rlimit-nofile", "100:200"), "process.rlimits", [{"type": "RLIMIT_NOFILE", "hard": 200, "soft": 100}]),
        (("--rlimit-nofile", "100"), "process.rlimits", [{"type": "RLIMIT_NOFILE", "hard": 100, "soft": 100}]),
        (("--rdt-class", "gold"), "linux.intelRdt", {"closID": "gold"}),
        (("--device", "/dev/full"), "linux.devices.0.path", "/dev/full"),
        (("--device", "/dev/full"), "linux.resources.devices.-1",
         {"allow": True, "type": "c", "major": 1, "minor": 7, "access": "rwm"}),
    ],
    ids=lambda value: (" ".join(value) or "default") if isinstance(value, tuple) else None,
)  # fmt: skip
def test_spec_of(dumped, flags, path, expected):
    assert at(dumped(*flags), path) == expected


def test_spec_of_namespaces(dumped):
    document = dumped("--with-ns", "network:/run/n", "--with-ns", "cgroup", "--with-ns", "user:/u")
    assert namespace(document, "network") == {"type": "network", "path": "/run/n"}
    assert namespace(document, "cgroup") == {"type": "cgroup"}
    assert namespace(document, "user") == {"type": "user", "path": "/u"}
    assert namespace(document, "pid") == {"type": "pid"}
    document = dumped("--net-host")
    assert namespace(document, "network") is None
    assert [mount["source"] for mount in document["mounts"][-2:]] == ["/etc/hosts", "/etc/resolv.conf"]
    assert namespace(dumped(*MAPS), "user") == {"type": "user"}


def test_spec_of_files(dumped, tmp_path):
    (tmp_path / "one").write_text("# none\nA=1\n\n  B=2\n")
    (tmp_path / "two").write_text("B=3\nFROM\n")
    env = dumped("--env-file", tmp_path / "one", "--env-file", tmp_path / "two", "--env", "C=4")["process"]["env"]
    assert env[1:] == ["A=1", "B=3", "C=4"]
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]}
    (tmp_path / "seccomp").write_text(json.dumps(profile))
    document = dumped("--seccomp", "--seccomp-profile", tmp_path / "seccomp")
    assert document["linux"]["seccomp"] == profile


def test_the_default_profile_knows_the_capabilities(dumped):
    def allowed(*flags):
        rules = dumped("--seccomp", *flags)["linux"]["seccomp"]["syscalls"]
        return {name for rule in rules if rule["action"] == "SCMP_ACT_ALLOW" for name in rule["names"]}

    assert "mount" not in allowed()
    assert "mount" in allowed("--cap-add", "SYS_ADMIN")
    assert "chroot" not in allowed("--cap-drop", "SYS_CHROOT")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--seccomp-profile", "/x"), "needs --seccomp"),
        (("--apparmor-profile", "a", "--apparmor-default-profile", "b"), "exclude one another"),
        (("--privileged-without-host-devices",), "needs --privileged"),
        (("--cpus", "1", "--cpu-quota", "1"), "--cpus"),
        (("--cpus", "1", "--cpu-period", "1"), "--cpus"),
        (("--cpus", "nan"), "number of processors"),
        (("--uidmap", "0:1:1"), "come together"),
        (("--gidmap", "0:1:1"), "come together"),
        (("--uidmap", ",".join(["0:1:1"] * 400), "--gidmap", "0:1:1"), "340"),
        (("--uidmap", "0:0:0", "--gidmap", "0:1:1"), "id map"),
        (("--uidmap", "nonsense", "--gidmap", "0:1:1"), "id map"),
        (("--cpuset-cpus", "all"), "set"),
        (("--rlimit-nofile", "2:1"), "RLIMIT_NOFILE"),
        (("--rlimit-nofile", "many"), "RLIMIT_NOFILE"),
        (("--memory-limit", "-1"), "negative"),
        (("--cpu-shares", "-1"), "negative"),
        (("--rootfs-propagation", "bind"), "propagation"),
        (("--with-ns", "net:/x"), "network"),
        (("--with-ns", "pid:relative"), "absolute"),
        (("--with-ns", "pid:"), "type:path"),
        (("--cap-add", "FLY"), "FLY"),
        (("--mount", "dst=relative"), "absolute"),
        (("--cwd", "relative"), "absolute"),
        (("--user", "2147483648"), "out of range"),
        (("--device", "/dev/none-such"), "/dev/none-such"),
        (("--device", "/etc/hostname"), "neither a block nor a character device"),
        (("--device", "vendor.com/class=none"), "not found"),
        (("--gpus", "all"), "no description of GPUs"),
        (("--env-file", "/none/such"), "/none/such"),
        (("--config", "/none/such"), "/none/such"),
        (("--seccomp", "--seccomp-profile", "/etc/hostname"), "seccomp profile"),
        (("--snapshotter", "overlayfs", "--platform", "nonsense"), "platform"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, tuple) else "",
)
def test_flags_that_cannot_be(dumped, flags, told):
    assert told in dumped(*flags, code=1)


def test_apparmor_is_not_left_out_unseen(dumped):
    if os.path.exists("/sys/module/apparmor/parameters/enabled"):
        assert "not found" in dumped("--apparmor-profile", "none-such", code=1)
        return
    for flag in ("--apparmor-profile", "--apparmor-default-profile"):
        assert "no AppArmor" in dumped(flag, "holdd-test", code=1)


# What containers see.


@pytest.mark.parametrize(
    ("flags", "command", "shown"),
    [
        ((), "pwd", f"{WORKDIR}\n"),
        (("--rlimit-nofile", "100:200"), "ulimit -n; ulimit -Hn", "100\n200\n"),
        ((), "ulimit -n", "1024\n"),
        (("--cap-drop", "ALL", "--cap-add", "KILL"), "grep Cap /proc/self/status | sort -u",
         "CapAmb:\t0000000000000000\nCapBnd:\t0000000000000020\nCapEff:\t0000000000000020\n"
         "CapInh:\t0000000000000000\nCapPrm:\t0000000000000020\n"),
        ((), "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1\n"),
        (("--allow-new-privs",), "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t0\n"),
        ((), "grep -c Seccomp:.0 /proc/self/status", "1\n"),
        (("--seccomp",), "grep -c Seccomp:.2 /proc/self/status; mkdir /x && echo made", "1\nmade\n"),
        (("--read-only",), "touch /x 2>/dev/null || echo refused", "refused\n"),
        (("--device", "/dev/loop-control"), "test -c /dev/loop-control && stat -c %t:%T /dev/loop-control", "a:ed\n"),
        ((), "test -e /dev/loop-control || echo none", "none\n"),
        (("--user", "daemon"), "id -u; id -g; id -G", "1\n1\n1\n"),
        (("--rootfs-propagation", "private"), "grep ' / / ' /proc/self/mountinfo | grep -c shared", "0\n"),
        (("--no-pivot",), "echo ran", "ran\n"),
        (MAPS, "cat /proc/self/uid_map /proc/self/gid_map | tr -s ' '", " 0 100000 65536\n 0 200000 65536\n"),
        (MAPS, "stat -c %u:%g /etc/owned; touch /x && stat -c %u:%g /x; id -u", "0:0\n0:0\n0\n"),
        ((*MAPS, "--user", "user"), "id -u; id -g; touch /x 2>/dev/null || echo refused", "1000\n1000\nrefused\n"),
        ((*MAPS, "--remap-labels", "--seccomp", "--read-only"), "echo ran", "ran\n"),
        ((*MAPS, "--snapshotter-label", "a.b=c"), "echo ran", "ran\n"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, tuple) else "",
)  # fmt: skip
def test_seen_inside(shared, flags, command, shown):
    assert shared.shown("seen", command, *flags) == shown


def test_a_custom_profile_is_heeded(shared, tmp_path):
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}],
    }
    (tmp_path / "profile").write_text(json.dumps(profile))
    told = shared.shown("custom", "mkdir /x", "--seccomp", "--seccomp-profile", tmp_path / "profile")
    assert "Operation not supported" in told or "Not supported" in told


@contextmanager
def running(shared, id, *flags, source=None, command=("sleep", "1000")):
    """The pid of a container that runs, detached."""
    shared.ctr("run", "-d", *flags, source or shared.ref, id, *command)
    try:
        with shared.client(NAMESPACE) as client:
            yield client.tasks.get(tasks.GetRequest(container_id=id)).pid
    finally:
        shared.ctr("tasks", "rm", "-f", id, check=False)
        shared.ctr("containers", "rm", id, check=False)


def controller(pid, name):
    """The directory of the cgroup that `pid` is in, of that controller."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if name in names.split(",") and not cgroups.is_v2():
            return cgroups.MOUNTED / name / path.lstrip("/")
        if cgroups.is_v2() and not names:
            return cgroups.MOUNTED / path.lstrip("/")
    raise AssertionError(f"no controller {name}")


@pytest.mark.parametrize(
    ("flags", "name", "files", "expected"),
    [
        (("--memory-limit", "67108864"), "memory", ("memory.limit_in_bytes", "memory.max"), "67108864"),
        (("--pids-limit", "64"), "pids", ("pids.max", "pids.max"), "64"),
        (("--cpus", "0.5"), "cpu", ("cpu.cfs_quota_us", "cpu.max"), "50000"),
        (("--cpu-quota", "20000", "--cpu-period", "40000"), "cpu", ("cpu.cfs_period_us", "cpu.max"), "40000"),
        (("--cpu-shares", "512"), "cpu", ("cpu.shares", None), "512"),
        (("--cpuset-cpus", "0", "--cpuset-mems", "0"), "cpuset", ("cpuset.cpus", "cpuset.cpus"), "0"),
        ((*MAPS, "--memory-limit", "67108864"), "memory", ("memory.limit_in_bytes", "memory.max"), "67108864"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, tuple) and value[0] and value[0][0] == "-" else "",
)
def test_limits_are_the_kernels(shared, flags, name, files, expected):
    file = files[cgroups.is_v2()]
    with running(shared, "limited", *flags) as pid:
        path = controller(pid, name)
        assert path.name == "limited"
        assert file is None or expected in (path / file).read_text().split()


def test_a_cgroup_elsewhere(shared):
    try:
        with running(shared, "placed", "--cgroup", f"/{NAMESPACE}/other/place") as pid:
            assert str(controller(pid, "pids")).endswith(f"/{NAMESPACE}/other/place")
    finally:
        cgroups.remove(f"{NAMESPACE}/other")


def test_namespaces_are_joined(shared):
    kinds = ("pid", "network", "ipc", "uts")
    files = {"network": "net"}
    with running(shared, "first") as pid:
        flags = [part for kind in kinds for part in ("--with-ns", f"{kind}:/proc/{pid}/ns/{files.get(kind, kind)}")]
        command = "; ".join(f"readlink /proc/self/ns/{files.get(kind, kind)}" for kind in kinds)
        seen = shared.shown("second", command, *flags).split()
        assert seen == [os.readlink(f"/proc/{pid}/ns/{files.get(kind, kind)}") for kind in kinds]
        assert os.readlink(f"/proc/{pid}/ns/pid") != os.readlink("/proc/self/ns/pid")


def test_what_a_mapped_root_writes_is_the_hosts_user(shared):
    with running(shared, "mapped", *MAPS, "--remap-labels") as pid:
        status = Path(f"/proc/{pid}/status").read_text()
        assert "Uid:\t100000\t" in status
        assert "Gid:\t200000\t" in status
        shared.ctr("tasks", "exec", "--exec-id", "e", "mapped", "touch", "/written")
        labels = json.loads(shared.ctr("snapshots", "info", "mapped").stdout)["labels"]
        assert labels["containerd.io/snapshot/uidmapping"] == MAPS[1]
        bundle = shared.state / "tasks" / NAMESPACE / "mapped"
        assert (bundle.stat().st_mode & 0o7777, bundle.stat().st_gid) == (0o710, 200000)
        (written,) = shared.root.rglob("written")
        assert (written.stat().st_uid, written.stat().st_gid) == (100000, 200000)
    without = shared.shown("rootless", "true", "--uidmap", "1:1:1", "--gidmap", "1:1:1")
    assert "no root" in without


def test_a_directory_with_mapped_ids(shared):
    root = shared.directory / "tree"
    for name in ("bin", "proc", "dev", "sys", "run"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    argv = ("/bin/busybox", "sh", "-c", "busybox touch /made && busybox stat -c %u:%g /made")
    done = shared.ctr("run", "--rm", "--rootfs", *MAPS, root, "tree", *argv)
    assert done.stdout == "0:0\n"
    made = (root / "made").stat()
    assert (made.st_uid, made.st_gid) == (0, 0)
    refused = shared.ctr("containers", "create", "--rootfs", *MAPS, root, "tree", "true", check=False)
    assert refused.returncode == 1
    shared.ctr("containers", "create", "--rootfs", root, "tree", "/bin/busybox", "echo", "from a directory")
    assert shared.ctr("tasks", "start", "tree").stdout == "from a directory\n"
    shared.ctr("containers", "rm", "tree")


def test_a_config_needs_no_image(shared, tmp_path):
    document = json.loads(
        shared.ctr("run", "--dump-config", shared.ref, "alone", "/bin/busybox", "echo", "alone").stdout
    )
    root = shared.directory / "alone"
    for name in ("bin", "proc", "dev", "sys", "run", "made/up"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    document["root"] = {"path": str(root), "readonly": True}
    (tmp_path / "config.json").write_text(json.dumps(document))
    done = shared.ctr("run", "--rm", "--config", tmp_path / "config.json", "alone")
    assert done.stdout == "alone\n"
    assert "alone" not in shared.ctr("snapshots", "ls", "-q").stdout.split()
    (tmp_path / "config.json").write_text("[]")
    assert shared.ctr("run", "--rm", "--config", tmp_path / "config.json", "alone", check=False).returncode == 1
    assert shared.ctr("run", "--rm", "alone", check=False).returncode == 1


def test_privileged_sees_the_hosts_devices(shared):
    seen = shared.shown("all", "test -c /dev/loop-control && echo there; ls /dev | wc -l", "--privileged").split()
    assert seen[0] == "there"
    own = shared.shown(
        "own", "test -c /dev/loop-control || echo none; ls /dev | wc -l", "--privileged",
        "--privileged-without-host-devices",
    ).split()  # fmt: skip
    assert own[0] == "none"
    assert int(own[1]) < int(seen[1])


def test_devices_by_name(shared, tmp_path):
    (tmp_path / "lib").write_text("a library\n")
    document = {
        "cdiVersion": "0.6.0",
        "kind": "holdd.test/gadget",
        "containerEdits": {"env": ["GADGETS=yes"]},
        "devices": [
            {
                "name": "one",
                "containerEdits": {
                    "env": ["GADGET=one"],
                    "deviceNodes": [{"path": "/dev/gadget", "hostPath": "/dev/loop-control", "permissions": "r"}],
                    "mounts": [
                        {"hostPath": str(tmp_path / "lib"), "containerPath": "/lib.so", "options": ["ro", "bind"]}
                    ],
                    "additionalGids": [4242],
                },
            }
        ],
    }
    (tmp_path / "gadget.json").write_text(json.dumps(document))
    flags = ("--cdi-spec-dir", tmp_path, "--device", "holdd.test/gadget=one")
    command = "echo $GADGETS $GADGET; stat -c %t:%T /dev/gadget; cat /lib.so; id -G; echo x > /dev/gadget"
    seen = shared.shown("cdi", command, *flags).splitlines()
    assert seen[:4] == ["yes one", "a:ed", "a library", "0 4242"]
    assert "Operation not permitted" in seen[4]
    (tmp_path / "other.yaml").write_text("cdiVersion: 0.6.0\n")
    unread = shared.ctr("run", "--cdi-spec-dir", tmp_path, "--device", "x.y/z=1", shared.ref, "cdi", check=False)
    assert "other.yaml" in unread.stderr


def test_options_of_the_runtime(shared, tmp_path):
    with running(shared, "rooted", "--runc-root", tmp_path / "runc"):
        assert (tmp_path / "runc" / NAMESPACE / "rooted").is_dir()
        told = json.loads(shared.ctr("containers", "info", "rooted").stdout)
        assert told["runtime"]["options"] == {"root": str(tmp_path / "runc")}
    missing = shared.ctr("run", "--runc-binary", "/none/such", shared.ref, "none", "true", check=False)
    assert missing.returncode == 1
    assert "/none/such" in missing.stderr
    assert "none" not in shared.ctr("containers", "ls", "-q").stdout.split()


def test_what_takes_long_is_told(shared, tmp_path):
    os.mkfifo(tmp_path / "gate")
    slow = tmp_path / "slow"
    slow.write_text(f'#!/bin/sh\ncase "$*" in *" create "*) read -r _ < {tmp_path}/gate ;; esac\nexec runc "$@"\n')
    slow.chmod(0o755)
    argv = [BIN / "ctr", "--address", shared.address, "--namespace", NAMESPACE, "run", "--rm", "--runtime", slow]
    master, slave = pty.openpty()
    with subprocess.Popen([*argv, shared.ref, "slow", "true"], stdin=slave, stdout=slave, stderr=slave) as process:
        os.close(slave)
        with open(master, "rb", buffering=0) as terminal:
            told = terminal.read(4096)
            assert re.fullmatch(rb"ctr: creating task slow: \d+\.\d s so far\r\n", told)
            (tmp_path / "gate").write_text("\n")
            with contextlib.suppress(OSError):  # EIO: ctr has ended
                while part := terminal.read(4096):
                    told += part
    assert process.returncode == 0
    assert re.search(rb"ctr: creating task slow: took \d+\.\d s\r\n$", told)


def test_defaults_of_a_namespace(shared):
    shared.ctr("ns", "create", "chosen", "containerd.io/defaults/runtime=none-such")
    done = shared.ctr("run", "--rootfs", "/", "c", "true", namespace="chosen", check=False)
    assert "none-such" in done.stderr
    shared.ctr("ns", "rm", "chosen")


def test_an_image_steers_nothing_by_its_labels(shared):
    shared.ctr("containers", "create", "--label", "mine=1", shared.ref, "labelled", "true")
    labels = json.loads(shared.ctr("containers", "info", "labelled").stdout)["labels"]
    assert labels == {"a.label": "image", "mine": "1", "io.containerd.image.config.stop-signal": "SIGUSR1"}
    shared.ctr("containers", "rm", "labelled")
