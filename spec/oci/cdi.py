"""Devices by name, as the Container Device Interface has them (CNCF CDI specification, 1.0): documents that say what a
container needs for a device, and their edits of a runtime spec. Reads no file."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from spec import errors
from spec.base import Doc
from spec.oci import build, runtime
from spec.oci.runtime import Spec

_NAME = re.compile(
    r"(?P<kind>[A-Za-z](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?/[A-Za-z](?:[A-Za-z0-9_-]*[A-Za-z0-9])?)"
    r"=(?P<device>[A-Za-z0-9](?:[A-Za-z0-9_.:-]*[A-Za-z0-9])?)",
    re.ASCII,
)
# A hook's name is the key of its list in the runtime spec.
_HOOKS = {
    "prestart": "prestart", "createRuntime": "create_runtime", "createContainer": "create_container",
    "startContainer": "start_container", "poststart": "poststart", "poststop": "poststop",
}  # fmt: skip


class DeviceNode(Doc, frozen=True):
    """What is left out is as `host_path`, or else `path`, has it on the host."""

    path: str
    host_path: str = ""
    type: str = ""
    major: int = 0
    minor: int = 0
    file_mode: int | None = None
    permissions: str = ""
    uid: int | None = None
    gid: int | None = None

    @property
    def source(self) -> str:
        return self.host_path or self.path

    @property
    def complete(self) -> bool:
        return self.type == "p" or (bool(self.type) and (self.major, self.minor) != (0, 0))


class MountEdit(Doc, frozen=True):
    host_path: str
    container_path: str
    type: str = ""
    options: Sequence[str] = ()


class HookEdit(Doc, frozen=True):
    hook_name: str
    path: str
    args: Sequence[str] = ()
    env: Sequence[str] = ()
    timeout: int | None = None


class Edits(Doc, frozen=True):
    env: Sequence[str] = ()
    device_nodes: Sequence[DeviceNode] = ()
    mounts: Sequence[MountEdit] = ()
    hooks: Sequence[HookEdit] = ()
    intel_rdt: runtime.IntelRdt | None = None
    additional_gids: Sequence[runtime.Id] = msgspec.field(default=(), name="additionalGids")


class CdiDevice(Doc, frozen=True):
    name: str
    container_edits: Edits = Edits()


class Document(Doc, frozen=True):
    """`kind` is vendor/class."""

    cdi_version: str
    kind: str
    devices: Sequence[CdiDevice] = ()
    container_edits: Edits = Edits()


class Found(NamedTuple):
    """A document and where it comes from. Of a higher `rank` it hides devices of its names in those of a lower one."""

    path: str
    rank: int
    document: Document


_document = msgspec.json.Decoder(Document)


def decode(data: bytes, path: str) -> Document:
    """InvalidArgument."""
    try:
        return _document.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise errors.InvalidArgument(f"read the device description {path}: {exc}") from exc


def is_name(text: str) -> bool:
    """Whether `text` is the qualified name of a device, as in `vendor.com/class=name`."""
    return _NAME.fullmatch(text) is not None


def edits(found: Sequence[Found], names: Iterable[str]) -> list[Edits]:
    """What the devices of these names need, in their order; what a document says of all its devices comes once.

    NotFound for a device that no document has; FailedPrecondition for one that two of the same rank have.
    """
    general: dict[str, Edits] = {}
    special = []
    for name in dict.fromkeys(names):
        match = _NAME.fullmatch(name)
        if match is None:
            raise errors.InvalidArgument(f"device {name[:100]!r} is not vendor/class=name")
        at, device = _pick(found, name, match)
        general[at.path] = at.document.container_edits
        special.append(device.container_edits)
    return [*general.values(), *special]


def _pick(found: Sequence[Found], name: str, match: re.Match[str]) -> tuple[Found, CdiDevice]:
    having = [
        (at, device)
        for at in found
        if at.document.kind == match["kind"]
        for device in at.document.devices
        if device.name == match["device"]
    ]
    if not having:
        raise errors.NotFound(f"device {name} not found in any device description")
    rank = max(at.rank for at, _ in having)
    best = [(at, device) for at, device in having if at.rank == rank]
    if len(best) > 1:
        raise errors.FailedPrecondition(f"device {name} is in both {best[0][0].path} and {best[1][0].path}")
    return best[0]


def applied(spec: Spec, edits: Edits, nodes: Mapping[str, runtime.Device]) -> Spec:
    """`nodes` has, by the path in the container, the device nodes that `edits` do not describe themselves."""
    spec = build.with_env(spec, edits.env)
    for node in edits.device_nodes:
        spec = build.with_device(spec, _device(node, nodes), node.permissions or "rwm")
    spec = _with_mounts(spec, edits.mounts)
    spec = _with_hooks(spec, edits.hooks)
    spec = _with_groups(spec, edits.additional_gids)
    if edits.intel_rdt is not None:
        spec = replace(spec, linux=replace(spec.linux or runtime.Linux(), intel_rdt=edits.intel_rdt))
    return spec


def _device(node: DeviceNode, nodes: Mapping[str, runtime.Device]) -> runtime.Device:
    known = nodes.get(node.path)
    if known is None:
        known = runtime.Device(path=node.path, type=node.type, major=node.major, minor=node.minor)
    return replace(
        known,
        path=node.path,
        file_mode=known.file_mode if node.file_mode is None else node.file_mode,
        uid=known.uid if node.uid is None else node.uid,
        gid=known.gid if node.gid is None else node.gid,
    )


def _with_mounts(spec: Spec, mounts: Sequence[MountEdit]) -> Spec:
    """In place of those that are at their paths."""
    taken = {mount.container_path for mount in mounts}
    kept = [mount for mount in spec.mounts if mount.destination not in taken]
    made = [
        runtime.Mount(
            destination=mount.container_path, source=mount.host_path, type=mount.type or "bind", options=mount.options
        )
        for mount in mounts
    ]
    return replace(spec, mounts=(*kept, *made))


def _with_hooks(spec: Spec, hooks: Sequence[HookEdit]) -> Spec:
    made = spec.hooks or runtime.Hooks()
    for hook in hooks:
        field = _HOOKS.get(hook.hook_name)
        if field is None:
            raise errors.InvalidArgument(f"device hook {hook.hook_name[:100]!r} is none of {', '.join(_HOOKS)}")
        added = runtime.Hook(path=hook.path, args=hook.args, env=hook.env, timeout=hook.timeout)
        made = replace(made, **{field: (*getattr(made, field), added)})
    return replace(spec, hooks=made) if hooks else spec


def _with_groups(spec: Spec, gids: Sequence[int]) -> Spec:
    if not gids:
        return spec
    process = spec.process or runtime.Process()
    groups = tuple(dict.fromkeys((*process.user.additional_gids, *gids)))
    return replace(spec, process=replace(process, user=replace(process.user, additional_gids=groups)))
