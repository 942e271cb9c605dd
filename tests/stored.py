"""A root directory with a little of everything in it, made by the components themselves, without a daemon."""

import contextlib
import os

from daemon.config import Config
from daemon.content.local import LocalContent
from daemon.events.exchange import Exchange
from daemon.metadata.kv import BucketKV
from daemon.metadata.migrate import migrate
from daemon.metadata.store import Store
from daemon.metadata.table import GLOBAL
from daemon.metadata.tables import CONTAINERS, NAMESPACES
from daemon.scoped.content import ScopedContent
from daemon.scoped.images import ScopedImages
from daemon.scoped.leases import Holds, ScopedLeases
from daemon.snapshots.native import Native
from spec import digest as digests
from spec.base import to_json
from spec.oci import graph
from spec.oci.image import Descriptor, Manifest
from spec.ports import Untracked
from spec.records import Container, LeaseResource, Namespace

CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@contextlib.contextmanager
def opened(root):
    """Its parts: store, content, snapshotter, images, leases."""
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(contextlib.closing(Store(os.path.join(root, "metadata"))))
        migrate(store)
        events = Exchange()
        raw = LocalContent(os.path.join(root, "content"))
        native = Native(os.path.join(root, "snapshots", "native"), BucketKV(store, "snapshots", "native"))
        stack.enter_context(contextlib.closing(native))
        yield (
            store,
            ScopedContent(raw, store, events, "default"),
            native,
            ScopedImages(store, events, "default"),
            ScopedLeases(store, Untracked(), Holds(), "default"),
        )


def fill(root):
    """An image of two layers, snapshots of it, a container, a lease, a namespace; the configuration."""
    with opened(root) as (store, content, native, images, leases):
        target = put_image(content, b"one")
        images.put_image("example/app:1", target, {"a": "b"})
        for key, parent in (("l1", ""), ("l2", "default/l1")):
            native.prepare(f"default/{key}-new", parent)
            native.commit(f"default/{key}", f"default/{key}-new")
        native.prepare("default/c", "default/l2")
        native.view("default/v", "default/l1")
        leases.create("l").result()
        leases.add("l", LeaseResource(id="c", type="snapshots/native")).result()
        container = Container(id="c", image="example/app:1", snapshotter="native", snapshot_key="c")
        store.update(lambda txn: CONTAINERS.put(txn, container, "default", "c")).result()
        store.update(lambda txn: NAMESPACES.put(txn, Namespace(name="default"), GLOBAL, "default")).result()
    return Config(root=str(root), state=f"{root}-state")


def put_image(content, seed):
    """The blobs of an image; its target."""

    def put(media_type, data, labels=None):
        digest = digests.of(data)
        with content.writer(digest) as writer:
            writer.write(data)
            writer.commit(len(data), digest, labels)
        return Descriptor(media_type=media_type, digest=digest, size=len(data))

    config = put(CONFIG, b'{"os":"linux","architecture":"amd64","rootfs":{"type":"layers"},"author":"%s"}' % seed)
    layers = [put(LAYER, b"%s layer %d" % (seed, n) * 100) for n in range(2)]
    manifest = Manifest(schema_version=2, media_type=MANIFEST, config=config, layers=layers)
    body = to_json(manifest)
    target = Descriptor(media_type=MANIFEST, digest=digests.of(body), size=len(body))
    return put(MANIFEST, body, graph.child_labels(target, [config, *layers]))
