"""From an image's config and options to a runtime spec, equal in meaning to containerd's default. Pure: each step takes
a Spec and gives a new one.

The start is `default_spec(namespace, id)`; `with_...` steps follow in any order but for `with_image`, which comes first
of those that touch the process.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence

from msgspec.structs import replace

from spec import errors
from spec.base import to_json
from spec.oci import runtime, users
from spec.oci.image import ExecutionConfig, ImageConfig
from spec.oci.runtime import Process, Spec

OCI_VERSION = "1.0.2"  # what every runtime we drive accepts
DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CPU_PERIOD = 100_000  # microseconds
MAX_MAPPINGS = 340  # lines that the kernel takes in uid_map (user_namespaces(7)); runc overflowed on more

CAPABILITIES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
    "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
)  # fmt: skip

# capabilities(7), Linux 5.9 and later, in the order of their numbers.
ALL_CAPABILITIES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
    "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
    "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
)  # fmt: skip

MASKED_PATHS = (
    "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
    "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
)  # fmt: skip

READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

MOUNTS = (
    runtime.Mount(destination="/proc", type="proc", source="proc", options=("nosuid", "noexec", "nodev")),
    runtime.Mount(
        destination="/dev", type="tmpfs", source="tmpfs", options=("nosuid", "strictatime", "mode=755", "size=65536k")
    ),
    runtime.Mount(
        destination="/dev/pts",
        type="devpts",
        source="devpts",
        options=("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
    ),
    runtime.Mount(
        destination="/dev/shm",
        type="tmpfs",
        source="shm",
        options=("nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
    ),
    runtime.Mount(destination="/dev/mqueue", type="mqueue", source="mqueue", options=("nosuid", "noexec", "nodev")),
    runtime.Mount(destination="/sys", type="sysfs", source="sysfs", options=("nosuid", "noexec", "nodev", "ro")),
    runtime.Mount(
        destination="/run", type="tmpfs", source="tmpfs", options=("nosuid", "strictatime", "mode=755", "size=65536k")
    ),
)

# Memory devices and terminals that every container may use: (type, major, minor).
_DEVICES = (
    ("c", 1, 3), ("c", 1, 5), ("c", 1, 7), ("c", 1, 8), ("c", 1, 9), ("c", 5, 0), ("c", 5, 1), ("c", 136, None),
    ("c", 5, 2),
)  # fmt: skip

_NUMBER = re.compile(r"[+-]?[0-9]+", re.ASCII)
_NAMESPACES = ("pid", "network", "ipc", "uts", "mount", "user", "cgroup", "time")
_PROPAGATIONS = ("private", "shared", "slave", "unbindable")  # mount_namespaces(7); with r, of all that is below too


def default_spec(namespace: str, id: str) -> Spec:
    """A container of its own pid, ipc, uts, mount and network namespaces, with containerd's capabilities and limits."""
    caps = runtime.Capabilities(bounding=CAPABILITIES, effective=CAPABILITIES, permitted=CAPABILITIES)
    return Spec(
        oci_version=OCI_VERSION,
        process=Process(
            cwd="/",
            capabilities=caps,
            no_new_privileges=True,
            rlimits=(runtime.Rlimit(type="RLIMIT_NOFILE", hard=1024, soft=1024),),
        ),
        root=runtime.Root(path="rootfs"),
        mounts=MOUNTS,
        linux=runtime.Linux(
            cgroups_path=f"/{namespace}/{id}",
            namespaces=tuple(runtime.LinuxNamespace(type=kind) for kind in ("pid", "ipc", "uts", "mount", "network")),
            masked_paths=MASKED_PATHS,
            readonly_paths=READONLY_PATHS,
            resources=runtime.Resources(devices=(runtime.DeviceRule(allow=False), *map(_allowed, _DEVICES))),
        ),
    )


def encode(spec: Spec) -> bytes:
    """config.json."""
    return to_json(spec)


def with_image(spec: Spec, config: ImageConfig, args: Sequence[str] = ()) -> Spec:
    """What the image says about its process; `args` replace its command, not its entrypoint.

    Variables that are set already stay as they are. InvalidArgument for no command, and for a user or working directory
    that cannot be.
    """
    said = config.config or ExecutionConfig()
    argv = [*(said.entrypoint or ()), *(args or said.cmd or ())]
    if not argv:
        raise errors.InvalidArgument("building a spec: the image has no command, and none was given")
    before = _of(spec).env
    spec = with_env(with_env(_process(spec, env=()), said.env or (DEFAULT_PATH,)), before)
    spec = with_cwd(_process(spec, args=tuple(argv)), said.working_dir or "/")
    return with_user(spec, said.user or "0")


def with_args(spec: Spec, args: Sequence[str]) -> Spec:
    return _process(spec, args=tuple(args))


def with_cwd(spec: Spec, cwd: str) -> Spec:
    if not cwd.startswith("/"):
        raise errors.InvalidArgument(f"building a spec: the working directory {cwd!r} is not absolute")
    return _process(spec, cwd=cwd)


def with_env(spec: Spec, env: Iterable[str]) -> Spec:
    """Set `KEY=value`; a bare `KEY` removes the variable."""
    variables: dict[str, str] = {}
    for entry in (*_of(spec).env, *env):
        key, equals, _ = entry.partition("=")
        variables.pop(key, None) if not equals else variables.update({key: entry})
    return _process(spec, env=tuple(variables.values()))


def with_terminal(spec: Spec) -> Spec:
    return with_env(_process(spec, terminal=True), ("TERM=xterm",))


def with_user(spec: Spec, user: str) -> Spec:
    """`name|uid[:group|gid]`, kept as text: the daemon resolves it in the root filesystem when the process is made.

    Numbers too: which further groups a uid belongs to only that filesystem's files say (CVE-2023-25173).
    InvalidArgument for what is malformed or out of range (CVE-2026-46680).
    """
    who, colon, of = user.partition(":")
    if not who or ":" in of or (colon and not of):
        raise errors.InvalidArgument(f"building a spec: user {user[:100]!r} is not of the form user[:group]")
    for number in (who, of):
        if _NUMBER.fullmatch(number) and not _within(number.removeprefix("+"), users.NUMBER_MAX):
            raise errors.InvalidArgument(f"building a spec: user {user[:100]!r}: {number[:40]} is out of range")
    return _process(spec, user=replace(_of(spec).user, username=user))


def with_hostname(spec: Spec, hostname: str) -> Spec:
    return replace(spec, hostname=hostname)


def with_mounts(spec: Spec, mounts: Iterable[runtime.Mount]) -> Spec:
    return replace(spec, mounts=(*spec.mounts, *mounts))


def with_namespace(spec: Spec, kind: str, path: str = "") -> Spec:
    """Join the namespace at `path`, or make one."""
    if kind not in _NAMESPACES:
        raise errors.InvalidArgument(f"namespace type {kind!r} is none of {', '.join(_NAMESPACES)}")
    if path and not path.startswith("/"):
        raise errors.InvalidArgument(f"building a spec: the {kind} namespace's path {path!r} is not absolute")
    kept = [namespace for namespace in _linux(spec).namespaces if namespace.type != kind]
    return _with_linux(spec, namespaces=(*kept, runtime.LinuxNamespace(type=kind, path=path)))


def with_host_namespace(spec: Spec, kind: str) -> Spec:
    """Stay in the host's namespace of that type."""
    return _with_linux(
        spec, namespaces=tuple(namespace for namespace in _linux(spec).namespaces if namespace.type != kind)
    )


def with_user_namespace(spec: Spec, uids: Sequence[runtime.IDMapping], gids: Sequence[runtime.IDMapping]) -> Spec:
    """A user namespace of its own, in which these host ids are seen as those of the container."""
    if not uids or not gids or len(uids) > MAX_MAPPINGS or len(gids) > MAX_MAPPINGS:
        raise errors.InvalidArgument(
            f"building a spec: a user namespace takes 1 to {MAX_MAPPINGS} mappings of each kind"
        )
    return _with_linux(with_namespace(spec, "user"), uid_mappings=tuple(uids), gid_mappings=tuple(gids))


def with_host_network(spec: Spec, hostname: str) -> Spec:
    """The host's network, and its idea of names: /etc/hosts, /etc/resolv.conf, HOSTNAME."""
    files = [
        runtime.Mount(destination=path, type="bind", source=path, options=("rbind", "ro"))
        for path in ("/etc/hosts", "/etc/resolv.conf")
    ]
    return with_env(with_mounts(with_host_namespace(spec, "network"), files), (f"HOSTNAME={hostname}",))


def with_readonly_root(spec: Spec) -> Spec:
    return replace(spec, root=replace(spec.root or runtime.Root(), readonly=True))


def with_root(spec: Spec, path: str) -> Spec:
    return replace(spec, root=replace(spec.root or runtime.Root(), path=path))


def with_root_propagation(spec: Spec, kind: str) -> Spec:
    """How mounts pass between the root filesystem and its host: private, shared, slave or unbindable, with r before it
    for all mounts below. InvalidArgument."""
    if kind not in _PROPAGATIONS and kind.removeprefix("r") not in _PROPAGATIONS:
        raise errors.InvalidArgument(f"mount propagation {kind!r} is none of {', '.join(_PROPAGATIONS)}, nor with r")
    return _with_linux(spec, rootfs_propagation=kind)


def with_capabilities(spec: Spec, add: Iterable[str] = (), drop: Iterable[str] = ()) -> Spec:
    """Change bounding, effective and permitted ones; `ALL` means all. Inheritable stays empty (CVE-2022-24769).

    Dropping all comes before adding, and what is dropped by name stays dropped.
    """
    dropped = set(map(_capability, drop))
    held = () if "ALL" in dropped else (_of(spec).capabilities or runtime.Capabilities()).bounding
    added = [cap for name in map(_capability, add) for cap in (ALL_CAPABILITIES if name == "ALL" else (name,))]
    kept = tuple(cap for cap in dict.fromkeys((*held, *added)) if cap not in dropped)
    return _process(spec, capabilities=runtime.Capabilities(bounding=kept, effective=kept, permitted=kept))


def capabilities_of(mask: int) -> list[str]:
    """Names of the bits of a capability set, as in the CapBnd line of proc(5); bits without a name are left out."""
    return [name for number, name in enumerate(ALL_CAPABILITIES) if mask >> number & 1]


def with_privileged(spec: Spec, capabilities: Iterable[str] = ("ALL",)) -> Spec:
    """All devices, nothing masked, /sys and cgroups writable, and `capabilities`: all that whoever starts it holds."""
    spec = _process(with_capabilities(spec, add=capabilities), apparmor_profile="", selinux_label="")
    mounts = tuple(
        replace(mount, options=tuple("rw" if option == "ro" else option for option in mount.options))
        if mount.type in ("sysfs", "cgroup")
        else mount
        for mount in spec.mounts
    )
    resources = replace(_resources(spec), devices=(runtime.DeviceRule(allow=True),))
    linux = {"masked_paths": (), "readonly_paths": (), "resources": resources, "seccomp": None}
    return _with_linux(replace(spec, mounts=mounts), **linux)


def with_new_privileges(spec: Spec) -> Spec:
    return _process(spec, no_new_privileges=False)


def with_rlimit(spec: Spec, kind: str, soft: int, hard: int) -> Spec:
    """`kind` as in RLIMIT_NOFILE. InvalidArgument for a soft limit above the hard one."""
    if not 0 <= soft <= hard < 1 << 64:
        raise errors.InvalidArgument(f"building a spec: {kind} {soft}:{hard} is not soft:hard, or out of range")
    kept = [rlimit for rlimit in _of(spec).rlimits if rlimit.type != kind]
    return _process(spec, rlimits=(*kept, runtime.Rlimit(type=kind, soft=soft, hard=hard)))


def with_memory_limit(spec: Spec, limit_bytes: int) -> Spec:
    memory = replace(_resources(spec).memory or runtime.Memory(), limit=limit_bytes)
    return _with_linux(spec, resources=replace(_resources(spec), memory=memory))


def with_cpu(spec: Spec, **values: int | str) -> Spec:
    """Fields of `runtime.CPU`."""
    cpu = replace(_resources(spec).cpu or runtime.CPU(), **values)
    return _with_linux(spec, resources=replace(_resources(spec), cpu=cpu))


def with_cpus(spec: Spec, cpus: float) -> Spec:
    """Time of that many processors, 1.5 for one and a half."""
    if not (math.isfinite(cpus) and 0 < cpus < 1 << 20):
        raise errors.InvalidArgument(f"building a spec: {cpus} is no number of processors")
    return with_cpu(spec, period=CPU_PERIOD, quota=int(cpus * CPU_PERIOD))


def with_device(spec: Spec, device: runtime.Device, access: str = "rwm") -> Spec:
    """Make the device node, in place of one of its path, and allow `access` to it: some of r, w and m (mknod)."""
    if not access or not set(access) <= set("rwm"):
        raise errors.InvalidArgument(f"building a spec: device {device.path}: access {access!r} is not some of rwm")
    rule = runtime.DeviceRule(allow=True, type=device.type, major=device.major, minor=device.minor, access=access)
    rules = _resources(spec).devices if device.type == "p" else (*_resources(spec).devices, rule)
    kept = [other for other in _linux(spec).devices if other.path != device.path]
    return _with_linux(spec, devices=(*kept, device), resources=replace(_resources(spec), devices=rules))


def with_masked_paths(spec: Spec, paths: Iterable[str]) -> Spec:
    """Paths that cannot be read in the container, in place of those before."""
    return _with_linux(spec, masked_paths=tuple(paths))


def with_readonly_paths(spec: Spec, paths: Iterable[str]) -> Spec:
    """Paths that cannot be written in the container, in place of those before."""
    return _with_linux(spec, readonly_paths=tuple(paths))


def with_seccomp(spec: Spec, profile: runtime.Seccomp | None) -> Spec:
    """`spec.oci.seccomp` has the default one; None for unconfined."""
    return _with_linux(spec, seccomp=profile)


def with_apparmor(spec: Spec, profile: str) -> Spec:
    """The name of a profile that the kernel has."""
    return _process(spec, apparmor_profile=profile)


def with_pids_limit(spec: Spec, limit: int) -> Spec:
    return _with_linux(spec, resources=replace(_resources(spec), pids=runtime.Pids(limit=limit)))


def with_cgroup(spec: Spec, path: str) -> Spec:
    return _with_linux(spec, cgroups_path=path)


def with_rdt_class(spec: Spec, name: str) -> Spec:
    """The class of Intel's resource director, a directory of resctrl."""
    return _with_linux(spec, intel_rdt=runtime.IntelRdt(clos_id=name))


def with_annotations(spec: Spec, annotations: Mapping[str, str]) -> Spec:
    return replace(spec, annotations={**spec.annotations, **annotations})


def _process(spec: Spec, **changes: object) -> Spec:
    return replace(spec, process=replace(_of(spec), **changes))


def _of(spec: Spec) -> Process:
    return spec.process or Process()


def _linux(spec: Spec) -> runtime.Linux:
    return spec.linux or runtime.Linux()


def _with_linux(spec: Spec, **changes: object) -> Spec:
    return replace(spec, linux=replace(_linux(spec), **changes))


def _resources(spec: Spec) -> runtime.Resources:
    return _linux(spec).resources or runtime.Resources()


def _within(text: str, most: int) -> bool:
    """Whether `text` is digits of a number up to `most`; int() of a long text takes time that grows with its square."""
    return text.isascii() and text.isdigit() and len(text.lstrip("0")) <= 10 and int(text[-32:]) <= most


def _capability(name: str) -> str:
    upper = name.upper()
    if upper == "ALL":
        return upper
    full = upper if upper.startswith("CAP_") else f"CAP_{upper}"
    if full not in ALL_CAPABILITIES:
        raise errors.InvalidArgument(f"capability {name!r} is unknown")
    return full


def _allowed(device: tuple[str, int, int | None]) -> runtime.DeviceRule:
    kind, major, minor = device
    return runtime.DeviceRule(allow=True, type=kind, major=major, minor=minor, access="rwm")
