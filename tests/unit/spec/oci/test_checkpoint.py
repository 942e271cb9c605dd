"""Images of checkpoints: what their index says, and what of a spec is taken over."""

import msgspec
import pytest
from msgspec.structs import replace

from spec import errors
from spec.oci import checkpoint
from spec.oci.checkpoint import CRIU, RUNTIME_OPTIONS, SPEC, Parts
from spec.oci.image import OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST, Descriptor


def part(media_type, number):
    return Descriptor(media_type=media_type, digest=f"sha256:{number:064}", size=1)


WHOLE = Parts(
    "example.org/a:1",
    "runc",
    "overlayfs",
    spec=part(SPEC, 1),
    options=part(RUNTIME_OPTIONS, 2),
    image=part(OCI_MANIFEST, 3),
    criu=part(CRIU, 4),
    rw=part(OCI_LAYER_GZIP, 5),
)


def read(document, media_type=OCI_INDEX):
    return checkpoint.parts(replace(part(media_type, 9), size=len(document)), document, "n")


@pytest.mark.parametrize("parts", [WHOLE, Parts("", "", "", spec=part(SPEC, 1))])
def test_there_and_back(parts):
    assert read(checkpoint.index(parts, "n")) == parts


def test_it_keeps_all_of_its_parts():
    assert sorted(checkpoint.kept(WHOLE).values()) == [f"sha256:{number:064}" for number in range(1, 6)]
    assert not any(".l." in key for key in checkpoint.kept(WHOLE))  # which prune may take away


def test_what_is_no_checkpoint():
    for parts, said in (
        (Parts("", "", ""), "no container's spec"),
        (WHOLE._replace(options=part(SPEC, 2)), "two parts of media type"),
    ):
        with pytest.raises(errors.InvalidArgument, match=said):
            read(checkpoint.index(parts, "n"))
    with pytest.raises(errors.InvalidArgument, match="no index"):
        read(b"{}", OCI_MANIFEST)


def restored(spec):
    return msgspec.json.decode(checkpoint.restored(msgspec.json.encode(spec), "n", "ns", "id"))


def test_a_spec_is_taken_over_but_for_devices_and_its_own_cgroup():
    annotations = {"cdi.k8s.io": "x", "cdi.k8s.io/gpu": "vendor.com/gpu=0", "cdi.k8s.iox": "y", "a": "b"}
    spec = {"annotations": annotations, "linux": {"cgroupsPath": "/ns/other", "x": 1}, "unheard": {"of": [1]}}
    expected = {"annotations": {"cdi.k8s.iox": "y", "a": "b"}, "linux": {"cgroupsPath": "/ns/id", "x": 1}}
    assert restored(spec) == {**expected, "unheard": {"of": [1]}}
    for path in ("", "/a/b/c", "/a", "system.slice:holdd:c"):
        assert restored({"linux": {"cgroupsPath": path}})["linux"]["cgroupsPath"] == path
    assert restored({}) == {}


@pytest.mark.parametrize("spec", [b"", b"[]", b'{"annotations": 1}', b'{"linux": {"cgroupsPath": 1}}', b"\xff"])
def test_what_is_no_spec(spec):
    with pytest.raises(errors.InvalidArgument, match="reading checkpoint n: its spec"):
        checkpoint.restored(spec, "n", "ns", "id")
