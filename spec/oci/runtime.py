"""The OCI runtime spec's configuration (v1.2, config.md and config-linux.md) as Structs: what holdd reads and writes.

A caller's own document is kept as the bytes that came (`Container.spec`); these Structs are for making one, and for the
few fields that holdd must read.
"""

from collections.abc import Sequence
from typing import Annotated

import msgspec

from spec import errors
from spec.base import Doc

Id = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]  # a uid or gid; the spec says uint32


class User(Doc, frozen=True):
    """`username` is holdd's on Linux: `name|uid[:group|gid]`, resolved in the root filesystem by the daemon."""

    uid: Id = 0
    gid: Id = 0
    umask: Id | None = None
    additional_gids: Sequence[Id] = ()
    username: str = ""


class Rlimit(Doc, frozen=True, omit_defaults=False):
    """Both limits are always written: the spec requires them, and 0 is a common one (no core files)."""

    type: str
    hard: int = 0
    soft: int = 0


class Capabilities(Doc, frozen=True):
    bounding: Sequence[str] = ()
    effective: Sequence[str] = ()
    inheritable: Sequence[str] = ()
    permitted: Sequence[str] = ()
    ambient: Sequence[str] = ()


class Box(Doc, frozen=True):
    height: int = 0
    width: int = 0


class Scheduler(Doc, frozen=True):
    """sched_setattr(2); times in nanoseconds."""

    policy: str
    nice: int = 0
    priority: int = 0
    flags: Sequence[str] = ()
    runtime: int = 0
    deadline: int = 0
    period: int = 0


class IOPriority(Doc, frozen=True, omit_defaults=False):
    """ioprio_set(2)."""

    class_: str = msgspec.field(name="class")
    priority: int = 0


class ExecCPUAffinity(Doc, frozen=True):
    initial: str = ""
    final: str = ""


class Process(Doc, frozen=True):
    terminal: bool = False
    console_size: Box | None = None
    user: User = msgspec.field(default=User())
    args: Sequence[str] = ()
    env: Sequence[str] = ()
    cwd: str = ""
    capabilities: Capabilities | None = None
    rlimits: Sequence[Rlimit] = ()
    no_new_privileges: bool = False
    apparmor_profile: str = ""
    oom_score_adj: int | None = None
    selinux_label: str = ""
    scheduler: Scheduler | None = None
    io_priority: IOPriority | None = None
    exec_cpu_affinity: ExecCPUAffinity | None = msgspec.field(default=None, name="execCPUAffinity")


class Root(Doc, frozen=True):
    path: str = ""
    readonly: bool = False


class IDMapping(Doc, frozen=True):
    container_id: Id = msgspec.field(name="containerID")
    host_id: Id = msgspec.field(name="hostID")
    size: Id


class Mount(Doc, frozen=True):
    destination: str
    type: str = ""
    source: str = ""
    options: Sequence[str] = ()
    uid_mappings: Sequence[IDMapping] = ()
    gid_mappings: Sequence[IDMapping] = ()


class LinuxNamespace(Doc, frozen=True):
    """`type` is pid, network, ipc, uts, mount, user, cgroup or time; with `path` it is joined, else made."""

    type: str
    path: str = ""


class Device(Doc, frozen=True):
    path: str
    type: str
    major: int = 0
    minor: int = 0
    file_mode: int | None = None
    uid: int | None = None
    gid: int | None = None


class DeviceRule(Doc, frozen=True, omit_defaults=False):
    allow: bool = False
    type: str = "a"
    major: int | None = None
    minor: int | None = None
    access: str = "rwm"


class Memory(Doc, frozen=True):
    """In bytes."""

    limit: int | None = None
    reservation: int | None = None
    swap: int | None = None
    kernel: int | None = None
    kernel_tcp: int | None = msgspec.field(default=None, name="kernelTCP")
    swappiness: int | None = None
    disable_oom_killer: bool | None = msgspec.field(default=None, name="disableOOMKiller")
    use_hierarchy: bool | None = None
    check_before_update: bool | None = None


class CPU(Doc, frozen=True):
    """`quota` and `period` in microseconds."""

    shares: int | None = None
    quota: int | None = None
    burst: int | None = None
    period: int | None = None
    realtime_runtime: int | None = None
    realtime_period: int | None = None
    cpus: str = ""
    mems: str = ""
    idle: int | None = None


class Pids(Doc, frozen=True, omit_defaults=False):
    """The limit is always written: the spec requires it."""

    limit: int = 0


class WeightDevice(Doc, frozen=True):
    major: int
    minor: int
    weight: int | None = None
    leaf_weight: int | None = None


class ThrottleDevice(Doc, frozen=True):
    """`rate` in bytes or operations a second."""

    major: int
    minor: int
    rate: int


class BlockIO(Doc, frozen=True):
    weight: int | None = None
    leaf_weight: int | None = None
    weight_device: Sequence[WeightDevice] = ()
    throttle_read_bps_device: Sequence[ThrottleDevice] = ()
    throttle_write_bps_device: Sequence[ThrottleDevice] = ()
    throttle_read_iops_device: Sequence[ThrottleDevice] = msgspec.field(default=(), name="throttleReadIOPSDevice")
    throttle_write_iops_device: Sequence[ThrottleDevice] = msgspec.field(default=(), name="throttleWriteIOPSDevice")


class HugepageLimit(Doc, frozen=True):
    """`page_size` as in "2MB"; `limit` in bytes."""

    page_size: str
    limit: int


class InterfacePriority(Doc, frozen=True):
    name: str
    priority: int


class Network(Doc, frozen=True):
    class_id: Id | None = msgspec.field(default=None, name="classID")
    priorities: Sequence[InterfacePriority] = ()


class Rdma(Doc, frozen=True):
    hca_handles: Id | None = None
    hca_objects: Id | None = None


class Resources(Doc, frozen=True):
    devices: Sequence[DeviceRule] = ()
    memory: Memory | None = None
    cpu: CPU | None = None
    pids: Pids | None = None
    block_io: BlockIO | None = msgspec.field(default=None, name="blockIO")
    hugepage_limits: Sequence[HugepageLimit] = ()
    network: Network | None = None
    rdma: dict[str, Rdma] = {}
    unified: dict[str, str] = {}


class SyscallArgument(Doc, frozen=True):
    index: int
    value: int
    op: str
    value_two: int = 0


class Syscall(Doc, frozen=True):
    names: Sequence[str]
    action: str
    errno_ret: int | None = None
    args: Sequence[SyscallArgument] = ()


class Seccomp(Doc, frozen=True):
    default_action: str
    default_errno_ret: int | None = None
    architectures: Sequence[str] = ()
    flags: Sequence[str] = ()
    listener_path: str = ""
    listener_metadata: str = ""
    syscalls: Sequence[Syscall] = ()


class IntelRdt(Doc, frozen=True):
    clos_id: str = msgspec.field(default="", name="closID")
    l3_cache_schema: str = ""
    mem_bw_schema: str = ""
    enable_cmt: bool = msgspec.field(default=False, name="enableCMT")
    enable_mbm: bool = msgspec.field(default=False, name="enableMBM")


class Personality(Doc, frozen=True):
    domain: str
    flags: Sequence[str] = ()


class TimeOffset(Doc, frozen=True):
    secs: int = 0
    nanosecs: int = 0


class Linux(Doc, frozen=True):
    uid_mappings: Sequence[IDMapping] = ()
    gid_mappings: Sequence[IDMapping] = ()
    sysctl: dict[str, str] = {}
    resources: Resources | None = None
    cgroups_path: str = ""
    namespaces: Sequence[LinuxNamespace] = ()
    devices: Sequence[Device] = ()
    seccomp: Seccomp | None = None
    rootfs_propagation: str = ""
    masked_paths: Sequence[str] = ()
    readonly_paths: Sequence[str] = ()
    mount_label: str = ""
    intel_rdt: IntelRdt | None = None
    personality: Personality | None = None
    time_offsets: dict[str, TimeOffset] = {}


class Hook(Doc, frozen=True):
    path: str
    args: Sequence[str] = ()
    env: Sequence[str] = ()
    timeout: int | None = None


class Hooks(Doc, frozen=True):
    prestart: Sequence[Hook] = ()
    create_runtime: Sequence[Hook] = ()
    create_container: Sequence[Hook] = ()
    start_container: Sequence[Hook] = ()
    poststart: Sequence[Hook] = ()
    poststop: Sequence[Hook] = ()


class Spec(Doc, frozen=True):
    oci_version: str = ""
    process: Process | None = None
    root: Root | None = None
    hostname: str = ""
    domainname: str = ""
    mounts: Sequence[Mount] = ()
    hooks: Hooks | None = None
    annotations: dict[str, str] = {}
    linux: Linux | None = None


_spec = msgspec.json.Decoder(Spec)


def decode(document: bytes) -> Spec:
    """What holdd knows of a configuration; InvalidArgument."""
    try:
        return _spec.decode(document)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
        raise errors.InvalidArgument(f"reading an OCI runtime spec: {exc}") from exc
