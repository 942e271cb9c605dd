"""Referrers in docker-registry, which has no API for them and so their tag; their content by digest."""

import json

from spec import digest as digests
from spec.api import content, images
from spec.oci.image import OCI_INDEX, OCI_MANIFEST
from tests.registry import Registry, make_image

TYPE = "application/vnd.example.sbom"
EMPTY = "application/vnd.oci.empty.v1+json"


def pushed(daemon, remote, document, media_type):
    """A document, by its digest or a tag; its descriptor."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    daemon.ctr("content", "ingest", digests.of(body), input=body.decode(), stdin=None)
    daemon.ctr("content", "push-object", "--plain-http", remote, digests.of(body), media_type)
    return {"mediaType": media_type, "digest": digests.of(body), "size": len(body)}


def test_an_artifact_is_found_and_fetched(daemon, tmp_path):
    with Registry(tmp_path / "registry") as registry:
        subject = make_image(tmp_path, registry, "team/app:1")
        remote = f"{registry.host}/team/app"
        listing = ("images", "referrers", "--plain-http", f"{remote}:1")
        assert daemon.ctr(*listing, "--json").stdout == "[]\n"
        config = pushed(daemon, f"{remote}:x", b"{}", EMPTY)
        layer = pushed(daemon, f"{remote}:x", b"text", "text/plain")
        about = {"mediaType": OCI_MANIFEST, "digest": subject, "size": 1}
        document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": TYPE, "config": config,
                    "layers": [layer], "subject": about}  # fmt: skip
        artifact = pushed(daemon, f"{remote}:sbom", document, OCI_MANIFEST)
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [{**artifact, "artifactType": TYPE}]}
        pushed(daemon, f"{remote}:{subject.replace(':', '-')}", index, OCI_INDEX)
        assert daemon.ctr(*listing, "-q").stdout.split() == [artifact["digest"]]
        assert TYPE in daemon.ctr(*listing, "--artifact-type", TYPE).stdout
        assert daemon.ctr(*listing, "--artifact-type", "another", "-q").stdout == ""
        with daemon.client() as client:
            client.content.delete(content.DeleteRequest(digest=layer["digest"]))
        daemon.ctr("content", "fetch", "--quiet", "--plain-http", f"{remote}@{artifact['digest']}")
        assert daemon.ctr("content", "get", layer["digest"]).stdout == "text"
        with daemon.client() as client:
            record = client.images.get(images.GetRequest(name=f"{remote}@{artifact['digest']}"))
        assert record.target.digest == artifact["digest"]
