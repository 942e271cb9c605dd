"""A snapshotter as one namespace sees it: its own keys and events.

The snapshotter holds the truth, labels and all; only names change on the way: `key` in `namespace` is `namespace/key`
there.
"""

import re
from collections.abc import Callable, Iterator, Sequence

from msgspec.structs import replace

from spec import edges, errors, filterable
from spec.events import SnapshotCommit, SnapshotPrepare, SnapshotRemove
from spec.filters import matcher
from spec.names import check_labels
from spec.ports import Publisher, Snapshotter, Tracker, Untracked
from spec.records import Labels, SnapshotInfo
from spec.types import Mount, Usage


class ScopedSnapshots:
    """A ports.Snapshotter. `name` is the snapshotter's; `keep` makes a resource, by type and id, that of the call's
    lease."""

    def __init__(
        self,
        raw: Snapshotter,
        name: str,
        publisher: Publisher,
        namespace: str,
        tracker: Tracker = Untracked(),
        keep: Callable[[str, str], None] = lambda kind, id: None,
    ) -> None:
        self._raw = raw
        self._name = name
        self._publisher = publisher
        self._namespace = namespace
        self._prefix = f"{namespace}/"
        self._tracker = tracker
        self._keep = keep
        self._kind = edges.snapshot_kind(name)

    @property
    def capabilities(self) -> frozenset[str]:
        return self._raw.capabilities

    def prepare(self, key: str, parent: str = "", labels: Labels | None = None) -> Sequence[Mount]:
        with self._own_words(f"preparing snapshot {key}"):
            check_labels(labels or {})
            self._count_on(key, parent, labels)
            mounts = self._raw.prepare(self._whole(key), self._maybe(parent), labels)
        event = SnapshotPrepare(key=key, parent=parent, snapshotter=self._name)
        self._publisher.publish(self._namespace, "/snapshot/prepare", event)
        return mounts

    def view(self, key: str, parent: str = "", labels: Labels | None = None) -> Sequence[Mount]:
        with self._own_words(f"preparing snapshot {key}"):
            check_labels(labels or {})
            self._count_on(key, parent, labels)
            return self._raw.view(self._whole(key), self._maybe(parent), labels)

    def mounts(self, key: str) -> Sequence[Mount]:
        with self._own_words(f"mounting snapshot {key}"):
            return self._raw.mounts(self._whole(key))

    def commit(
        self, name: str, key: str, labels: Labels | None = None, usage: Usage | None = None, parent: str = ""
    ) -> None:
        with self._own_words(f"committing snapshot {key} as {name}"):
            check_labels(labels or {})
            self._count_on(name, parent, labels)
            self._raw.commit(self._whole(name), self._whole(key), labels, usage, self._maybe(parent))
        event = SnapshotCommit(key=key, name=name, snapshotter=self._name)
        self._publisher.publish(self._namespace, "/snapshot/commit", event)

    def remove(self, key: str) -> None:
        with self._own_words(f"removing snapshot {key}"):
            self._raw.remove(self._whole(key))
        self._tracker.removed()
        self._publisher.publish(self._namespace, "/snapshot/remove", SnapshotRemove(key=key, snapshotter=self._name))

    def stat(self, key: str) -> SnapshotInfo:
        with self._own_words(f"looking at snapshot {key}"):
            return self._stripped(self._raw.stat(self._whole(key)))

    def update(self, info: SnapshotInfo, fields: Sequence[str] = ()) -> SnapshotInfo:
        with self._own_words(f"updating snapshot {info.name}"):
            check_labels(info.labels)
            self._tracker.touch(edges.touched(edges.of_snapshot(self._namespace, self._name, info)))
            return self._stripped(self._raw.update(replace(info, name=self._whole(info.name)), fields))

    def usage(self, key: str) -> Usage:
        with self._own_words(f"measuring snapshot {key}"):
            return self._raw.usage(self._whole(key))

    def list(self, filters: Sequence[str] = ()) -> Iterator[SnapshotInfo]:
        matches = matcher(filters, filterable.SNAPSHOT)
        mine = (self._stripped(info) for info in self._raw.list() if info.name.startswith(self._prefix))
        return filter(matches, mine)

    def cleanup(self) -> None:
        self._raw.cleanup()

    def close(self) -> None:
        """The raw snapshotter belongs to the assembly, which closes it."""

    def _count_on(self, name: str, parent: str, labels: Labels | None) -> None:
        """Before it is made: what collection must spare, and what is the call's lease's."""
        info = SnapshotInfo(name=name, parent=parent, labels=labels or {})
        self._tracker.touch(edges.touched(edges.of_snapshot(self._namespace, self._name, info)))
        self._keep(self._kind, name)

    def _whole(self, key: str) -> str:
        if not key:
            raise errors.InvalidArgument("the key is empty")
        return self._prefix + key

    def _maybe(self, parent: str) -> str:
        return self._prefix + parent if parent else ""

    def _stripped(self, info: SnapshotInfo) -> SnapshotInfo:
        cut = len(self._prefix)
        return replace(info, name=info.name[cut:], parent=info.parent[cut:])

    def _own_words(self, doing: str) -> "_Words":
        return _Words(doing, self._prefix)


class _Words:
    """Errors of the block in the caller's words: what was done, and his keys."""

    def __init__(self, doing: str, prefix: str) -> None:
        self._doing = doing
        self._prefix = prefix

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, exc: BaseException | None, trace: object) -> None:
        if isinstance(exc, errors.Error):
            # Only where a name begins: elsewhere it is a part of one, or of a path.
            text = re.sub(rf"(?<![\w./:@-]){re.escape(self._prefix)}", "", exc.message)
            raise type(exc)(text if text.startswith(self._doing) else f"{self._doing}: {text}") from exc
