"""Snapshots as whole copies: works on any filesystem, shares blocks where it can.

Layout: `snapshots/ID/`. An active snapshot starts as a copy of its parent; a view of a parent is the parent, read-only.
"""

import os
from collections.abc import Sequence

from daemon.snapshots.directory import DirectorySnapshotter
from daemon.snapshots.tree import Node
from pyx import walk
from spec.records import Kind, Labels
from spec.types import Mount, Usage


class Native(DirectorySnapshotter):
    """A ports.Snapshotter below `root`."""

    def commit(
        self, name: str, key: str, labels: Labels | None = None, usage: Usage | None = None, parent: str = ""
    ) -> None:
        """A given `usage` is of the change alone, while this snapshot holds it all: so it is measured."""
        super().commit(name, key, labels, None, parent)

    def _fill(self, directory: str, kind: Kind, parent: int | None) -> None:
        os.chmod(directory, 0o755)
        if kind == Kind.ACTIVE and parent is not None:
            _copy(self._own(parent), directory)

    def _mounts(self, node: Node) -> Sequence[Mount]:
        if node.kind == Kind.VIEW:
            shown = node.parents[0] if node.parents else node.id
            return (Mount(type="bind", source=self._own(shown), options=("ro", "rbind")),)
        return (Mount(type="bind", source=self._own(node.id), options=("rw", "rbind")),)

    def _own(self, id: int) -> str:
        return self._folders.path(id)


def _copy(source: str, target: str) -> None:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    here = os.open(source, flags)
    try:
        there = os.open(target, flags)
        try:
            walk.copy(here, there)
        finally:
            os.close(there)
    finally:
        os.close(here)
