"""Media types of the same document or layer in another form. Pure."""

from spec.oci import graph, image

_OCI = {
    image.DOCKER_INDEX: image.OCI_INDEX,
    image.DOCKER_MANIFEST: image.OCI_MANIFEST,
    image.DOCKER_CONFIG: image.OCI_CONFIG,
}
_FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar"
_SUFFIX = {"": "", "gzip": "+gzip", "zstd": "+zstd"}
_DOCKER_SUFFIX = {"": "", "gzip": ".gzip", "zstd": ".zstd"}


def document_type(media_type: str, oci: bool) -> str:
    """Of an index, a manifest or a config; with `oci` Docker's as OCI's."""
    return _OCI.get(media_type, media_type) if oci else media_type


def layer_type(media_type: str, compression: str, oci: bool) -> str:
    """Of a layer that is compressed so (gzip, zstd or ""); with `oci` Docker's as OCI's."""
    is_docker = media_type.startswith("application/vnd.docker.")
    if not graph.is_distributable(media_type):
        return _FOREIGN + _SUFFIX[compression] if oci and is_docker else media_type
    if is_docker and not oci:
        return image.DOCKER_LAYER + _DOCKER_SUFFIX[compression]
    return image.OCI_LAYER + _SUFFIX[compression]
