"""Records made anew: out of what is left of them, out of a backup, out of blobs.

Rows come from the store's pages and its journal. What the disk contradicts is left out: a record of a blob that is not
there, a snapshot without its directory. Only where rows may be missing altogether, blobs that no record is of are
adopted, and each document among them that no other refers to becomes an image, named RECOVERED@DIGEST.
What was there is kept in metadata/damaged-TIME.
"""

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from daemon.config import Config
from daemon.content import fsck as content
from daemon.fsck import recorded, trees
from daemon.kit import atomic
from daemon.metadata import buckets, fsck, held, sealed, store
from daemon.metadata.held import Held
from daemon.metadata.kv import BucketView
from daemon.metadata.migrate import version_of
from daemon.metadata.store import Store, Txn
from daemon.metadata.table import GLOBAL
from daemon.metadata.tables import CONTENT, IMAGES
from daemon.snapshots import fsck as snapshots
from spec import errors
from spec.base import pack
from spec.oci import graph
from spec.oci.image import Descriptor
from spec.records import ContentInfo, Image

RECOVERED = "recovered"
Rows = dict[bytes, bytes]


def backup(config: Config, path: str) -> None:
    """A consistent copy of all records in the file `path`, durable; the daemon may be at work. DataLoss when they are
    damaged."""
    directory = os.path.join(config.root, "metadata")
    parent = os.path.dirname(os.path.abspath(path))
    try:
        with tempfile.NamedTemporaryFile(dir=parent, prefix=".new-", delete=False) as file:
            try:
                held.copy(directory, file.fileno(), compact=True)
                faults = held.load(file.fileno())[1]
                if faults:
                    raise errors.DataLoss(f"backing up {directory}: {faults[0]}")
                os.fsync(file.fileno())
                atomic.publish(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as exc:
        raise errors.from_os(exc, f"backing up to {path}") from exc


def restore(config: Config, path: str) -> list[str]:
    """Make the records those of a backup; what had to be left out. DataLoss when it is damaged itself."""
    try:
        rows, faults, _ = held.load(path)
    except OSError as exc:
        raise errors.from_os(exc, f"reading backup {path}") from exc
    if faults:
        raise errors.DataLoss(f"reading backup {path}: {faults[0]}")
    directory = _directory(config)
    lock = store.lock(directory)
    try:
        rows, told = _fitting(config, rows)
        _replace(directory, rows)
    finally:
        os.close(lock)
    return told


def rebuild(config: Config, namespace: str) -> list[str]:
    """Make the records anew; what was found wrong, left out and adopted. FailedPrecondition beside a daemon."""
    directory = _directory(config)
    lock = store.lock(directory)
    try:
        rows, missing = held.salvage(directory)
        told = list(missing)
        rows, out = _fitting(config, rows)
        told += out
        if missing:
            told += _adopt(os.path.join(config.root, "content"), namespace, rows)
        _replace(directory, rows)
    finally:
        os.close(lock)
    return told


def _directory(config: Config) -> str:
    directory = os.path.join(config.root, "metadata")
    os.makedirs(directory, mode=0o700, exist_ok=True)
    return directory


def _fitting(config: Config, rows: Mapping[bytes, bytes]) -> tuple[Rows, list[str]]:
    """The rows that the disk does not contradict, and what is left out."""
    misfits = fsck.misfits(Held(rows))
    told = [f"{sealed.name(key)} left out: {what}" for key, what in misfits.items()]
    kept = {key: value for key, value in rows.items() if key not in misfits}
    view = Held(kept)
    sizes = content.sizes(os.path.join(config.root, "content"))
    for digest, records in sorted(recorded(view).items()):
        for namespace, size in records:
            if sizes.get(digest) != size:
                del kept[buckets.key(namespace, CONTENT.kind, digest)]
                told.append(f"{namespace}/content/{digest} left out: it has {sizes.get(digest, 'no')} bytes")
    for name, root in trees(config, view).items():
        tree, lost = snapshots.mended(name, root, BucketView.of(view, "snapshots", name))
        prefix = buckets.prefix(GLOBAL, "kv", "snapshots", name)
        kept = {key: value for key, value in kept.items() if not key.startswith(prefix)}
        kept |= {prefix + key: value for key, value in tree.items()}
        told += [f"snapshot {key} of {name} left out: its directory is lost, or its parent's" for key in lost]
    return kept, told


def _adopt(root: str, namespace: str, rows: Rows) -> list[str]:
    """Records for blobs that have none, and images for the topmost documents among them."""
    known = recorded(Held(rows))
    now = time.time_ns()
    documents: dict[str, Descriptor] = {}
    below: set[str] = set()
    orphans = {digest: size for digest, size in content.sizes(root).items() if digest not in known}
    for digest, size in orphans.items():
        labels = {}
        if size <= graph.MAX_DOCUMENT:
            body = Path(root, "blobs", *digest.split(":")).read_bytes()
            descriptor = Descriptor(media_type=_media_type(body), digest=digest, size=size)
            with contextlib.suppress(errors.Error):
                children = graph.children(descriptor, body) if descriptor.media_type else []
                if children:
                    documents[digest] = descriptor
                    below |= {child.digest for child in children}
                    labels = graph.child_labels(descriptor, children)
        info = ContentInfo(digest=digest, size=size, created_at_ns=now, updated_at_ns=now, labels=labels)
        rows[buckets.key(namespace, CONTENT.kind, digest)] = pack(info)
    told = [f"{namespace}/content/{digest} adopted" for digest in sorted(orphans)]
    for digest, target in sorted(documents.items()):
        if digest not in below:
            name = f"{RECOVERED}@{digest}"
            image = Image(name=name, target=target, created_at_ns=now, updated_at_ns=now)
            rows[buckets.key(namespace, IMAGES.kind, name)] = pack(image)
            told.append(f"{namespace}/images/{name} made")
    return told


def _media_type(body: bytes) -> str:
    """Of an index or a manifest, as it says, or as OCI calls one that has such fields; else empty."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(document, dict):
        return ""
    kind = "index" if "manifests" in document else "manifest" if "layers" in document else ""
    told = document.get("mediaType")
    if isinstance(told, str) and (graph.is_index(told) or graph.is_manifest(told)):
        return told
    return f"application/vnd.oci.image.{kind}.v1+json" if kind else ""


def _fill(txn: Txn, rows: Rows) -> None:
    for key, value in rows.items():
        txn.put(key, value)


def _replace(directory: str, rows: Rows) -> None:
    """Make `rows` the store's. A crash in between leaves the old one, or one that can be rebuilt as before."""
    rows[store.VERSION_KEY] = version_of(rows.get(store.VERSION_KEY))
    new = tempfile.mkdtemp(prefix="new-", dir=directory)
    try:
        made = Store(new)
        try:
            made.update(lambda txn: _fill(txn, rows)).result()
        finally:
            made.close()
        aside = os.path.join(directory, f"damaged-{time.time_ns()}")
        os.mkdir(aside, 0o700)
        for name in (store.DATA, store.JOURNAL):
            with contextlib.suppress(FileNotFoundError):
                os.link(os.path.join(directory, name), os.path.join(aside, name))
        atomic.sync_directory(aside)
        for name in (store.DATA, store.JOURNAL):
            os.rename(os.path.join(new, name), os.path.join(directory, name))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(directory, "lock.mdb"))
        atomic.sync_directory(directory)
    finally:
        shutil.rmtree(new)
