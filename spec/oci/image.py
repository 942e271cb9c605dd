"""Documents of the OCI image spec (v1.1) and Docker's equal ones: descriptors, manifests, indexes, image configs.

Blobs are always hashed and stored as the bytes that came; these Structs are for reading them.
"""

from collections.abc import Sequence

import msgspec

from spec.base import Doc

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = OCI_LAYER + "+gzip"
OCI_LAYER_ZSTD = OCI_LAYER + "+zstd"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = DOCKER_LAYER + ".gzip"
DOCKER_LAYER_ZSTD = DOCKER_LAYER + ".zstd"

INDEX_TYPES = frozenset({OCI_INDEX, DOCKER_INDEX})
MANIFEST_TYPES = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
CONFIG_TYPES = frozenset({OCI_CONFIG, DOCKER_CONFIG})


class Platform(Doc, frozen=True):
    """Image spec, image index: `platform`."""

    architecture: str = ""
    os: str = ""
    os_version: str = msgspec.field(default="", name="os.version")
    os_features: Sequence[str] = msgspec.field(default=(), name="os.features")
    variant: str = ""


class Descriptor(Doc, frozen=True):
    """Image spec, content descriptors. `size` is in bytes; `data` is base64 in JSON."""

    media_type: str = ""
    digest: str = ""
    size: int = 0
    urls: Sequence[str] = ()
    annotations: dict[str, str] = {}
    data: bytes = b""
    platform: Platform | None = None
    artifact_type: str = ""


class Manifest(Doc, frozen=True):
    schema_version: int = 0
    media_type: str = ""
    artifact_type: str = ""
    config: Descriptor = Descriptor()
    layers: Sequence[Descriptor] = ()
    subject: Descriptor | None = None
    annotations: dict[str, str] = {}


class Index(Doc, frozen=True):
    schema_version: int = 0
    media_type: str = ""
    artifact_type: str = ""
    manifests: Sequence[Descriptor] = ()
    subject: Descriptor | None = None
    annotations: dict[str, str] = {}


class ExecutionConfig(Doc, frozen=True, rename="pascal"):
    """Image spec, config: `config`. A null where a list or map stands means an empty one."""

    user: str = ""
    exposed_ports: dict[str, dict[str, str]] | None = None
    env: Sequence[str] | None = None
    entrypoint: Sequence[str] | None = None
    cmd: Sequence[str] | None = None
    volumes: dict[str, dict[str, str]] | None = None
    working_dir: str = ""
    labels: dict[str, str] | None = None
    stop_signal: str = ""
    args_escaped: bool = False


class RootFS(Doc, frozen=True, rename=None):
    type: str = ""
    diff_ids: Sequence[str] = ()


class ImageConfig(Doc, frozen=True, rename=None):
    """Image spec, config. Unknown fields (history, docker's own) are passed over."""

    created: str = ""
    author: str = ""
    architecture: str = ""
    os: str = ""
    os_version: str = msgspec.field(default="", name="os.version")
    os_features: Sequence[str] = msgspec.field(default=(), name="os.features")
    variant: str = ""
    config: ExecutionConfig | None = None
    rootfs: RootFS = RootFS()
