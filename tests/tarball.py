"""Tar archives made by hand, header by header, for what no well-meaning tool would write."""

import struct


def pax(**records):
    """A pax extended header (POSIX.1-2017) of these records; `__` in a key stands for a dot."""
    body = b""
    for key, value in records.items():
        value = value if isinstance(value, bytes) else str(value).encode()
        line = b" " + key.replace("__", ".").encode() + b"=" + value + b"\n"
        length = len(line) + 1
        while len(str(length)) + len(line) != length:
            length = len(str(length)) + len(line)
        body += str(length).encode() + line
    return entry("pax", "x", body)


def long_name(name, kind="L"):
    """GNU's way to say a long name (L) or link target (K)."""
    return entry("././@LongLink", kind, name.encode() + b"\0")


def entry(
    name, kind="0", body=b"", *, link="", mode=0o755, uid=0, gid=0, size=None, mtime=0, major=0, minor=0
):
    """One header and its body, padded."""
    name = name if isinstance(name, bytes) else name.encode()
    link = link if isinstance(link, bytes) else link.encode()
    size = len(body) if size is None else size
    header = bytearray(512)
    struct.pack_into("100s8s8s8s12s12s", header, 0, name, _octal(mode, 8), _number(uid, 8), _number(gid, 8),
                     _number(size, 12), _number(mtime, 12))  # fmt: skip
    struct.pack_into("c100s8s", header, 156, kind.encode(), link, b"ustar\x0000")
    struct.pack_into("8s8s", header, 329, _number(major, 8), _number(minor, 8))
    return sealed(header) + body + bytes(-len(body) % 512)


def sealed(header):
    """The header with its checksum."""
    header = bytearray(header)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def archive(*entries):
    """Entries and the two blocks of zeros at the end."""
    return b"".join(entries) + bytes(1024)


def folder(name, **more):
    return entry(name, "5", **more)


def file(name, body=b"", **more):
    return entry(name, "0", body if isinstance(body, bytes) else body.encode(), **more)


def symlink(name, target, **more):
    return entry(name, "2", link=target, **more)


def hardlink(name, target, **more):
    return entry(name, "1", link=target, **more)


def _octal(value, width):
    return b"%0*o\0" % (width - 1, value)


def _number(value, width):
    """Octal where it fits, base-256 where it does not."""
    if 0 <= value < 8 ** (width - 1):
        return _octal(value, width)
    return bytes([0x80 if value >= 0 else 0xFF]) + (value & ((1 << 8 * (width - 1)) - 1)).to_bytes(width - 1, "big")
