"""Snapshots and images on disk through a real daemon: every verb of ctr, and a snapshot that is damaged and put right."""

import json

import pytest

from spec import digest as digests
from spec.api import images
from tests.daemon import Daemon
from tests.fake import Fake
from tests.fake import layer as fake_layer

ZERO = "sha256:" + "0" * 64
SNAPSHOTTERS = ("overlayfs", "native")
BASE = {"bin/a": b"a" * 5000, "etc/b": b"b", "etc/c": b"c", "lib/deep/er/d": b"d"}
TOP = {"etc/b": b"other", "etc/.wh.c": b"", "new/e": b"e" * 3000, "new/f": b"f"}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    with Fake() as fake, Daemon(tmp_path_factory.mktemp("snapshots")) as daemon:
        layered(fake, "1", BASE, TOP)
        daemon.ref = f"{fake.host}/a:1"
        for snapshotter in SNAPSHOTTERS:
            daemon.ctr("images", "pull", "--plain-http", "--snapshotter", snapshotter, daemon.ref)
        yield daemon


def layered(fake, tag, *layers):
    """An image of several layers."""
    made = [fake_layer(files) for files in layers]
    config = {
        "os": "linux",
        "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": [diff_id for _, diff_id in made]},
    }
    body = json.dumps(config).encode()
    document = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": fake.blob(body),
            "size": len(body),
        },
        "layers": [
            {
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                "digest": fake.blob(data),
                "size": len(data),
            }
            for data, _ in made
        ],
    }
    return fake.manifest(tag, document)


def table(text):
    return [line.split() for line in text.splitlines()]


def documents(daemon):
    """The image's manifest and config."""
    with daemon.client() as client:
        target = client.images.get(images.GetRequest(name=daemon.ref)).target
    manifest = json.loads(daemon.ctr("content", "get", target.digest).stdout)
    return manifest, json.loads(daemon.ctr("content", "get", manifest["config"]["digest"]).stdout)


def chain(daemon):
    return digests.chain_ids(documents(daemon)[1]["rootfs"]["diff_ids"])
