"""Which OCI runtime runs a container, and the argv of each of its calls. Runs nothing.

The command line is runc's, which crun, youki and runsc share (runtime-tools' "OCI runtime command line interface").
"""

import os
import re
import shutil
import stat
import tomllib
from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec

from spec import errors
from spec.base import Record
from spec.records import CheckpointOptions, RuntimeOptions, RuntimeRef

DEFAULT = "runc"
CALL_SECONDS = 30.0
CONFIG_MAX = 65536  # bytes of a container's own file of options

# A runtime needs a PATH for the programs of hooks and nothing else of ours.
PATH = "PATH=" + os.environ.get("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
# runc lives for milliseconds, in which Go's threads for further processors cost a thirtieth of its time. It hands the
# variable to its own init, and not to the container's process; hooks without an environment of their own inherit it.
SINGLE = "GOMAXPROCS=1"

# containerd's names: io.containerd.runc.v2
_CONTAINERD = re.compile(r"io\.containerd\.([a-z0-9_-]+)\.v[0-9]+\Z")


class RuntimeConfig(Record, frozen=True, forbid_unknown_fields=True):
    """A runtime in the configuration. `path` is absolute or found in PATH; `root` is where it keeps its state, below
    which each namespace has a directory (empty: in our state directory); `args` are global options of its own;
    `timeout_s` bounds each of its calls."""

    path: str = DEFAULT
    root: str = ""
    args: Sequence[str] = ()
    systemd_cgroup: bool = False
    no_pivot: bool = False
    no_new_keyring: bool = False
    timeout_s: Annotated[float, msgspec.Meta(gt=0)] = CALL_SECONDS


class Launch(Record, frozen=True):
    """The runtime of one container, settled when it was created: `path` and `root` are absolute, and below `root` only
    containers of its namespace."""

    name: str
    path: str
    root: str
    args: Sequence[str] = ()
    systemd_cgroup: bool = False
    no_pivot: bool = False
    no_new_keyring: bool = False
    criu_work_path: str = ""
    timeout_s: float = CALL_SECONDS

    @property
    def environment(self) -> Sequence[str]:
        """Of its program, as KEY=value."""
        return (PATH, SINGLE) if os.path.basename(self.path) == DEFAULT else (PATH,)


def settle(ref: RuntimeRef, runtimes: Mapping[str, RuntimeConfig], root: str, namespace: str) -> Launch:
    """What `ref` means. `root` is where runtimes keep state that are not told otherwise.

    `ref.name` is a name in `runtimes`, or else of a program in PATH, or containerd's `io.containerd.NAME.vN` of either,
    or an absolute path. NotFound for a runtime that is not there; InvalidArgument for options that are none, or why a
    file that they name cannot be read.
    """
    name = ref.name
    try:
        options = msgspec.msgpack.decode(ref.options, type=RuntimeOptions | None) or RuntimeOptions()
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise errors.InvalidArgument(f"read the options of runtime {name!r}: {exc}") from exc
    config = _configured(name, runtimes)
    if options.config_path:
        config = _overlaid(config, options.config_path, f"read the options of runtime {name!r}: {options.config_path}")
    if options.root and not os.path.isabs(options.root):
        raise errors.InvalidArgument(f"read the options of runtime {name!r}: root {options.root!r} is not absolute")
    return Launch(
        name=name,
        path=_executable(name, options.binary_name or config.path),
        root=os.path.join(options.root or config.root or root, namespace),
        args=tuple(config.args),
        systemd_cgroup=options.systemd_cgroup or config.systemd_cgroup,
        no_pivot=options.no_pivot_root or config.no_pivot,
        no_new_keyring=options.no_new_keyring or config.no_new_keyring,
        criu_work_path=options.criu_work_path,
        timeout_s=config.timeout_s,
    )


def _configured(name: str, runtimes: Mapping[str, RuntimeConfig]) -> RuntimeConfig:
    if name.startswith("/"):
        return RuntimeConfig(path=name)
    config = runtimes.get(name)
    match = _CONTAINERD.match(name)
    if config is None and match:
        config = runtimes.get(match[1])
    program = match[1] if match else name
    if config is None and program and "/" not in program and shutil.which(program):
        config = RuntimeConfig(path=program)
    if config is None:
        raise errors.NotFound(f"runtime {name!r} not found: it is not in the configuration, and no program in PATH")
    return config


def _overlaid(config: RuntimeConfig, path: str, doing: str) -> RuntimeConfig:
    """With the keys of the file `path`, which must be a file: nobody waits for a FIFO."""
    if not os.path.isabs(path):
        raise errors.InvalidArgument(f"{doing}: not an absolute path")
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            regular = stat.S_ISREG(os.fstat(file).st_mode)
            text = os.read(file, CONFIG_MAX + 1) if regular else b""
        finally:
            os.close(file)
    except OSError as exc:
        raise errors.from_os(exc, doing) from exc
    if not regular or len(text) > CONFIG_MAX:
        raise errors.InvalidArgument(f"{doing}: {'too large' if regular else 'not a regular file'}")
    try:
        fields = {**msgspec.structs.asdict(config), **tomllib.loads(text.decode())}
        return msgspec.convert(fields, RuntimeConfig)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError, msgspec.ValidationError) as exc:
        raise errors.InvalidArgument(f"{doing}: {exc}") from exc


def _executable(name: str, path: str) -> str:
    if "/" in path and not os.path.isabs(path):
        raise errors.InvalidArgument(f"runtime {name!r}: {path!r} is neither a name nor an absolute path")
    found = shutil.which(path)
    if found is None:
        raise errors.NotFound(f"runtime {name!r} not found: no executable {path!r}")
    return os.path.abspath(found)


class Commands:
    """Argv of one container's calls. Each takes `log`, the file its JSON log lines go to."""

    def __init__(self, launch: Launch, id: str) -> None:
        self.launch = launch
        self.id = id

    def create(self, log: str, bundle: str, pid_file: str, console_socket: str = "") -> list[str]:
        argv = [*self._global(log), "create", "--bundle", bundle, "--pid-file", pid_file]
        if console_socket:
            argv += ["--console-socket", console_socket]
        if self.launch.no_pivot:
            argv.append("--no-pivot")
        if self.launch.no_new_keyring:
            argv.append("--no-new-keyring")
        return [*argv, self.id]

    def start(self, log: str) -> list[str]:
        return [*self._global(log), "start", self.id]

    def exec(self, log: str, process: str, pid_file: str, console_socket: str = "") -> list[str]:
        argv = [*self._global(log), "exec", "--process", process, "--pid-file", pid_file, "--detach"]
        if console_socket:
            argv += ["--console-socket", console_socket]
        return [*argv, self.id]

    def kill(self, log: str, signal: int, all_processes: bool = False) -> list[str]:
        flags = ["--all"] if all_processes else []
        return [*self._global(log), "kill", *flags, self.id, str(signal)]

    def pause(self, log: str) -> list[str]:
        return [*self._global(log), "pause", self.id]

    def resume(self, log: str) -> list[str]:
        return [*self._global(log), "resume", self.id]

    def update(self, log: str, resources: str) -> list[str]:
        """`resources` is a file of JSON."""
        return [*self._global(log), "update", "--resources", resources, self.id]

    def checkpoint(self, log: str, work: str, options: CheckpointOptions) -> list[str]:
        flags = {
            "--leave-running": not options.exit,
            "--tcp-established": options.open_tcp,
            "--ext-unix-sk": options.external_unix_sockets,
            "--shell-job": options.terminal,
            "--file-locks": options.file_locks,
        }
        values = [("--empty-ns", namespace) for namespace in options.empty_namespaces]
        values += [("--manage-cgroups-mode", options.cgroups_mode)] if options.cgroups_mode else []
        values += [("--parent-path", options.parent_path)] if options.parent_path else []
        argv = [*self._global(log), "checkpoint", "--image-path", options.image_path, "--work-path", work]
        argv += [flag for flag, wanted in flags.items() if wanted]
        return [*argv, *(text for pair in values for text in pair), self.id]

    def restore(self, log: str, bundle: str, pid_file: str, images: str, work: str, console_socket: str) -> list[str]:
        argv = [*self._global(log), "restore", "--detach", "--bundle", bundle, "--pid-file", pid_file]
        argv += ["--image-path", images, "--work-path", work]
        if console_socket:
            argv += ["--console-socket", console_socket]
        if self.launch.no_pivot:
            argv.append("--no-pivot")
        return [*argv, self.id]

    def delete(self, log: str, force: bool = False) -> list[str]:
        flags = ["--force"] if force else []
        return [*self._global(log), "delete", *flags, self.id]

    def state(self, log: str) -> list[str]:
        """Prints the OCI state as JSON."""
        return [*self._global(log), "state", self.id]

    def _global(self, log: str) -> list[str]:
        launch = self.launch
        argv = [launch.path, *launch.args, "--root", launch.root, "--log", log, "--log-format", "json"]
        return [*argv, "--systemd-cgroup"] if launch.systemd_cgroup else argv
