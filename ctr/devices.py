"""The host's devices: nodes by path, and by the names that device descriptions give them."""

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from spec import errors
from spec.oci import build, cdi, runtime

DIRECTORIES = ("/etc/cdi", "/var/run/cdi")  # of device descriptions, the last hiding the first
GPU_KINDS = ("nvidia.com/gpu", "amd.com/gpu")
ACCESS = "rwm"
DEV = "/dev"

# Of a container's own, or none of its business: terminals, shared memory, descriptors.
_LEFT_OUT = frozenset({"pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev", "console"})


def with_devices(spec: runtime.Spec, wanted: Sequence[str], directories: Sequence[str]) -> runtime.Spec:
    """Each of `wanted` is the path of a node, or of a directory of them, or a name (vendor/class=name) that a
    description in `directories` has. NotFound, InvalidArgument."""
    for path in wanted:
        if not cdi.is_name(path):
            for device in below(path):
                spec = build.with_device(spec, device, ACCESS)
    names = [name for name in wanted if cdi.is_name(name)]
    if not names:
        return spec
    for edits in _edits(names, directories):
        missing = [node for node in edits.device_nodes if not node.complete]
        nodes = {node.path: node_at(node.source, node.path) for node in missing}
        spec = cdi.applied(spec, edits, nodes)
    return spec


def _edits(names: Sequence[str], directories: Sequence[str]) -> Sequence[cdi.Edits]:
    try:
        return cdi.edits(descriptions(directories), names)
    except errors.NotFound as exc:
        if unread := _files(directories, (".yaml", ".yml")):
            read = "only descriptions in JSON are read"
            raise errors.Unimplemented(f"{exc.message}; perhaps in {unread[0][1]}, but {read}") from exc
        raise


def with_all_devices(spec: runtime.Spec) -> runtime.Spec:
    """All nodes of the host; which of them may be used the spec says already."""
    found = tuple(below(DEV))
    linux = spec.linux or runtime.Linux()
    return replace(spec, linux=replace(linux, devices=found))


def gpu_names(gpus: Sequence[str], directories: Sequence[str]) -> list[str]:
    """Qualified names of GPUs by number, or `all`, of the vendor that has a description here. NotFound."""
    kinds = {at.document.kind for at in descriptions(directories)}
    kind = next((kind for kind in GPU_KINDS if kind in kinds), None)
    if gpus and kind is None:
        raise errors.NotFound(f"no description of GPUs ({' or '.join(GPU_KINDS)}) in {', '.join(directories)}")
    return [f"{kind}={gpu}" for gpu in gpus]


def below(path: str) -> Iterator[runtime.Device]:
    """The node at `path`, through links, or all nodes in that directory and those in it, through none."""
    try:
        status = os.stat(path)
    except OSError as exc:
        raise errors.from_os(exc, f"device {path}") from exc
    if not stat.S_ISDIR(status.st_mode):
        yield node_at(path, path)
        return
    for folder, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if name not in _LEFT_OUT)
        for name in sorted(set(files) - _LEFT_OUT):
            found = os.path.join(folder, name)
            if _is_device(os.lstat(found).st_mode):
                yield node_at(found, found)


def node_at(source: str, path: str) -> runtime.Device:
    """What is needed to make, at `path`, a node of the device that `source` is. NotFound, InvalidArgument."""
    try:
        status = os.stat(source)
    except OSError as exc:
        raise errors.from_os(exc, f"device {source}") from exc
    if not _is_device(status.st_mode):
        raise errors.InvalidArgument(f"device {source} is neither a block nor a character device")
    return runtime.Device(
        path=path,
        type="b" if stat.S_ISBLK(status.st_mode) else "c",
        major=os.major(status.st_rdev),
        minor=os.minor(status.st_rdev),
        file_mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
    )


def descriptions(directories: Sequence[str]) -> list[cdi.Found]:
    """All that is described there, in JSON."""
    found = []
    for rank, path in _files(directories, (".json",)):
        with open(path, "rb") as file:
            found.append(cdi.Found(path, rank, cdi.decode(file.read(), path)))
    return found


def _files(directories: Sequence[str], endings: tuple[str, ...]) -> list[tuple[int, str]]:
    """(rank, path) of what is in `directories`, in order."""
    found = []
    for rank, directory in enumerate(directories):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            names = sorted(name for name in os.listdir(directory) if name.endswith(endings))
            found += [(rank, os.path.join(directory, name)) for name in names]
    return found


def _is_device(mode: int) -> bool:
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
