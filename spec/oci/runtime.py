"""The OCI runtime spec's configuration (v1.2, config.md and config-linux.md) as Structs: what holdd reads and writes.

A caller's own document is kept as the bytes that came (`Container.spec`); these Structs are for making one, and for the
few fields that holdd must read.
"""

from collections.abc import Sequence

import msgspec

from spec import errors
from spec.base import Doc


class User(Doc, frozen=True):
    """`username` is holdd's on Linux: `name|uid[:group|gid]`, resolved in the root filesystem by the daemon."""

    uid: int = 0
    gid: int = 0
    umask: int | None = None
    additional_gids: Sequence[int] = ()
    username: str = ""


class Rlimit(Doc, frozen=True):
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


class Root(Doc, frozen=True):
    path: str = ""
    readonly: bool = False


class IDMapping(Doc, frozen=True):
    container_id: int = msgspec.field(name="containerID")
    host_id: int = msgspec.field(name="hostID")
    size: int


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
    swappiness: int | None = None
    disable_oom_killer: bool | None = msgspec.field(default=None, name="disableOOMKiller")


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


class Pids(Doc, frozen=True):
    limit: int = 0


class Resources(Doc, frozen=True):
    devices: Sequence[DeviceRule] = ()
    memory: Memory | None = None
    cpu: CPU | None = None
    pids: Pids | None = None
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
    syscalls: Sequence[Syscall] = ()


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
