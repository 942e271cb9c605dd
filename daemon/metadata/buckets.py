"""Nested buckets over flat ordered keys: namespace / kind / id, as bbolt nests them.

A key is its path's components, each followed by a NUL; so a bucket's rows stand together, in order of id. LMDB keys end
at 511 bytes: a longer one keeps its beginning, and a hash stands for the rest (the record knows its whole name).
"""

import hashlib

from spec import errors

MAX_KEY = 511
_HASHED = b"\x01"


def prefix(*path: str) -> bytes:
    """Of all keys in the bucket `path`."""
    return b"".join(_component(part) + b"\0" for part in path)


def key(*path: str) -> bytes:
    """Of the row whose bucket and id are `path`."""
    whole = prefix(*path)
    if len(whole) <= MAX_KEY:
        return whole
    digest = hashlib.sha256(whole).hexdigest().encode()
    return whole[: MAX_KEY - len(digest) - 1] + _HASHED + digest


def _component(part: str) -> bytes:
    encoded = part.encode("utf-8", "surrogateescape")
    if not encoded or b"\0" in encoded:
        raise errors.InvalidArgument(f"naming a record {part!r}: empty, or has a NUL in it")
    return encoded
