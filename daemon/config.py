"""The configuration: the schema of the file, TOML. A key it does not have is an error; absence of the file means
defaults."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import msgspec

from daemon.settings import Files, Mistake, Path, Section, check, plain

DEFAULT_PATH = "/etc/holdd/config.toml"
VERSION = 1
IMPORTS = ("conf.d/*.toml",)

Positive = Annotated[int, msgspec.Meta(gt=0)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]


class Metadata(Section, frozen=True):
    """`sync` false trades what a power loss would take for speed. `map_size` is in bytes, and grows by itself. With
    `content_sharing_policy` isolated a namespace gets a blob that another has only by sending its bytes, unless that
    one bears the label containerd.io/namespace.shareable=true."""

    sync: bool = True
    content_sharing_policy: Literal["shared", "isolated"] = "shared"
    map_size: Annotated[int, msgspec.Meta(ge=1 << 20)] = 1 << 30


class Content(Section, frozen=True):
    sync: bool = True


class Events(Section, frozen=True):
    """`ring_size` is how many bytes of disk hold the last events, about 150 each; changing it forgets them."""

    ring_size: Annotated[int, msgspec.Meta(ge=4 << 20)] = 16 << 20


class RuntimeEntry(Section, frozen=True):
    """An OCI runtime: `path` is absolute or looked up in PATH; `root` is where it keeps its state (empty: below ours).

    `args` are global options of its own; `timeout_s` bounds each of its calls. A container's own file of options
    (`ctr run --runtime-config-path`) has the same keys.
    """

    path: str
    root: str = ""
    args: tuple[str, ...] = ()
    systemd_cgroup: bool = False
    no_pivot: bool = False
    no_new_keyring: bool = False
    timeout_s: Annotated[float, msgspec.Meta(gt=0)] = 30.0


class GC(Section, frozen=True):
    """When garbage is collected. `pause_threshold` is the share of time it may take (at most 0.5); `deletion_threshold`
    deletions make a run due at once (0: never); a scheduled run waits for `mutation_threshold` mutations or a deletion.
    """

    pause_threshold: Annotated[float, msgspec.Meta(ge=0, le=0.5)] = 0.02
    deletion_threshold: Annotated[int, msgspec.Meta(ge=0)] = 0
    mutation_threshold: Annotated[int, msgspec.Meta(ge=0)] = 100
    schedule_delay_s: Seconds = 0.0
    startup_delay_s: Seconds = 0.1


class Restart(Section, frozen=True):
    """When containers with a restart policy are started again: after `delay_s`, each time twice as long up to
    `max_delay_s`, and after `delay_s` again once they ran for `reset_s`. One without a task is given one after
    `grace_s`, unless somebody else does."""

    delay_s: Seconds = 0.1
    max_delay_s: Seconds = 60.0
    reset_s: Seconds = 10.0
    grace_s: Seconds = 5.0


class Metrics(Section, frozen=True):
    """The endpoint of Prometheus, at `address`: HOST:PORT or unix:///PATH, empty for none. `groups` are those of the
    containers' figures that it tells, `histogram` whether it tells how long calls took; within `max_age_s` it
    tells the same again."""

    address: str = ""
    groups: tuple[Literal["pids", "cpu", "per_cpu", "memory", "io", "hugetlb", "pressure"], ...] = (
        "pids", "cpu", "memory", "io", "hugetlb",
    )  # fmt: skip
    histogram: bool = True
    max_age_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 1.0


class Registry(Section, frozen=True):
    """`hosts_dir` holds a folder a registry with its hosts.toml, as containerd's certs.d; of several (between colons)
    the first that has one counts. A layer of more than twice `concurrent_layer_fetch_buffer` bytes comes in parts of
    that size, where its server gives parts; `max_concurrent_ranges` of them are fetched ahead, and are in memory, by
    all pulls together, unless one connection brings 64 MB a second. Either 0 is for one connection a layer."""

    hosts_dir: str = "/etc/holdd/certs.d:/etc/containerd/certs.d:/etc/docker/certs.d"
    max_concurrent_downloads: Positive = 3
    max_concurrent_uploads: Positive = 3
    concurrent_layer_fetch_buffer: Annotated[int, msgspec.Meta(ge=0)] = 4 << 20
    max_concurrent_ranges: Annotated[int, msgspec.Meta(ge=0)] = 2


class ImageVerifier(Section, frozen=True):
    """Programs that say whether a pulled image may be used: those of `bin_dir`, of which `max_verifiers` are asked (all
    when it is less than 0), each for at most `per_verifier_timeout_s`."""

    bin_dir: str = "/opt/containerd/image-verifier/bin"
    max_verifiers: int = 10
    per_verifier_timeout_s: Annotated[float, msgspec.Meta(gt=0)] = 10.0


class Transfer(Section, frozen=True):
    """How many layers are unpacked at once, by all transfers together; 0 for as many as there are cores."""

    max_concurrent_unpacks: Annotated[int, msgspec.Meta(ge=0)] = 0


class Directory(Section, frozen=True):
    """A snapshotter that keeps directories. `root_path` says where, instead of below root; `sync_remove` lets a removal
    return only once the disk space is given back."""

    root_path: str = ""
    sync_remove: bool = False


class Overlayfs(Directory, frozen=True):
    """`mount_options` are added to every overlay mount; `upperdir_label` tells each snapshot's own directory in its
    labels; `slow_chown` lets owners be changed file by file where the kernel cannot map them."""

    mount_options: tuple[str, ...] = ()
    upperdir_label: bool = False
    slow_chown: bool = False


class Aufs(Directory, frozen=True):
    """`mount_options` are added to every aufs mount; one of a name that holdd gives itself (dio, dirperm1, xino)
    replaces it."""

    mount_options: tuple[str, ...] = ()


class ProxyPlugin(Section, frozen=True):
    """A component in another process that answers at `address`. `platform`, `exports` and `capabilities` are what it is
    said to have; `timeout_s` bounds each call (0: none)."""

    type: Literal[
        "snapshot", "content", "diff", "io.holdd.snapshotter.v1", "io.holdd.content.v1", "io.holdd.differ.v1"
    ]
    address: str
    platform: str = ""
    exports: dict[str, str] = {}
    capabilities: tuple[str, ...] = ()
    timeout_s: Seconds = 120.0


class Snapshotters(Section, frozen=True):
    overlayfs: Overlayfs = Overlayfs()
    native: Directory = Directory()
    aufs: Aufs = Aufs()
    btrfs: Directory = Directory()


class Layers(Section, frozen=True):
    """How much a layer may be: `size` the most bytes it may inflate to, `ratio` the most of them for each byte read,
    once `slack` bytes came out, `entries` the most files, `header` the bytes of one entry's extended header."""

    size: Positive = 1 << 40
    ratio: Positive = 200
    slack: Positive = 1 << 30
    entries: Positive = 1 << 22
    header: Positive = 1 << 20


class Diff(Section, frozen=True):
    """`differs` (holdd's own is "walking", others are proxy plugins of type diff) are asked in this order; `sync_fs`
    makes a layer's data durable before its snapshot is committed."""

    differs: tuple[str, ...] = ("walking",)
    sync_fs: bool = True
    layers: Layers = Layers()


class StreamProcessor(Section, frozen=True):
    """A program that makes layers of media types `accepts` ones of `returns`: `path` is absolute or a name in the usual
    directories for programs, `env` (KEY=VALUE) all of its environment."""

    accepts: tuple[str, ...]
    returns: str
    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()


class Config(Section, frozen=True):
    """The whole file. `imports` are files, or patterns of them, relative to the one that has them; those of an absent
    or silent main file are its `conf.d/*.toml`. Plugins are named `type.id`; the start fails without all
    `required_plugins`."""

    version: int = VERSION
    imports: tuple[str, ...] = IMPORTS
    root: str = "/var/lib/holdd"
    state: str = "/run/holdd"
    address: str = "/run/holdd/holdd.sock"
    log_level: Literal["trace", "debug", "info", "warn", "error", "fatal", "panic"] = "info"
    log_format: Literal["text", "json"] = "text"
    default_snapshotter: str = "overlayfs"
    default_runtime: str = "runc"
    cgroup_parent: Annotated[str, msgspec.Meta(pattern="^(/.*)?$")] = ""
    disabled_plugins: tuple[str, ...] = ()
    required_plugins: tuple[str, ...] = ()
    metadata: Metadata = Metadata()
    content: Content = Content()
    events: Events = Events()
    gc: GC = GC()
    restart: Restart = Restart()
    metrics: Metrics = Metrics()
    registry: Registry = Registry()
    transfer: Transfer = Transfer()
    image_verifier: ImageVerifier = ImageVerifier()
    snapshotter: Snapshotters = Snapshotters()
    diff: Diff = Diff()
    stream_processors: dict[str, StreamProcessor] = {}
    runtimes: dict[str, RuntimeEntry] = {}
    proxy_plugins: dict[str, ProxyPlugin] = {}


# What a running daemon takes up when it is told to read its configuration again (SIGHUP); the rest needs a restart.
RELOADABLE = (
    ("log_level",),
    ("log_format",),
    ("default_snapshotter",),
    ("gc",),
    ("restart",),
    ("registry", "hosts_dir"),
    ("diff", "layers"),
    ("stream_processors",),
)


def reloadable(path: Path) -> bool:
    return any(path[: len(known)] == known for known in RELOADABLE)


def changed(old: Config, new: Config) -> list[Path]:
    """The keys whose values differ."""
    return list(_changed(plain(old), plain(new), ()))


def _changed(old: Any, new: Any, path: Path) -> Iterator[Path]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            yield from _changed(old.get(key), new.get(key), (*path, key))
    elif old != new:
        yield path


def load(path: str, overrides: Mapping[str, str | None]) -> Config:
    """The file at `path` (it may be absent) and what it imports, with what the command line gave laid over it.

    InvalidArgument names every mistake, with file and line. With `state` overridden and `address` not, the socket
    follows the state.
    """
    return read(path, overrides)[0]


def read(path: str, overrides: Mapping[str, str | None]) -> tuple[Config, Files]:
    """As `load`, with where everything comes from."""
    files = Files(VERSION, IMPORTS)
    files.read(path)
    given = {key: value for key, value in overrides.items() if value is not None}
    if "state" in given and "address" not in given:
        given["address"] = f"{given['state']}/holdd.sock"
    files.override(given)
    files.fail(list(check(files.table, Config, Config)))
    config = msgspec.convert(files.table, Config)
    files.fail(list(_doubts(config)))
    return config, files


def _doubts(config: Config) -> Iterator[Mistake]:
    """What no key says alone."""
    for name in ("root", "state", "address"):
        if not getattr(config, name):
            yield Mistake((name,), f"{name} must be set")
    if config.root == config.state:
        yield Mistake(("state",), "root and state must differ")
    both = set(config.disabled_plugins) & set(config.required_plugins)
    if both:
        yield Mistake(("required_plugins",), f"{', '.join(sorted(both))} cannot be required and disabled")
