"""What metadata persists and the API shows. Times are nanoseconds since the epoch, sizes are bytes."""

import enum
from collections.abc import Sequence

import msgspec

from spec.base import Record
from spec.oci.image import Descriptor

Labels = dict[str, str]


class Namespace(Record, frozen=True):
    name: str
    labels: Labels = {}


class Timing(Record, frozen=True):
    """A phase of what was done to an object: on what, when it began, in nanoseconds since the epoch, and how long it
    took."""

    name: str
    began_at_ns: int
    took_ns: int = 0
    of: str = ""


class Image(Record, frozen=True):
    """A name for a descriptor. `timing` is how the daemon brought in what it points at; of one image that is asked for,
    not in lists."""

    name: str
    target: Descriptor
    labels: Labels = {}
    created_at_ns: int = 0
    updated_at_ns: int = 0
    timing: Sequence[Timing] = ()


class RuntimeRef(Record, frozen=True):
    """Which OCI runtime runs a container: a name from the configuration, or of a program in the daemon's PATH, or an
    absolute path, and its own options."""

    name: str
    options: msgspec.Raw = msgspec.Raw(b"\xc0")


class RuntimeOptions(Record, frozen=True):
    """`RuntimeRef.options`, as msgpack (containerd.runc.v1.Options); what is empty or false leaves the configuration's.

    `criu_work_path` is where CRIU leaves its log when a checkpoint names no other place. `config_path` is a TOML file
    of the daemon's host with keys of `[runtimes.NAME]`, which go before the configuration's and after these here."""

    binary_name: str = ""
    root: str = ""
    systemd_cgroup: bool = False
    no_pivot_root: bool = False
    no_new_keyring: bool = False
    criu_work_path: str = ""
    config_path: str = ""


class RuntimeRequest(Record, frozen=True):
    """What PluginInfo is asked of the runtime plugin: about `runtime_path`, as in a RuntimeRef (empty: the
    namespace's default), with `options`, those of one."""

    runtime_path: str = ""
    options: msgspec.Raw = msgspec.Raw(b"\xc0")


class RuntimeVersion(Record, frozen=True):
    version: str = ""
    revision: str = ""


class RuntimeInfo(Record, frozen=True):
    """What there is to tell about an OCI runtime. `path` is its program, `version` what it says of itself, `features`
    the JSON of the OCI runtime spec's features document (empty: it has none), `annotations` those in it, `warnings`
    what should be known to whoever uses it."""

    name: str
    path: str = ""
    version: RuntimeVersion = RuntimeVersion()
    options: msgspec.Raw = msgspec.Raw(b"\xc0")
    features: bytes = b""
    annotations: dict[str, str] = {}
    warnings: Sequence[str] = ()


class Container(Record, frozen=True):
    """Metadata of a container; running it makes a task. `spec` is the OCI runtime spec's JSON, kept to the byte."""

    id: str
    labels: Labels = {}
    image: str = ""
    runtime: RuntimeRef = RuntimeRef(name="")
    spec: bytes = b""
    snapshotter: str = ""
    snapshot_key: str = ""
    created_at_ns: int = 0
    updated_at_ns: int = 0
    extensions: dict[str, msgspec.Raw] = {}


class ContentInfo(Record, frozen=True):
    digest: str
    size: int = 0
    created_at_ns: int = 0
    updated_at_ns: int = 0
    labels: Labels = {}


class IngestStatus(Record, frozen=True):
    """A blob under way: `offset` bytes are written, `total` is the announced size (0: unknown)."""

    ref: str
    offset: int = 0
    total: int = 0
    expected: str = ""
    started_at_ns: int = 0
    updated_at_ns: int = 0


class Kind(enum.IntEnum):
    """Kinds of snapshot, containerd's numbers."""

    UNKNOWN = 0
    VIEW = 1
    ACTIVE = 2
    COMMITTED = 3


class SnapshotInfo(Record, frozen=True):
    """A snapshot: `name` is the key of an active one or a view, the name of a committed one."""

    name: str
    parent: str = ""
    kind: Kind = Kind.UNKNOWN
    created_at_ns: int = 0
    updated_at_ns: int = 0
    labels: Labels = {}


class LeaseResource(Record, frozen=True):
    """`type` is content, ingests, images or snapshots/<snapshotter>."""

    id: str
    type: str


class Lease(Record, frozen=True):
    """Keeps what is made under it, until it is deleted or `containerd.io/gc.expire` has passed."""

    id: str
    created_at_ns: int = 0
    labels: Labels = {}


class Status(enum.IntEnum):
    """Statuses of a process, containerd's numbers."""

    UNKNOWN = 0
    CREATED = 1
    RUNNING = 2
    STOPPED = 3
    PAUSED = 4
    PAUSING = 5


class Process(Record, frozen=True):
    """A task's init process (`exec_id` empty) or an exec'd one. `exit_status` counts once status is STOPPED. `timing`
    is how init was made and started; of one process that is asked for, not in lists."""

    container_id: str
    exec_id: str = ""
    pid: int = 0
    status: Status = Status.UNKNOWN
    stdin: str = ""
    stdout: str = ""
    stderr: str = ""
    terminal: bool = False
    exit_status: int = 0
    exited_at_ns: int = 0
    timing: Sequence[Timing] = ()


class Exit(Record, frozen=True):
    """How a process ended: `status` is the exit code, or 128 + the signal that killed it.

    `oom_killed`: it failed, and processes of its container had been killed for memory, `oom_kills` of them; with
    `oom_ancestor` only by limits above the container's own.
    """

    pid: int = 0
    status: int = 0
    exited_at_ns: int = 0
    oom_killed: bool = False
    oom_kills: int = 0
    oom_ancestor: bool = False


class CheckpointOptions(Record, frozen=True):
    """How a task is checkpointed (containerd.runc.v1.CheckpointOptions). `exit`: it ends. The paths are directories of
    the daemon's host: `image_path` is where the checkpoint stays, `work_path` where CRIU leaves its log, `parent_path`
    a checkpoint that came before."""

    exit: bool = False
    open_tcp: bool = False
    external_unix_sockets: bool = False
    terminal: bool = False
    file_locks: bool = False
    empty_namespaces: Sequence[str] = ()
    cgroups_mode: str = ""
    image_path: str = ""
    work_path: str = ""
    parent_path: str = ""


class PluginInfo(Record, frozen=True):
    """A component as the assembly sees it. `init_error` is empty when it works."""

    type: str
    id: str
    requires: Sequence[str] = ()
    platforms: Sequence[str] = ()
    capabilities: Sequence[str] = ()
    exports: dict[str, str] = {}
    status: str = "ok"
    init_error: str = ""


class Fault(Record, frozen=True):
    """What is wrong with something stored. `place` is metadata, content or snapshots/SNAPSHOTTER, `subject` what it is
    about there. What is `harmless` goes by itself: rubbish is collected, what a crash cut short is done at a start."""

    place: str
    subject: str
    what: str
    harmless: bool = False
