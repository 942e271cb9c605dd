"""Whether blobs are what their names and their records say."""

import errno
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from spec import digest as digests
from spec import errors
from spec.records import Fault

CHUNK = 1 << 20


def sizes(root: str) -> dict[str, int]:
    """Of all blobs, by digest."""
    return {digest: path.lstat().st_size for digest, path in _blobs(root) if digest and path.is_file()}


def check(root: str, recorded: Mapping[str, Iterable[tuple[str, int]]], hashed: bool) -> Iterator[Fault]:
    """`recorded` has namespace and size of each record of a digest. With `hashed` every byte is read."""
    found = set()
    for digest, path in _blobs(root):
        if not digest or path.is_symlink() or not path.is_file():
            yield Fault(place="content", subject=str(path), what="it is no blob", harmless=True)
            continue
        found.add(digest)
        size = path.lstat().st_size
        for namespace, told in recorded.get(digest, ()):
            if told != size:
                what = f"its record in namespace {namespace} says {told} bytes, it has {size}"
                yield Fault(place="content", subject=digest, what=what)
        if digest not in recorded:
            yield Fault(place="content", subject=digest, what="there is no record of it", harmless=True)
        if hashed and (what := _hashes(path, digest)):
            yield Fault(place="content", subject=digest, what=what)
    for digest in sorted(recorded.keys() - found):
        for namespace, _ in recorded[digest]:
            what = f"namespace {namespace} has a record, but there are no bytes"
            yield Fault(place="content", subject=digest, what=what)


def _blobs(root: str) -> Iterator[tuple[str, Path]]:
    """Every file where blobs are, and the digest that its name is; "" when it is none."""
    base = Path(root, "blobs")
    for folder in sorted(base.iterdir()) if base.is_dir() else ():
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            digest = f"{folder.name}:{path.name}"
            try:
                digests.check(digest)
            except errors.InvalidArgument:
                digest = ""
            yield digest, path


def _hashes(path: Path, digest: str) -> str:
    """Why a blob is not what its name says; empty when it is, or has gone."""
    running = digests.hasher(digests.split(digest)[0])
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(fd, "rb", buffering=0) as file:
            while chunk := file.read(CHUNK):
                running.update(chunk)
    except FileNotFoundError:
        return ""
    except OSError as exc:
        return f"it cannot be read: {errno.errorcode.get(exc.errno or 0, exc)}"
    return "" if running.hexdigest() == digests.split(digest)[1] else "it does not hash to its name"
