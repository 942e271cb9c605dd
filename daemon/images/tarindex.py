"""Where the files of a tar are: its headers alone are read. For archives of images, whose members are few and plainly
named; layers go through the unpacker, which knows all of tar."""

import os
import posixpath
from collections.abc import Callable
from typing import NamedTuple

from spec import errors

BLOCK = 512
MAX_MEMBERS = 100_000
MAX_EXTENSION = 1 << 20  # bytes of a pax header or a long name
MAX_NAMES = 32 << 20  # bytes of all names together
MAX_LINKS = 40  # of which one leads to another, as the kernel has it (path_resolution(7))

FILE, HARD_LINK, SOFT_LINK = b"0\0", b"1", b"2"
HEADER_ALONE = b"123456"  # links, devices, directories, FIFOs: nothing follows, whatever size they say
LINK_NAME, LONG_NAME, PAX, PAX_GLOBAL = b"K", b"L", b"x", b"g"


class Place(NamedTuple):
    """A file's bytes. `twice`: another member of the same name has others."""

    start: int
    size: int
    twice: bool = False


class _Head:
    """What extended headers say of the member that follows them."""

    def __init__(self) -> None:
        self.name, self.link, self.size = "", "", -1


def files(fd: int, check: Callable[[], None] = lambda: None) -> dict[str, Place]:
    """Each file's place by its name, also by the names of links to it. A link that leads out of the tar, to nothing, or
    in a circle is no file. `check` is called now and then. InvalidArgument for what is no tar, DataLoss for one that is
    cut off, ResourceExhausted for one that has too much."""
    found: dict[str, Place] = {}
    links: dict[str, str] = {}
    end = os.fstat(fd).st_size
    at, head, names = 0, _Head(), 0
    for number in range(MAX_MEMBERS):
        if number % 1024 == 0:
            check()
        header = _read(fd, BLOCK, at)
        if not header.strip(b"\0"):
            return found | _followed(links, found)
        if _number(header[148:156]) != sum(header[:148]) + sum(header[156:]) + 8 * 0x20:
            raise errors.InvalidArgument(f"reading an archive: there is no tar header at byte {at}")
        kind, start = header[156:157], at + BLOCK
        size = _number(header[124:136])
        if kind in (PAX, LONG_NAME, LINK_NAME):
            if size > MAX_EXTENSION:
                raise errors.InvalidArgument(f"reading an archive: a header of {size} bytes at byte {at}")
            _extend(head, kind, _read(fd, size, start))
        elif kind != PAX_GLOBAL:
            size = head.size if head.size >= 0 else size
            name = clean(head.name or _plain(header))
            if kind in FILE:
                before = found.get(name)
                found[name] = Place(start, size, before is not None or name in links)
            elif kind in (HARD_LINK, SOFT_LINK):
                links[name] = _target(kind, name, head.link or _text(header[157:257]))
            size = 0 if kind in HEADER_ALONE else size
            names += len(name)
            head = _Head()
        if names > MAX_NAMES:
            raise errors.ResourceExhausted(f"reading an archive: its names are longer than {MAX_NAMES} bytes")
        at = start + -(-size // BLOCK) * BLOCK
        if at > end:
            raise errors.DataLoss("reading an archive: it ends within a member")
    raise errors.ResourceExhausted(f"reading an archive: it has more than {MAX_MEMBERS} members")


def clean(name: str) -> str:
    """A member's name as others are compared with it."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _followed(links: dict[str, str], found: dict[str, Place]) -> dict[str, Place]:
    """The places that links lead to; of a name that is a file's, too, it is not known which is meant."""
    places = {}
    for name in links:
        target = name
        for _ in range(MAX_LINKS):
            target = links.get(target, "")
            if target in found:
                places[name] = found[target]._replace(twice=found[target].twice or name in found)
                break
    return places


def _target(kind: bytes, name: str, link: str) -> str:
    """What a link means, from the tar's root; "" for nothing in it. A hard link's target is a member's name."""
    if kind == HARD_LINK:
        return clean(link)
    if link.startswith("/"):
        return ""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(name), link))
    return "" if path.startswith("..") else path


def _read(fd: int, size: int, at: int) -> bytes:
    data = os.pread(fd, size, at)
    if len(data) < size:
        raise errors.DataLoss("reading an archive: it ends too early")
    return data


def _number(field: bytes) -> int:
    """Octal, or base 256 (GNU tar manual, extensions)."""
    if field[0] & 0x80:
        return int.from_bytes(bytes((field[0] & 0x3F,)) + field[1:], "big")
    try:
        return int(field.strip(b" \0") or b"0", 8)
    except ValueError:
        raise errors.InvalidArgument("reading an archive: a tar header holds no number where one belongs") from None


def _plain(header: bytes) -> str:
    name, prefix = _text(header[:100]), _text(header[345:500])
    return f"{prefix}/{name}" if prefix and header[257:262] == b"ustar" else name


def _extend(head: _Head, kind: bytes, body: bytes) -> None:
    """GNU's long names; `path`, `linkpath`, `size` of a pax header (POSIX, pax), of records "LENGTH KEY=VALUE\\n"."""
    if kind == LONG_NAME:
        head.name = _text(body)
        return
    if kind == LINK_NAME:
        head.link = _text(body)
        return
    while body:
        digits, space, _ = body.partition(b" ")
        length = int(digits) if space and digits.isdigit() and len(digits) < 8 else 0
        record = body[len(digits) + 1 : length - 1]
        key, equals, value = record.partition(b"=")
        if not equals or not len(digits) + 1 < length <= len(body):
            raise errors.InvalidArgument("reading an archive: a malformed pax header")
        if key == b"path":
            head.name = _text(value)
        elif key == b"linkpath":
            head.link = _text(value)
        elif key == b"size" and value.isdigit() and len(value) < 20:
            head.size = int(value)
        body = body[length:]


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")
