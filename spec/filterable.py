"""Which fields of a record filters may name: one table a kind, for every store that lists it."""

from spec.filters import Fields, fields_of
from spec.ports import Task
from spec.records import ContentInfo, IngestStatus, Lease, SnapshotInfo

CONTENT: Fields[ContentInfo] = fields_of({"digest": lambda info: info.digest, "labels": lambda info: info.labels})
INGEST: Fields[IngestStatus] = fields_of({"ref": lambda status: status.ref})
LEASE: Fields[Lease] = fields_of({"id": lambda lease: lease.id, "labels": lambda lease: lease.labels})
TASK: Fields[Task] = fields_of({"id": lambda task: task.id, "namespace": lambda task: task.namespace})
# `kind` is view, active or committed.
SNAPSHOT: Fields[SnapshotInfo] = fields_of(
    {
        "kind": lambda info: info.kind.name.lower(),
        "name": lambda info: info.name,
        "parent": lambda info: info.parent,
        "labels": lambda info: info.labels,
    }
)
