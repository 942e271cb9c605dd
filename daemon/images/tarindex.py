"""Where the files of a tar are: its headers alone are read. For archives of images, whose members are few and plainly
named; layers go through the unpacker, which knows all of tar."""

import os

from spec import errors

BLOCK = 512
MAX_MEMBERS = 100_000
MAX_EXTENSION = 1 << 20  # bytes of a pax header or a long name

FILE, LINK_NAME, LONG_NAME, PAX, PAX_GLOBAL = b"0\0", b"K", b"L", b"x", b"g"


def files(fd: int) -> dict[str, tuple[int, int]]:
    """Offset and size of each file's bytes, by its name; of two with one name the last. InvalidArgument for what is no
    tar, DataLoss for one that is cut off."""
    found: dict[str, tuple[int, int]] = {}
    end = os.fstat(fd).st_size
    at, name, size_given = 0, "", -1
    for _ in range(MAX_MEMBERS):
        header = _read(fd, BLOCK, at)
        if not header.strip(b"\0"):
            return found
        if _number(header[148:156]) != sum(header[:148]) + sum(header[156:]) + 8 * 0x20:
            raise errors.InvalidArgument(f"reading an archive: there is no tar header at byte {at}")
        kind, start = header[156:157], at + BLOCK
        size = _number(header[124:136])
        if kind in (PAX, LONG_NAME):
            if size > MAX_EXTENSION:
                raise errors.InvalidArgument(f"reading an archive: a header of {size} bytes at byte {at}")
            body = _read(fd, size, start)
            if kind == LONG_NAME:
                name = _text(body)
            else:
                name, size_given = _extended(body, name, size_given)
        elif kind not in (PAX_GLOBAL, LINK_NAME):
            size = size_given if size_given >= 0 else size
            if kind in FILE:
                found[_clean(name or _plain(header))] = (start, size)
            name, size_given = "", -1
        at = start + -(-size // BLOCK) * BLOCK
        if at > end:
            raise errors.DataLoss("reading an archive: it ends within a member")
    raise errors.ResourceExhausted(f"reading an archive: it has more than {MAX_MEMBERS} members")


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


def _extended(body: bytes, name: str, size: int) -> tuple[str, int]:
    """`path` and `size` of a pax header (POSIX, pax): records "LENGTH KEY=VALUE\\n"."""
    while body:
        digits, space, _ = body.partition(b" ")
        length = int(digits) if space and digits.isdigit() and len(digits) < 8 else 0
        record = body[len(digits) + 1 : length - 1]
        key, equals, value = record.partition(b"=")
        if not equals or length > len(body):
            raise errors.InvalidArgument("reading an archive: a malformed pax header")
        if key == b"path":
            name = _text(value)
        elif key == b"size" and value.isdigit() and len(value) < 20:
            size = int(value)
        body = body[length:]
    return name, size


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _clean(name: str) -> str:
    return "/".join(part for part in name.split("/") if part not in ("", "."))
