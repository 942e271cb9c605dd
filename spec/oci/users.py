"""Who a process runs as: "name|uid[:name|gid]" against the texts of passwd and group. Knows no file system.

The rules are containerd's for an image's `User`; a number is never looked up as a name (CVE-2026-46680).
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from spec import errors
from spec.base import Record

NUMBER_MAX = 2**31 - 1  # of an id that is written as a number
ID_MAX = 2**32 - 2  # of an id in a file; 2**32 - 1 means "no change" to chown(2) and setresuid(2)

_NUMBER = re.compile(r"[+-]?[0-9]+\Z")


class Ids(Record, frozen=True):
    """What the kernel is told. `additional_gids` begins with the primary group, so that no one can shed it
    (CVE-2023-25173)."""

    uid: int
    gid: int
    additional_gids: Sequence[int] = ()


class _Entry(NamedTuple):
    """A line of passwd (`members` empty) or group. `group` is the primary group's id, as text."""

    name: str
    id: str
    group: str
    members: Sequence[str]


def resolve(user: str, passwd: bytes, group: bytes, extra: Sequence[int] = ()) -> Ids:
    """Ids of `user`, which also gets the groups `extra` and those that list it as a member.

    InvalidArgument for a malformed user, an id out of range, and a name that is in neither text.
    """
    who, colon, of = user.partition(":")
    if not who or ":" in of or (colon and not of):
        raise errors.InvalidArgument(f"resolve user {user!r}: not of the form user[:group]")
    uid = _number(who, user)
    found = _find(_passwd(passwd), (lambda e: e.name == who) if uid is None else (lambda e: _value(e.id) == uid))
    if uid is None:
        if found is None:
            raise errors.InvalidArgument(f"resolve user {user!r}: no {who!r} in /etc/passwd of the root filesystem")
        uid = _checked(found.id, user)
    primary = found.group if found else "0"
    gid = group_id(of, group) if of else _checked(primary, user)
    supplementary = [_checked(entry.id, user) for entry in _memberships(found.name, group)] if found else []
    return Ids(uid=uid, gid=gid, additional_gids=tuple(dict.fromkeys([gid, *extra, *supplementary])))


def group_id(text: str, group: bytes) -> int:
    """Id of the group that `text` names or numbers; InvalidArgument as `resolve`."""
    gid = _number(text, text)
    if gid is not None:
        return gid
    found = _find(_groups(group), lambda entry: entry.name == text)
    if found is None:
        raise errors.InvalidArgument(f"resolve group {text!r}: not in /etc/group of the root filesystem")
    return _checked(found.id, text)


def _number(text: str, whole: str) -> int | None:
    """The id that `text` is, or None when it is a name."""
    if not _NUMBER.match(text):
        return None
    # int() of a long text takes time that grows with its square
    if len(text.lstrip("+-0")) > 10 or not 0 <= int(text[-32:]) <= NUMBER_MAX or text.startswith("-"):
        raise errors.InvalidArgument(f"resolve user {whole[:100]!r}: {text[:40]} is out of range")
    return int(text[-32:])


def _value(text: str) -> int | None:
    """An id of a file; None when it is none that a process can have."""
    if not (text.isascii() and text.isdigit() and len(text.lstrip("0")) <= 10):
        return None
    value = int(text[-32:])
    return value if value <= ID_MAX else None


def _checked(text: str, user: str) -> int:
    value = _value(text)
    if value is None:
        raise errors.InvalidArgument(f"resolve user {user!r}: id {text[:40]!r} is out of range")
    return value


def _find(entries: Iterator[_Entry], wanted: Callable[[_Entry], bool]) -> _Entry | None:
    return next(filter(wanted, entries), None)


def _memberships(name: str, group: bytes) -> Iterator[_Entry]:
    """Groups that list `name`, without the one that is named after it."""
    return (entry for entry in _groups(group) if name in entry.members and entry.name != name)


def _passwd(text: bytes) -> Iterator[_Entry]:
    """passwd(5): name:password:uid:gid:..."""
    for fields in _lines(text):
        if len(fields) >= 4:
            yield _Entry(fields[0], fields[2], fields[3], ())


def _groups(text: bytes) -> Iterator[_Entry]:
    """group(5): name:password:gid:member,member"""
    for fields in _lines(text):
        if len(fields) >= 3:
            members = fields[3].split(",") if len(fields) > 3 else ()
            yield _Entry(fields[0], fields[2], fields[2], [member.strip() for member in members])


def _lines(text: bytes) -> Iterator[list[str]]:
    for line in text.split(b"\n"):
        line = line.strip()
        if line and not line.startswith((b"#", b"+", b"-")):
            yield line.decode("utf-8", "surrogateescape").split(":")
