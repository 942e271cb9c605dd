"""Referrers in docker-registry, which has no API for them and so their tag; their content by digest."""

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor

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


def about(daemon, remote, subject, layer, **changes):
    """A manifest of an artifact, whose parts are there."""
    config = pushed(daemon, f"{remote}:x", b"{}", EMPTY)
    named = {"mediaType": OCI_MANIFEST, "digest": subject, "size": 1}
    return {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": TYPE, "config": config,
            "layers": [layer], "subject": named, **changes}  # fmt: skip


def listed(registry, subject):
    """The tag, as another client sees it."""
    argv = ["skopeo", "inspect", "--raw", "--tls-verify=false"]
    argv.append(f"docker://{registry.host}/team/app:{subject.replace(':', '-')}")
    return json.loads(subprocess.run(argv, check=True, capture_output=True).stdout)


def test_an_artifact_is_found_and_fetched(daemon, tmp_path):
    with Registry(tmp_path / "registry") as registry:
        subject = make_image(tmp_path, registry, "team/app:1")
        remote = f"{registry.host}/team/app"
        listing = ("images", "referrers", "--plain-http", f"{remote}:1")
        assert daemon.ctr(*listing, "--json").stdout == "[]\n"
        layer = pushed(daemon, f"{remote}:x", b"text", "text/plain")
        artifact = pushed(daemon, f"{remote}:sbom", about(daemon, remote, subject, layer), OCI_MANIFEST)
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


def test_what_is_pushed_is_added_to_the_tag(daemon, tmp_path):
    """By many at once, and once only; what others have put there stays as it is (distribution spec, pushing manifests
    with subject)."""
    with Registry(tmp_path / "registry") as registry:
        subject = make_image(tmp_path, registry, "team/app:1", base=False)
        remote = f"{registry.host}/team/app"
        layer = pushed(daemon, f"{remote}:x", b"text", "text/plain")
        first = pushed(daemon, f"{remote}:0", about(daemon, remote, subject, layer), OCI_MANIFEST)
        (entry,) = listed(registry, subject)["manifests"]
        assert entry == {**first, "artifactType": TYPE}
        theirs = {"schemaVersion": 2, "mediaType": OCI_INDEX, "annotations": {"by": "another"},
                  "manifests": [{**first, "x-unknown": [1]}]}  # fmt: skip
        pushed(daemon, f"{remote}:{subject.replace(':', '-')}", theirs, OCI_INDEX)
        documents = [about(daemon, remote, subject, layer, annotations={"n": str(n)}) for n in range(8)]
        with ThreadPoolExecutor(8) as clients:
            many = list(clients.map(lambda one: pushed(daemon, f"{remote}:many", one, OCI_MANIFEST), documents))
        found = listed(registry, subject)
        assert found["annotations"] == {"by": "another"}
        assert found["manifests"][0] == {**first, "x-unknown": [1]}
        assert sorted(one["digest"] for one in found["manifests"][1:]) == sorted(one["digest"] for one in many)
        assert [one["annotations"] for one in found["manifests"] if one["digest"] == many[3]["digest"]] == [{"n": "3"}]
        pushed(daemon, f"{remote}:again", documents[3], OCI_MANIFEST)
        assert listed(registry, subject) == found
        untyped = about(daemon, remote, subject, layer, artifactType="")
        last = pushed(daemon, f"{remote}:untyped", untyped, OCI_MANIFEST)
        assert listed(registry, subject)["manifests"][-1] == {**last, "artifactType": EMPTY}
