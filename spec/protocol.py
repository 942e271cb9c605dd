"""The protocol as a page for people and as JSON Schema for other languages, rendered from the API's tables."""

import enum
import typing
from collections.abc import Iterable
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import msgspec

from spec import errors, wire
from spec.api.containers import Containers
from spec.api.content import Content
from spec.api.diff import Diff
from spec.api.events import Events
from spec.api.images import Images
from spec.api.introspection import Introspection
from spec.api.leases import Leases
from spec.api.namespaces import Namespaces
from spec.api.service import Method, Service
from spec.api.snapshots import Snapshots
from spec.api.tasks import Tasks
from spec.api.transfer import Transfer
from spec.api.version import Version
from spec.events import TOPICS
from spec.records import RuntimeInfo, RuntimeOptions, RuntimeRequest

SERVICES: tuple[type[Service], ...] = (
    Containers,
    Content,
    Diff,
    Events,
    Images,
    Introspection,
    Leases,
    Namespaces,
    Snapshots,
    Tasks,
    Transfer,
    Version,
)

# What travels as "raw", for its owner to read.
OPAQUE = (RuntimeInfo, RuntimeOptions, RuntimeRequest)

INTRODUCTION = """\
# The protocol of holdd

Written by `python -m tests.arch.test_protocol` from `spec/api`: do not edit. `holdd.schema.json` says the same to
machines.

A client connects to the daemon's unix stream socket and exchanges frames; only root and the daemon's own user may.
"""

RULES = """\
Messages are msgpack maps from the names of fields to values. A field that is not there has its default. A request with
a field that its type does not have is refused with INVALID_ARGUMENT; clients must ignore fields of replies that they
do not know. Times are nanoseconds since the epoch, sizes are bytes. "raw" is any msgpack value.

A request's metadata has string keys and values; the daemon reads `namespace`, `lease` and `traceparent`. `payload` of a
request or response is a msgpack value in place, not a byte string. A frame that is too long or no frame at all is
answered on its stream, or on stream 0, and the connection is closed.
"""


def page(services: Iterable[type[Service]] = SERVICES) -> str:
    """The page, as Markdown."""
    framing = (wire.__doc__ or "").strip()
    parts = [
        INTRODUCTION,
        f"## Frames\n\n```text\n{framing}\n```\n\n"
        f"A body has at most {wire.MAX_BODY_BYTES} bytes, a frame at most {wire.MAX_FDS} descriptors.\n",
        f"## Messages\n\n{RULES}",
        "\n\n".join(_fields(kind) for kind in (wire.Request, wire.Response, wire.Status)) + "\n",
        f"## Status codes\n\n{_codes()}",
        "## Services\n",
        *(_service(service) for service in services),
        f"## Events\n\n{_events()}",
        "## Types\n",
        "\n\n".join(_fields(kind) for kind in _types(services)) + "\n",
    ]
    return "\n".join(parts)


def schema(services: Iterable[type[Service]] = SERVICES) -> bytes:
    """A JSON document: `services` with their methods, `topics`, `codes`, and all types as JSON Schema in `$defs`.

    Byte strings are base64 there, as JSON has none; on the wire they are msgpack's bin. (Not msgspec's own generator:
    it stumbles over defaults of type Raw, and its names change when another type of the same name appears.)
    """
    services = list(services)
    kinds = [*_types(services), wire.Request, wire.Response, wire.Status]
    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "holdd",
        "codes": {_code_name(cls): cls.code for cls in errors.CLASSES.values()},
        "services": {service.NAME: _service_schema(service) for service in services},
        "topics": {topic: _reference(body) for topic, body in TOPICS.items()},
        "$defs": {_name(kind): _definition(kind) for kind in kinds},
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n"


def _definition(kind: type) -> dict[str, Any]:
    """The JSON Schema of a Struct or an enumeration."""
    if issubclass(kind, enum.Enum):
        return {"title": kind.__name__, "enum": [member.value for member in kind]}
    properties: dict[str, Any] = {}
    required: list[str] = []
    if tag := _tag(kind):
        properties[tag[0]] = {"const": tag[1]}
        required.append(tag[0])
    assert issubclass(kind, msgspec.Struct)
    hints = get_type_hints(kind)
    for field in msgspec.structs.fields(kind):
        properties[field.encode_name] = _property(hints[field.name])
        if field.required:
            required.append(field.encode_name)
        else:
            properties[field.encode_name] |= {"default": _default_of(field)}
    definition: dict[str, Any] = {"title": kind.__name__, "type": "object"}
    definition |= {"properties": properties, "required": required}
    if doc := _doc(kind):
        definition["description"] = doc
    if kind.__struct_config__.forbid_unknown_fields:
        definition["additionalProperties"] = False
    return definition


def _property(hint: Any) -> dict[str, Any]:
    """The JSON Schema of a field's type."""
    origin = get_origin(hint)
    if origin in (typing.Union, UnionType):
        return {"anyOf": [_property(part) for part in get_args(hint)]}
    if origin is dict:
        return {"type": "object", "additionalProperties": _property(get_args(hint)[1])}
    if origin is not None:
        return {"type": "array", "items": _property(get_args(hint)[0])}
    plain = {str: "string", int: "integer", bool: "boolean", float: "number", type(None): "null"}
    if hint in plain:
        return {"type": plain[hint]}
    if hint is bytes:
        return {"type": "string", "contentEncoding": "base64"}
    return {} if hint is msgspec.Raw else {"$ref": _reference(hint)}


def _reference(kind: type) -> str:
    return f"#/$defs/{_name(kind)}"


def _tag(kind: type) -> tuple[str, str] | None:
    """Field and value by which a union's members are told apart."""
    config = kind.__struct_config__  # type: ignore[attr-defined]
    return None if config.tag is None else (config.tag_field, config.tag)


def _default_of(field: msgspec.structs.FieldInfo) -> Any:
    """As JSON would have it."""
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    return None if value == wire.NIL else msgspec.to_builtins(value)


def _service_schema(service: type[Service]) -> dict[str, Any]:
    return {
        "namespaced": service.NAMESPACED,
        "methods": {
            method.name: {
                "request": _reference(method.request),
                "reply": _reference(method.reply),
                "client_streams": method.client_streams,
                "server_streams": method.server_streams,
                "takes_descriptors": method.takes,
                "gives_descriptors": method.gives,
            }
            for method in service.methods()
        },
    }


def _service(service: type[Service]) -> str:
    title = f"### {service.NAME}\n\n"
    if not service.NAMESPACED:
        title += "Works without a namespace.\n\n"
    rows = [_row(method) for method in service.methods()]
    return title + "| method | kind | request | reply |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"


def _row(method: Method[Any, Any]) -> str:
    kind = "duplex" if method.client_streams else "server stream" if method.server_streams else "unary"
    request, reply = _link(method.request), _link(method.reply)
    if method.takes:
        request += " + descriptors"
    if method.gives:
        reply += " + descriptors"
    return f"| {method.name} | {kind} | {request} | {reply} |"


def _codes() -> str:
    rows = [f"| {cls.code} | {_code_name(cls)} | {_first_line(cls)} |" for cls in errors.CLASSES.values()]
    return "| code | name | meaning |\n|---|---|---|\n| 0 | OK | |\n" + "\n".join(rows) + "\n"


def _code_name(cls: type[errors.Error]) -> str:
    return "".join(f"_{c}" if c.isupper() else c.upper() for c in cls.__name__).lstrip("_")


def _events() -> str:
    rows = [f"| {topic} | {_link(body)} |" for topic, body in TOPICS.items()]
    return "| topic | body |\n|---|---|\n" + "\n".join(rows) + "\n"


def _fields(kind: type) -> str:
    """A type: what its docstring says, and its fields or values."""
    text = f"### {_name(kind)}\n\n"
    if doc := _doc(kind):
        text += doc + "\n\n"
    if issubclass(kind, enum.Enum):
        return text + "| value | name |\n|---|---|\n" + "\n".join(f"| {m.value} | {m.name} |" for m in kind)
    assert issubclass(kind, msgspec.Struct)
    hints = get_type_hints(kind)
    rows = [f"| {tag[0]} | `{tag[1]}` | required |"] if (tag := _tag(kind)) else []
    for field in msgspec.structs.fields(kind):
        default = "required" if field.required else f"`{msgspec.json.encode(_default_of(field)).decode()}`"
        rows.append(f"| {field.encode_name} | {_type(hints[field.name])} | {default} |")
    if not rows:
        return text + "No fields."
    return text + "| field | type | default |\n|---|---|---|\n" + "\n".join(rows)


def _type(hint: Any) -> str:
    """A type as readers of other languages understand it."""
    origin = get_origin(hint)
    if origin in (typing.Union, UnionType):
        return " or ".join(_type(part) for part in get_args(hint))
    if origin is dict:
        key, value = get_args(hint)
        return f"map of {_type(key)} to {_type(value)}"
    if origin is not None:
        return f"array of {_type(get_args(hint)[0])}"
    plain = {str: "string", bytes: "bytes", int: "integer", bool: "boolean", float: "float", type(None): "nil"}
    if hint in plain:
        return plain[hint]
    if hint is msgspec.Raw:
        return "raw"
    return _link(hint)


def _types(services: Iterable[type[Service]]) -> list[type]:
    """Every type that a method or an event names, directly or through fields, and those of OPAQUE; by name."""
    found: dict[type, None] = {}
    for service in services:
        for method in service.methods():
            _collect(method.request, found)
            _collect(method.reply, found)
    for body in (*TOPICS.values(), *OPAQUE):
        _collect(body, found)
    return sorted(found, key=_name)


def _collect(hint: Any, found: dict[type, None]) -> None:
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct | enum.Enum):
        if hint in found:
            return
        found[hint] = None
        if issubclass(hint, msgspec.Struct):
            for part in get_type_hints(hint).values():
                _collect(part, found)
        return
    for part in get_args(hint):
        _collect(part, found)


def _name(kind: type) -> str:
    """`images.GetRequest`: messages of two services may share a name."""
    return f"{kind.__module__.rpartition('.')[2]}.{kind.__name__}"


def _link(kind: type) -> str:
    anchor = _name(kind).lower().replace(".", "")
    return f"[{_name(kind)}](#{anchor})"


def _first_line(kind: type) -> str:
    return (kind.__doc__ or "").strip().partition("\n")[0]


def _doc(kind: type) -> str:
    """The type's own docstring without its indentation; not one that it inherits."""
    return "\n".join(line.strip() for line in (vars(kind).get("__doc__") or "").strip().splitlines())
