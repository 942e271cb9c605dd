"""The schema: one line a table.

Layout: NAMESPACE \\0 KIND \\0 ID... \\0 -> the record as msgpack. Namespaces themselves, the schema's version and what
snapshotters keep (`kv`) stand in the bucket of no namespace.
"""

from daemon.metadata.store import View
from daemon.metadata.table import GLOBAL, Table
from spec.records import Container, ContentInfo, Image, Lease, LeaseResource, Namespace

NAMESPACES = Table("namespaces", "namespace", Namespace)  # GLOBAL / name
IMAGES = Table("images", "image", Image)  # namespace / name
CONTAINERS = Table("containers", "container", Container)  # namespace / id
CONTENT = Table("content", "content", ContentInfo)  # namespace / digest
LEASES = Table("leases", "lease", Lease)  # namespace / id
LEASED = Table("leased", "lease resource", LeaseResource)  # namespace / lease / type / id

NAMESPACED = (IMAGES, CONTAINERS, CONTENT, LEASES)

__all__ = ["CONTAINERS", "CONTENT", "GLOBAL", "IMAGES", "LEASED", "LEASES", "NAMESPACED", "NAMESPACES", "in_use"]


def in_use(view: View) -> list[str]:
    """Every namespace that has a record, explicitly made or not, in order."""
    found = []
    at = b""
    while (key := next((key for key, _ in view.items(b"", at)), None)) is not None:
        name = key.partition(b"\0")[0]
        at = name + b"\x01"
        found.append(name.decode("utf-8", "surrogateescape"))
    made = {row.name for row in NAMESPACES.scan(view, GLOBAL)}
    return sorted(made | (set(found) - {GLOBAL}))
