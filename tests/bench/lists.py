"""Lists of very many records, at the client; and what they cost the daemon's memory."""

import time

from daemon.metadata.store import Store
from daemon.metadata.tables import CONTAINERS, CONTENT, IMAGES
from spec.api import containers, content, images
from spec.oci.image import Descriptor
from spec.records import Container, ContentInfo, Image, RuntimeRef
from tests.bench.figures import Row, memory_kb
from tests.daemon import Daemon

COUNT = 100_000
CHUNK = 10_000
LABELS = {"com.example.team": "bench", "com.example.service": "list"}


def fill(root, rows):
    """Write rows (table, record, id) into namespace `default` of a daemon that does not run."""
    store = Store(str(root / "metadata"))
    for start in range(0, len(rows), CHUNK):
        store.update(
            lambda txn, some=rows[start : start + CHUNK]: [
                table.put(txn, row, "default", id) for table, row, id in some
            ]
        ).result()
    store.close()


def measure(where):
    daemon = Daemon(where, "[gc]\npause_threshold = 0\nstartup_delay_s = 3600\n")
    spec = b'{"ociVersion":"1.0.2","process":{"args":["sleep"]}}'
    target = Descriptor(media_type="application/vnd.oci.image.index.v1+json", digest=_digest(0), size=1)
    rows = []
    for number in range(COUNT):
        id = f"record-{number:06}"
        container = Container(id=id, image="i", runtime=RuntimeRef(name="runc"), spec=spec, labels=LABELS)
        rows.append((CONTAINERS, container, id))
        rows.append((IMAGES, Image(name=id, target=target, labels=LABELS), id))
        rows.append((CONTENT, ContentInfo(digest=_digest(number), size=1, labels=LABELS), _digest(number)))
    fill(daemon.root, rows)
    with daemon, daemon.client() as client:
        for what, stream, block in (
            ("containers", lambda: client.containers.list_stream(containers.ListRequest()), "containers"),
            ("images", lambda: client.images.list_stream(images.ListRequest()), "images"),
            ("images, filtered", lambda: client.images.list_stream(images.ListRequest(filters=[FILTER])), "images"),
            ("blobs", lambda: client.content.list(content.ListRequest()), "info"),
        ):
            before = memory_kb(daemon.process.pid, "Private_Dirty", "Anonymous")
            first, whole, count = min(_listed(stream, block) for _ in range(3))
            grown = (memory_kb(daemon.process.pid, "Private_Dirty", "Anonymous") - before) / 1024
            yield Row(
                f"list of {count} {what}: first, all",
                f"{first * 1e3:.1f} ms, {whole:.2f} s (daemon +{grown:.1f} MB)",
                "<= 10 ms, <= 1 s",
                "",
            )


FILTER = 'labels."com.example.team"==bench,name~=|[05]$|'


def _listed(stream, block):
    began = time.perf_counter()
    first, count = 0.0, 0
    for reply in stream():
        first = first or time.perf_counter() - began
        count += len(getattr(reply, block))
    return first, time.perf_counter() - began, count


def _digest(number):
    return f"sha256:{number:064x}"
