"""What a registry's HTTP API says (OCI distribution spec v1.1, the token protocol around it): pure readers of headers
and bodies. Does no I/O and knows no host."""

import re
from collections.abc import Sequence
from urllib.parse import parse_qsl, quote, urlsplit, urlunsplit

import msgspec

from spec import errors
from spec.base import Doc, Record
from spec.oci import image

MAX_MANIFEST = 4 << 20  # bytes; what the distribution spec asks registries to take at least
MAX_WARNING = 4096  # letters of one that are looked at
MAX_ERROR_BODY = 64_000  # bytes of an error's body that are looked at
ACCEPT = ", ".join((image.DOCKER_MANIFEST, image.DOCKER_INDEX, image.OCI_MANIFEST, image.OCI_INDEX, "*/*"))

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_SCHEME = re.compile(rf"[\s,]*({_TOKEN})(?=[\s,]|$)", re.ASCII)
# Some servers leave an address unquoted, which the grammar does not allow.
_PARAMETER = re.compile(rf'[\s,]*({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"=]+))\s*(?=,|$)', re.ASCII)
_TOKEN68 = re.compile(r"\s+[A-Za-z0-9._~+/-]+=*\s*(?=,|$)", re.ASCII)
_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", re.ASCII)
_RECEIVED = re.compile(r"(?:bytes=)?0-(\d{1,18})", re.ASCII)
_WARNING = re.compile(r'299 - "((?:[^"\\]|\\.)*)"(?: "[^"]*")?\s*(?:,|$)', re.ASCII)
_CODE = re.compile(r"[A-Z0-9_]{1,64}", re.ASCII)


class Challenge(Record, frozen=True):
    """One scheme of a `WWW-Authenticate` header (RFC 9110, 11.6.1): lower-case `scheme`, lower-case parameter names."""

    scheme: str
    parameters: dict[str, str] = {}


class Token(Record, frozen=True):
    """A token server's answer; it may say null for what it does not give. `expires_in` is in seconds, 0: not said."""

    token: str | None = ""
    access_token: str | None = ""
    refresh_token: str | None = ""
    expires_in: int = 0

    @property
    def value(self) -> str:
        return self.token or self.access_token or ""


class Problem(Doc, frozen=True):
    """One entry of an error body (distribution spec, error codes)."""

    code: str = ""
    message: str = ""


class Problems(Doc, frozen=True):
    errors: Sequence[Problem] = ()


class ContentRange(Record, frozen=True):
    """`Content-Range` of a 206 (RFC 9110, 14.4): bytes `first` to `last`, of `total` (-1: not said)."""

    first: int
    last: int
    total: int = -1


def manifest_path(repository: str, name: str) -> str:
    """Path of a manifest below a registry's base; `name` is a tag or a digest."""
    return f"{repository}/manifests/{name}"


def blob_path(repository: str, digest: str) -> str:
    return f"{repository}/blobs/{digest}"


def referrers_path(repository: str, digest: str, artifact_types: Sequence[str] = ()) -> str:
    """Path of what refers to a manifest (distribution spec v1.1, listing referrers). A registry may filter, or not."""
    query = "&".join(f"artifactType={quote(kind, safe='')}" for kind in artifact_types)
    return f"{repository}/referrers/{digest}{'?' if query else ''}{query}"


def referrers_tag(digest: str) -> str:
    """The tag that stands for that path where a registry does not know it (referrers tag schema)."""
    algorithm, _, value = digest.partition(":")
    return f"{algorithm[:32]}-{value[:64]}"


def pull_scope(repository: str) -> str:
    """The token scope that pulling takes."""
    return f"repository:{repository}:pull"


def push_scope(repository: str, mounted: str = "") -> str:
    """The token scopes that pushing takes, and mounting a blob of the repository `mounted`."""
    own = f"repository:{repository}:pull,push"
    return merged(own, pull_scope(mounted)) if mounted else own


def uploads_path(repository: str) -> str:
    return f"{repository}/blobs/uploads/"


def merged(*scopes: str) -> str:
    """Scopes (each text may hold several, between blanks) as one text: sorted, what may be done to one thing put
    together."""
    actions: dict[str, set[str]] = {}
    for scope in " ".join(scopes).split():
        thing, colon, allowed = scope.rpartition(":")
        actions.setdefault(thing if colon else scope, set()).update(allowed.split(",") if colon else ())
    texts = (f"{thing}:{','.join(sorted(verbs))}" if verbs else thing for thing, verbs in actions.items())
    return " ".join(sorted(texts))


def sources(label: str, repository: str) -> str:
    """The repositories of a host that have a blob, as a label's value, with one more."""
    return ",".join(sorted({*filter(None, label.split(",")), repository}))


def mount_candidate(label: str, repository: str) -> str:
    """Of the repositories that `label` lists the one to mount a blob of into `repository`: the longest way of it in
    common, the last of equals; "" for none. Whoever may push here may most likely read a neighbour."""
    best, length = "", -1
    own = repository.split("/")
    for candidate in filter(None, label.split(",")):
        common = 0
        for mine, other in zip(own, candidate.split("/"), strict=False):
            if mine != other:
                break
            common += 1
        if candidate != repository and common >= length:
            best, length = candidate, common
    return best


def received(header: str) -> int:
    """How many bytes of an upload a registry has, by its `Range` (distribution spec, pushing a blob in chunks). It
    says 0-0 of none, too."""
    match = _RECEIVED.fullmatch(header.strip())
    return int(match[1]) + 1 if match is not None and match[1] != "0" else 0


def challenges(headers: Sequence[str]) -> list[Challenge]:
    """All challenges of `WWW-Authenticate` headers. What is malformed ends the header it stands in."""
    found = []
    for header in headers:
        position = 0
        while (scheme := _SCHEME.match(header, position)) is not None:
            parameters, position = _parameters(header, scheme.end())
            found.append(Challenge(scheme=scheme[1].lower(), parameters=parameters))
    return found


def _parameters(header: str, position: int) -> tuple[dict[str, str], int]:
    """What follows a scheme, and where it ends: parameters, one token68 (of no use here), or nothing."""
    parameters: dict[str, str] = {}
    while (parameter := _PARAMETER.match(header, position)) is not None:
        name, quoted, plain = parameter.groups()
        parameters[name.lower()] = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        position = parameter.end()
    if not parameters and (opaque := _TOKEN68.match(header, position)) is not None:
        position = opaque.end()
    return parameters, position


def content_range(header: str) -> ContentRange:
    """DataLoss for a header that is not one, or says less than nothing."""
    match = _RANGE.fullmatch(header.strip())
    total = -1 if match is None or match[3] == "*" else int(match[3])
    if match is None or int(match[2]) < int(match[1]) or 0 <= total <= int(match[2]):
        raise errors.DataLoss(f"content-range {header[:100]!r} is malformed")
    return ContentRange(first=int(match[1]), last=int(match[2]), total=total)


def problems(body: bytes) -> str:
    """An error body's codes and messages on one line; "" when it is not one."""
    try:
        document = msgspec.json.decode(body, type=Problems)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return ""
    said = [
        f"{problem.code}: {_one_line(problem.message)}" if problem.message else problem.code
        for problem in document.errors
        if _CODE.fullmatch(problem.code)
    ]
    return "; ".join(said)[:1000]


def warnings(headers: Sequence[str]) -> list[str]:
    """What `Warning` headers tell people (distribution spec, warnings): those of code 299 and no agent. What is
    malformed ends the header it stands in."""
    found = []
    for header in headers:
        position = 0
        while (warning := _WARNING.match(header, position)) is not None:
            found.append(_one_line(re.sub(r"\\(.)", r"\1", warning[1]), MAX_WARNING))
            position = warning.end()
            position += len(header[position:]) - len(header[position:].lstrip())
    return found


def token(body: bytes) -> Token:
    """A token server's answer. DataLoss when it holds no token; the message shows nothing of it."""
    try:
        answer = msgspec.json.decode(body, type=Token, strict=False)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise errors.DataLoss("the token server's answer is not a token") from None
    if not answer.value or not answer.value.isascii() or not answer.value.isprintable() or " " in answer.value:
        raise errors.DataLoss("the token server's answer holds no token")
    return answer


def redacted(url: str) -> str:
    """`url` fit for a message: values of its query (they sign requests) and its password are left out."""
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return "(malformed url)"
    query = "&".join(
        f"{_quoted(name)}={_quoted(value) if name == 'ns' else 'REDACTED' if value else ''}"
        for name, value in sorted(parse_qsl(parts.query, keep_blank_values=True))
    )
    return urlunsplit((parts.scheme, host, parts.path, query, ""))


def _quoted(text: str) -> str:
    return quote(text, errors="replace")


def _one_line(text: str, most: int = 300) -> str:
    return "".join(character if character.isprintable() else " " for character in text[:most])
