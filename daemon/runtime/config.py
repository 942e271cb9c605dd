"""The OCI runtime spec as a task needs it: a few fields read, a few replaced, the rest kept to the byte. Knows no file.

The spec is its author's: what we do not know must reach the runtime as it came.
"""

from collections.abc import Sequence
from typing import TypeVar

import msgspec

from spec import errors
from spec.base import Doc, to_json
from spec.oci.users import Ids

T = TypeVar("T")
Fields = dict[str, msgspec.Raw]


class User(Doc, frozen=True):
    """`username` is "name|uid[:name|gid]"; empty when the numbers stand in the spec already."""

    username: str = ""
    additional_gids: Sequence[int] | None = None


class Process(Doc, frozen=True):
    terminal: bool = False
    user: User | None = None


class Root(Doc, frozen=True):
    path: str = ""


class LinuxNamespace(Doc, frozen=True):
    type: str = ""
    path: str = ""


class IDMapping(Doc, frozen=True):
    container_id: int = msgspec.field(default=0, name="containerID")
    host_id: int = msgspec.field(default=0, name="hostID")
    size: int = 0


class Linux(Doc, frozen=True):
    namespaces: Sequence[LinuxNamespace] | None = None
    gid_mappings: Sequence[IDMapping] | None = None
    cgroups_path: str = ""


class Mount(Doc, frozen=True):
    uid_mappings: Sequence[IDMapping] | None = None
    gid_mappings: Sequence[IDMapping] | None = None


class Spec(Doc, frozen=True):
    process: Process | None = None
    root: Root | None = None
    linux: Linux | None = None
    mounts: Sequence[Mount] | None = None

    @property
    def user(self) -> User:
        return (self.process and self.process.user) or User()

    @property
    def private_pids(self) -> bool:
        """Whether the container has a PID namespace of its own, which ends all of it with its init process."""
        return any(n.type == "pid" and not n.path for n in (self.linux and self.linux.namespaces) or ())

    @property
    def root_gid(self) -> int | None:
        """The host's id of the container's group 0; None when groups are not mapped."""
        for mapping in (self.linux and self.linux.gid_mappings) or ():
            if mapping.container_id == 0 and mapping.size > 0:
                return mapping.host_id
        return None

    @property
    def maps_mounts(self) -> bool:
        """Whether a mount of it has id mappings of its own."""
        return any(mount.uid_mappings or mount.gid_mappings for mount in self.mounts or ())

    @property
    def cgroups_path(self) -> str:
        return self.linux.cgroups_path if self.linux else ""


def read_spec(document: bytes, doing: str) -> Spec:
    """InvalidArgument when it is no OCI runtime spec."""
    return _decoded(document, Spec, doing)


def read_process(document: bytes, doing: str) -> Process:
    """The OCI `process` of an exec. InvalidArgument when it is none."""
    return _decoded(document, Process, doing)


def check_resources(document: bytes, doing: str) -> None:
    """InvalidArgument when it is no JSON object: what is in it is for the runtime to judge."""
    _decoded(document, Fields, doing)


def resolved_spec(document: bytes, root: str, ids: Ids | None, cgroups_path: str = "") -> bytes:
    """The spec with its root filesystem at `root` and its cgroup at `cgroups_path` (as they were, when empty), and
    `ids` as its process's user."""
    fields = msgspec.json.decode(document, type=Fields)
    if root:
        fields["root"] = _raw({**_inner(fields, "root"), "path": _raw(root)})
    if cgroups_path:
        fields["linux"] = _raw({**_inner(fields, "linux"), "cgroupsPath": _raw(cgroups_path)})
    if ids is not None and "process" in fields:
        fields["process"] = msgspec.Raw(resolved_process(bytes(fields["process"]), ids))
    return to_json(fields)


def resolved_process(document: bytes, ids: Ids | None) -> bytes:
    """The process with `ids` as its user, or as it is. The name goes: it would contradict the numbers one day."""
    if ids is None:
        return document
    fields = msgspec.json.decode(document, type=Fields)
    user = _inner(fields, "user")
    user.pop("username", None)
    user |= {"uid": _raw(ids.uid), "gid": _raw(ids.gid), "additionalGids": _raw(ids.additional_gids)}
    fields["user"] = _raw(user)
    return to_json(fields)


def _decoded(document: bytes, type: type[T], doing: str) -> T:
    try:
        return msgspec.json.decode(document, type=type)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise errors.InvalidArgument(f"{doing}: read its spec: {exc}") from exc


def _inner(fields: Fields, key: str) -> Fields:
    return msgspec.json.decode(fields[key], type=Fields | None) or {} if key in fields else {}


def _raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(to_json(value))
