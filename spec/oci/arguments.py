"""Parts of a runtime spec as ctr's flags write them. Each raises InvalidArgument that names the text."""

import re

from spec import errors, idmaps
from spec.oci.runtime import IDMapping, Mount, Rlimit

SHOWN = 100  # characters of a text in a message

_CSV = re.compile(r'(?:"(?:[^"]|"")*"|[^",]*)(?:,(?:"(?:[^"]|"")*"|[^",]*))*')
_CSV_PART = re.compile(r'(?:^|,)(?:("(?:[^"]|"")*")|([^",]*))')
_LIMIT = re.compile(r"[0-9]{1,20}", re.ASCII)
_CPUS = re.compile(r"[0-9]{1,5}(?:-[0-9]{1,5})?(?:,[0-9]{1,5}(?:-[0-9]{1,5})?)*", re.ASCII)


def mount(text: str) -> Mount:
    """`type=bind,src=/a,dst=/b,options=rbind:ro`.

    It is a line of CSV: a part with a comma in it stands in double quotes, as in `"src=/a,b",dst=/c`.
    """
    fields: dict[str, str] = {}
    for quoted, bare in _parts(text):
        part = quoted[1:-1].replace('""', '"') if quoted else bare
        key, equals, value = part.partition("=")
        if not equals:
            raise errors.InvalidArgument(f"mount {text!r}: {part!r} is not KEY=VALUE")
        fields[{"source": "src", "destination": "dst", "target": "dst"}.get(key, key)] = value
    unknown = fields.keys() - {"type", "src", "dst", "options"}
    if unknown or not fields.get("dst", "").startswith("/"):
        raise errors.InvalidArgument(f"mount {text!r}: takes type, src, dst and options, and dst is an absolute path")
    return Mount(
        destination=fields["dst"],
        type=fields.get("type", "bind"),
        source=fields.get("src", ""),
        options=tuple(fields.get("options", "").split(":")) if fields.get("options") else (),
    )


def _parts(text: str) -> list[tuple[str, str]]:
    """(quoted, bare) of each part of a line of CSV, one of the two empty."""
    if not _CSV.fullmatch(text):
        raise errors.InvalidArgument(f"mount {text!r}: its quotes are not those of CSV")
    return _CSV_PART.findall(text)


def mappings(text: str) -> list[IDMapping]:
    """`container:host:length[,...]`."""
    return [IDMapping(container_id=inside, host_id=outside, size=size) for inside, outside, size in idmaps.ranges(text)]


def rlimit(kind: str, text: str) -> Rlimit:
    """`soft[:hard]`, the hard limit being the soft one when it is left out; `kind` as in RLIMIT_NOFILE."""
    soft, colon, hard = text.partition(":")
    if not _LIMIT.fullmatch(soft) or (colon and not _LIMIT.fullmatch(hard)):
        raise errors.InvalidArgument(f"limit {kind} {text[:SHOWN]!r} is not soft[:hard]")
    return Rlimit(type=kind, soft=int(soft), hard=int(hard or soft))


def cpuset(text: str) -> str:
    """`text`, if it is a list of processors or memory nodes, as in `0-2,7` (cpuset(7))."""
    if not _CPUS.fullmatch(text):
        raise errors.InvalidArgument(f"set {text[:SHOWN]!r} is not a list of numbers and ranges, as in 0-2,7")
    return text


def namespace(text: str) -> tuple[str, str]:
    """(type, path) of `type:path`; a type alone asks for a new one."""
    kind, colon, path = text.partition(":")
    if not kind or (colon and not path):
        raise errors.InvalidArgument(f"namespace {text[:SHOWN]!r} is not type:path")
    return kind, path
