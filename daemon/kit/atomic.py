"""Publish by rename: a reader sees the old file or the new one, whole, whatever happens in between."""

import contextlib
import os
import tempfile


def write(path: str, data: bytes, *, mode: int = 0o600, durable: bool = True) -> None:
    """Put `data` at `path`. With `durable` it survives a power loss once this returns."""
    fd, temporary = tempfile.mkstemp(prefix=".new-", dir=os.path.dirname(path) or ".")
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            if durable:
                os.fsync(file.fileno())
        publish(temporary, path, durable=durable)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def publish(temporary: str, path: str, *, durable: bool = True) -> None:
    """Give a finished file or directory its name. What it holds must have been synced by whoever wrote it."""
    os.rename(temporary, path)
    if durable:
        sync_directory(os.path.dirname(path) or ".")


def sync_directory(path: str) -> None:
    """Make the names in a directory durable (fsync(2))."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
