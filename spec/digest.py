"""Digests (OCI image spec, descriptors: digests) and chain ids (image spec, config: layer chain id)."""

import hashlib
import re
from collections.abc import Sequence

from spec import errors

CANONICAL = "sha256"
_LENGTHS = {"sha256": 64, "sha512": 128}
_HEX = re.compile(r"[0-9a-f]+", re.ASCII)


def check(digest: str) -> str:
    """`digest`, if it is well formed and of an algorithm we have; InvalidArgument names it."""
    split(digest)
    return digest


def split(digest: str) -> tuple[str, str]:
    """Algorithm and hex; InvalidArgument as `check`."""
    algorithm, colon, value = digest.partition(":")
    if not colon or _LENGTHS.get(algorithm) != len(value) or not _HEX.fullmatch(value):
        raise errors.InvalidArgument(f"digest {digest[:200]!r} is not sha256:HEX or sha512:HEX")
    return algorithm, value


def hasher(algorithm: str = CANONICAL) -> "hashlib._Hash":
    """A running hash; InvalidArgument for an algorithm we do not have."""
    if algorithm not in _LENGTHS:
        raise errors.InvalidArgument(f"digest algorithm {algorithm!r} is neither sha256 nor sha512")
    return hashlib.new(algorithm)


def of(data: bytes | bytearray | memoryview, algorithm: str = CANONICAL) -> str:
    """The digest of `data`."""
    running = hasher(algorithm)
    running.update(data)
    return f"{algorithm}:{running.hexdigest()}"


def chain_ids(diff_ids: Sequence[str]) -> list[str]:
    """Chain id of each prefix of the layers, lowest first."""
    chain: list[str] = []
    for diff_id in diff_ids:
        check(diff_id)
        chain.append(of(f"{chain[-1]} {diff_id}".encode()) if chain else diff_id)
    return chain


def chain_id(diff_ids: Sequence[str]) -> str:
    """Chain id of all the layers, "" of none."""
    return chain_ids(diff_ids)[-1] if diff_ids else ""
