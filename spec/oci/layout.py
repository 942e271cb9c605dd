"""Images in an archive (OCI image spec v1.1, image layout), and what `docker save` writes: their documents."""

from collections.abc import Sequence

from msgspec.structs import replace

from spec import digest as digests
from spec import errors, names, reference
from spec.base import Doc
from spec.oci.image import Descriptor

VERSION = "1.0.0"
MARK = "oci-layout"
INDEX = "index.json"
SAVED = "manifest.json"
LEGACY = "repositories"  # of images before docker 1.10, without SAVED


class Layout(Doc, frozen=True):
    """The file MARK."""

    image_layout_version: str = ""


class Saved(Doc, frozen=True, rename="pascal"):
    """One image of the file SAVED (Docker's image specification v1.2, combined image JSON): paths below the archive's
    root. `repo_tags` is null of an image without a name."""

    config: str = ""
    repo_tags: Sequence[str] | None = None
    layers: Sequence[str] | None = None


def blob(digest: str) -> str:
    """Where a blob is. InvalidArgument for what is no digest."""
    algorithm, name = digests.split(digest)
    return f"blobs/{algorithm}/{name}"


def called(descriptor: Descriptor) -> str:
    """What an index calls one of its images: a whole name, a tag, or "" for nothing."""
    return descriptor.annotations.get(names.IMAGE_NAME) or descriptor.annotations.get(names.REF_NAME, "")


def naming(descriptor: Descriptor, name: str) -> Descriptor:
    """The entry of an index that calls an image so: whole, and by what stands behind its repository alone, which is all
    that the OCI specification knows."""
    parsed = _parsed(name)
    short = parsed.tag or parsed.digest if parsed is not None else name
    annotations = {**descriptor.annotations, names.IMAGE_NAME: name, names.REF_NAME: short}
    return replace(descriptor, annotations=annotations)


def repo_tags(given: Sequence[str]) -> list[str]:
    """Those of an image's names that docker can give it."""
    found = ((name, _parsed(name)) for name in given)
    return [name for name, parsed in found if parsed is not None and parsed.tag and not parsed.digest]


def _parsed(name: str) -> reference.Reference | None:
    try:
        return reference.parse(name)
    except errors.InvalidArgument:
        return None
