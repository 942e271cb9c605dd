"""The schema: one line a table.

Layout: NAMESPACE \\0 KIND \\0 ID... \\0 -> the record as msgpack. Namespaces themselves, the schema's version and what
snapshotters keep (`kv`) stand in the bucket of no namespace.
"""

from daemon.metadata.table import GLOBAL, Table
from spec.records import Container, ContentInfo, Image, Namespace

NAMESPACES = Table("namespaces", "namespace", Namespace)  # GLOBAL / name
IMAGES = Table("images", "image", Image)  # namespace / name
CONTAINERS = Table("containers", "container", Container)  # namespace / id
CONTENT = Table("content", "content", ContentInfo)  # namespace / digest

NAMESPACED = (IMAGES, CONTAINERS, CONTENT)

__all__ = ["CONTAINERS", "CONTENT", "GLOBAL", "IMAGES", "NAMESPACED", "NAMESPACES"]
