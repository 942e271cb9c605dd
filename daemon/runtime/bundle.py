"""A task's directory below the state directory, and the record in it. Knows no shim and no runtime.

    tasks/NAMESPACE/ID/         0700, or 0710 and the container's root group when groups are mapped
        task.json               the record below
        config.json             the OCI spec, as the runtime reads it
        rootfs/                 where the shim mounts the root filesystem, in its own mount namespace
        init.pid                written by the runtime
        exec-EXEC_ID.json       an exec'd process, until it was started, and its pid file, exec-EXEC_ID.pid
        criu/                   CRIU's log, after a checkpoint or a restore
        checkpoint/             CRIU's images, until init was restored from them
        resources.json          what an update asks for, while it runs
        log-N.json              one runtime call's log, while it runs
        shim.sock, exits        the shim's
        undertaker/             of the shim that buries a task whose own has died
    tasks/NAMESPACE/.ID.N/      a bundle that is being removed
"""

import contextlib
import enum
import os
from collections.abc import Iterator, Sequence

import msgspec

from daemon.kit import mounting
from daemon.runtime import files
from daemon.runtime.oci import Launch
from pyx import walk
from spec import errors
from spec.base import Record, to_json
from spec.records import Exit, Timing
from spec.types import Stdio

RECORD = "task.json"
VERSION = 1


class Phase(enum.IntEnum):
    """How far a process has come. What follows STARTED is in `exit`."""

    ADDED = 1
    STARTING = 2
    STARTED = 3


class ProcessRecord(Record, frozen=True):
    """`started_ticks` is field 22 of /proc/PID/stat, which tells a process from another that got its pid later; `since`
    the first exit record that can be about it."""

    exec_id: str = ""
    stdio: Stdio = Stdio()
    phase: Phase = Phase.ADDED
    pid: int = 0
    started_ticks: int = 0
    since: int = 0
    exit: Exit | None = None


class TaskRecord(Record, frozen=True):
    """What recovery must know of a task. `created` is false from before anything is done for it until the runtime has
    made it; one found so after a restart is undone. `unsettled` is true while a pause or resume is under way,
    `logged` once a logger was started for a process of it, `oom_told` once a kill for memory was told; `restores` until
    its init process was made of the checkpoint that its bundle holds."""

    namespace: str
    id: str
    launch: Launch
    version: int = VERSION
    boot_id: str = ""
    created: bool = False
    private_pids: bool = False
    cgroups_path: str = ""
    init: ProcessRecord = ProcessRecord()
    execs: Sequence[ProcessRecord] = ()
    paused: bool = False
    unsettled: bool = False
    logged: bool = False
    restores: bool = False
    oom_told: bool = False
    timing: Sequence[Timing] = ()


_decoder = msgspec.json.Decoder(TaskRecord)


class Bundle:
    """One bundle's paths, record and removal. File system calls here take microseconds: the state directory is tmpfs
    (and nothing in it outlives a boot, so nothing is synced)."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._calls = 0

    @classmethod
    def make(cls, path: str, record: TaskRecord, root_gid: int | None) -> "Bundle":
        """A new bundle with its record. AlreadyExists."""
        parent = os.path.dirname(path)
        try:
            _make_parents(parent)
            os.mkdir(path, 0o700)
        except FileExistsError as exc:
            raise errors.AlreadyExists(f"make bundle {path}: it exists") from exc
        except OSError as exc:
            raise errors.from_os(exc, f"make bundle {path}") from exc
        bundle = cls(path)
        try:
            bundle.save(record)
            bundle._furnish(root_gid)
        except BaseException as exc:
            bundle.remove()
            if isinstance(exc, OSError):
                raise errors.from_os(exc, f"make bundle {path}") from exc
            raise
        return bundle

    def _furnish(self, root_gid: int | None) -> None:
        rootfs = self.at("rootfs")
        os.mkdir(rootfs)
        os.chmod(rootfs, 0o711)
        os.chmod(self.path, 0o700)
        if root_gid:
            os.chown(self.path, -1, root_gid)
            os.chmod(self.path, 0o710)

    def at(self, name: str) -> str:
        return f"{self.path}/{name}"

    def save(self, record: TaskRecord) -> None:
        """Replace the record."""
        draft = self.write(f".{RECORD}", to_json(record))
        try:
            os.rename(draft, self.at(RECORD))
        except OSError as exc:
            raise errors.from_os(exc, f"save the record of bundle {self.path}") from exc

    def load(self) -> TaskRecord:
        """NotFound without a record; DataLoss for one that cannot be read."""
        try:
            data = files.read(self.at(RECORD))
        except OSError as exc:
            raise errors.from_os(exc, f"read the record of bundle {self.path}") from exc
        try:
            return _decoder.decode(data)
        except msgspec.DecodeError as exc:
            raise errors.DataLoss(f"read the record of bundle {self.path}: {exc}") from exc

    def write(self, name: str, data: bytes) -> str:
        """A file of its owner's only; its path."""
        path = self.at(name)
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                while data:
                    data = data[os.write(file, data) :]
            finally:
                os.close(file)
        except OSError as exc:
            raise errors.from_os(exc, f"write {path}") from exc
        return path

    def discard(self, name: str) -> None:
        """Remove the file if it is there."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.at(name))

    def vacate(self, name: str) -> None:
        """An empty directory of its owner's only, whatever was there."""
        path = self.at(name)
        try:
            _remove(path)
            os.mkdir(path, 0o700)
        except OSError as exc:
            raise errors.from_os(exc, f"make directory {path}") from exc

    def pid(self, name: str) -> int:
        """The pid that the runtime wrote to a pid file; 0 when there is none."""
        try:
            return int(files.read(self.at(name)))
        except (OSError, ValueError):
            return 0

    @contextlib.contextmanager
    def log(self) -> Iterator[str]:
        """Path of one call's log, which is removed in the end."""
        self._calls += 1
        name = f"log-{self._calls}.json"
        try:
            yield self.at(name)
        finally:
            self.discard(name)

    def remove(self) -> None:
        """Make the id free at once, then remove what there is. Nothing when it is gone already.

        FailedPrecondition when something is mounted below it that we can see: removal would reach into it.
        """
        with contextlib.suppress(FileNotFoundError):
            if mounting.is_mount(self.at("rootfs")):
                raise errors.FailedPrecondition(f"remove bundle {self.path}: its rootfs is mounted")
        parent, name = os.path.split(self.path)
        trash = f"{parent}/.{name}.{os.urandom(8).hex()}"
        try:
            os.rename(self.path, trash)
        except FileNotFoundError:
            return
        clear(trash)


def clear(trash: str) -> None:
    """Remove a bundle that was moved out of the way."""
    try:
        _remove(trash)
    except OSError as exc:
        raise errors.from_os(exc, f"remove bundle {trash}") from exc


def _remove(path: str) -> None:
    """The tree at `path`, if it is there; never through a mount in it."""
    parent, name = os.path.split(path)
    folder = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        walk.remove(folder, name)
    finally:
        os.close(folder)


def bundles(tasks: str) -> tuple[list[str], list[str]]:
    """Paths of the bundles below the directory `tasks`, and of those that are being removed."""
    living: list[str] = []
    dying: list[str] = []
    for namespace in _directories(tasks):
        for path in _directories(namespace):
            (dying if os.path.basename(path).startswith(".") else living).append(path)
    return living, dying


def _directories(path: str) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return sorted(entry.path for entry in entries if entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []


def _make_parents(namespace: str) -> None:
    """tasks/ and tasks/NAMESPACE/: passable, since a container with mapped users walks through them to its rootfs."""
    if os.path.isdir(namespace):
        return
    for path in (os.path.dirname(namespace), namespace):
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o711)
            os.chmod(path, 0o711)
