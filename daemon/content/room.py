"""Whether there is room for blobs, before they are fetched."""

import os
from collections.abc import Sequence

from spec import errors
from spec.oci.image import Descriptor
from spec.ports import ContentStore


class Room:
    """On the filesystem of `root`, where `store` keeps its blobs and ingests."""

    def __init__(self, store: ContentStore, root: str) -> None:
        self._store = store
        self._root = root

    def check(self, blobs: Sequence[Descriptor], doing: str) -> None:
        """ResourceExhausted, with what is needed and what is free, when those that are not there do not fit. What of
        them has come is there already; what they unpack to nobody knows yet."""
        sizes = {blob.digest: blob.size for blob in blobs if not self._has(blob.digest)}
        if not sizes:
            return
        begun = {status.expected: status.offset for status in self._store.statuses()}
        need = sum(max(size - begun.get(digest, 0), 0) for digest, size in sizes.items())
        found = os.statvfs(self._root)
        free = found.f_bavail * found.f_frsize
        if need > free:
            raise errors.ResourceExhausted(
                f"{doing}: it needs {_amount(need)} of disk, and {self._root} has {_amount(free)} free"
            )

    def _has(self, digest: str) -> bool:
        try:
            self._store.info(digest)
        except errors.NotFound:
            return False
        return True


def _amount(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
