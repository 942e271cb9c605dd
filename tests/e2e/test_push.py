"""Pushing to registries that are real, and to one that wants tokens; credentials as Docker's tools leave them."""

import base64
import json
import subprocess
import sys

import pytest

from spec import errors, names
from spec.api import content, images, transfer
from tests.fake import INDEX, Fake
from tests.registry import Registry, make_image

FILES = {"bin/a": b"a" * 300_000}


def push(daemon, name, reference, platforms=(), **destination):
    request = transfer.TransferRequest(
        source=transfer.ImageStore(name=name, platforms=platforms),
        destination=transfer.Registry(reference=reference, **destination),
    )
    with daemon.client() as client:
        return [progress.event for progress in client.transfer.transfer(request)]


def pull(daemon, reference, **options):
    request = transfer.TransferRequest(
        source=transfer.Registry(reference=reference),
        destination=transfer.ImageStore(name=reference, **options),
    )
    with daemon.client() as client:
        for _ in client.transfer.transfer(request):
            pass
        return client.images.get(images.GetRequest(name=reference)).target


def inspected(registry, name):
    argv = ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{registry.host}/{name}"]
    return subprocess.run(argv, check=True, capture_output=True).stdout


def test_to_a_registry_and_again_and_beside(daemon, tmp_path):
    """The second push sends nothing, one to another repository mounts."""
    with Registry(tmp_path / "one") as one, Registry(tmp_path / "two") as two:
        digest = make_image(tmp_path, one, "team/app:1", [{"data": bytes(3_000_000)}])
        name = f"{one.host}/team/app:1"
        pull(daemon, name)
        told = push(daemon, name, f"{two.host}/copy/app:2")
        assert told[0] == f"Pushing to {two.host}/copy/app:2"
        assert told[-1] == f"Completed push to {two.host}/copy/app:2"
        assert inspected(two, "copy/app:2") == inspected(one, "team/app:1")
        before = len(two.requests())
        push(daemon, name, f"{two.host}/copy/app:2")
        assert {method for method, _ in two.requests()[before:]} == {"HEAD"}
        before = len(two.requests())
        push(daemon, name, f"{two.host}/copy/other:2")
        methods = [method for method, _ in two.requests()[before:]]
        assert methods.count("POST") == 4
        assert methods.count("PUT") == 1, "of all but the manifest nothing is sent"
        push(daemon, name, f"{two.host}/copy/app@{digest}")


def test_over_https_with_an_authority_and_a_password(daemon, tmp_path):
    with Registry(tmp_path / "one") as one, Registry(tmp_path / "two", tls=True, auth=("me", "secret")) as two:
        make_image(tmp_path, one, "team/app:1")
        name, to = f"{one.host}/team/app:1", f"{two.host}/team/app:1"
        pull(daemon, name)
        authority = two.ca.read_text()
        with pytest.raises(errors.Unauthenticated):
            push(daemon, name, to, authorities=authority)
        with pytest.raises(errors.Unavailable, match="certificate"):
            push(daemon, name, to, authorities=one_more_authority(tmp_path), username="me", secret="secret")
        push(daemon, name, to, authorities=authority, username="me", secret="secret")
        daemon.ctr("images", "push", "--tlscacert", two.ca, "--user", "me:secret", to, name)
        failed = daemon.ctr("images", "push", "--tlscacert", two.ca, "--user", "me:no", to, name, check=False)
        assert "password was refused" in failed.stderr


def one_more_authority(tmp_path):
    from tests.registry import certificate

    (tmp_path / "ca").mkdir()
    return certificate(tmp_path / "ca").ca.read_text()


def test_to_a_registry_with_a_token_server(daemon):
    with Fake() as one, Fake(tokens=("me", "secret")) as two:
        one.image("1", FILES)
        target = pull(daemon, f"{one.host}/a:1")
        with pytest.raises(errors.Unauthenticated):
            push(daemon, f"{one.host}/a:1", f"{two.host}/a:2")
        push(daemon, f"{one.host}/a:1", f"{two.host}/a:2", username="me", secret="secret")
        assert two.manifests["2"] == one.manifests[target.digest]
        assert one.blobs == two.blobs


def test_an_index(daemon):
    with Fake() as one, Fake() as two:
        descriptors = [
            one.image(arch, {"bin/a": arch.encode()}, ("linux", arch))
            | {"platform": {"os": "linux", "architecture": arch}}
            for arch in ("amd64", "arm64")
        ]
        one.manifest("1", {"schemaVersion": 2, "mediaType": INDEX, "manifests": descriptors}, INDEX)
        name = f"{one.host}/a:1"
        pull(daemon, name, platforms=["linux/arm64"])
        with pytest.raises(errors.FailedPrecondition, match="pull all platforms"):
            push(daemon, name, f"{two.host}/a:1")
        assert not two.manifests
        push(daemon, name, f"{two.host}/a:arm", platforms=["linux/arm64"])
        assert two.manifests["arm"] == one.manifests["arm64"]
        pull(daemon, name, all_platforms=True)
        push(daemon, name, f"{two.host}/a:1")
        assert two.manifests["1"] == one.manifests["1"]
        pushed = [path for method, path, _ in two.requests if method == "PUT" and "/manifests/" in path]
        assert pushed[-1] == "/v2/a/manifests/1", "the tag comes last"


def test_a_foreign_layer_stays_here(daemon):
    foreign = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
    with Fake() as one, Fake() as two:
        one.image("1", FILES, layer_type=foreign)
        name = f"{one.host}/a:1"
        pull(daemon, name)
        push(daemon, name, f"{two.host}/a:1")
        assert len(two.blobs) == 1
        daemon.ctr("images", "push", "--allow-non-distributable-blobs", f"{two.host}/a:2", name)
        assert two.blobs == one.blobs


def test_a_manifest_of_no_image(daemon):
    with Fake() as one, Fake() as two:
        one.image("1", FILES)
        target = pull(daemon, f"{one.host}/a:1")
        daemon.ctr("images", "push", "--manifest", target.digest, f"{two.host}/a:1")
        assert two.manifests["1"] == one.manifests["1"]


def test_objects_without_images(daemon):
    with Fake() as one, Fake() as two:
        target = one.image("1", FILES)
        (config, layer) = sorted(one.blobs, key=lambda digest: len(one.blobs[digest]))
        ref = f"{one.host}/a:1"
        body = one.manifests["1"][1].decode()
        assert daemon.ctr("content", "fetch-object", ref).stdout == body
        done = daemon.ctr("content", "fetch-blob", ref, config, target["digest"])
        assert done.stdout == one.blobs[config].decode() + body
        missing = "sha256:" + "0" * 64
        assert "MANIFEST_UNKNOWN" in daemon.ctr("content", "fetch-blob", ref, missing, check=False).stderr
        one.blobs[missing] = b"other bytes"
        failed = daemon.ctr("content", "fetch-blob", ref, missing, check=False)
        assert failed.returncode == 1
        assert "what came is" in failed.stderr
        assert not daemon.ctr("content", "ls", "-q").stdout
        daemon.ctr("content", "fetch", ref)
        assert set(daemon.ctr("content", "ls", "-q").stdout.split()) == {config, layer, target["digest"]}
        assert not daemon.ctr("snapshots", "ls").stdout.splitlines()[1:]
        daemon.ctr("content", "push-object", f"{two.host}/a:1", layer, "application/octet-stream")
        assert set(two.blobs) == {layer}


def test_sources_are_remembered(daemon):
    with Fake() as one:
        one.image("1", FILES)
        target = pull(daemon, f"{one.host}/b:1")
        pull(daemon, f"{one.host}/a:1")
        label = f"{names.DISTRIBUTION_SOURCE}.{one.host}"
        with daemon.client() as client:
            assert client.content.info(content.InfoRequest(digest=target.digest)).labels[label] == "a,b"


def helper(directory, body):
    path = directory / "docker-credential-test"
    path.write_text(f"#!{sys.executable}\nimport sys\nhost = sys.stdin.read()\n{body}\n")
    path.chmod(0o755)


def test_ctr_takes_the_credentials_of_dockers_configuration(daemon, tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    pair = base64.b64encode(b"me:secret").decode()
    with Fake(tokens=("me", "secret")) as fake:
        fake.image("1", FILES)
        reference = f"{fake.host}/a:1"
        config = tmp_path / "config.json"
        config.write_text(json.dumps({"auths": {"127.0.0.1:1": {"auth": pair}}}))
        failed = daemon.ctr("images", "pull", reference, check=False)
        assert failed.returncode == 1
        config.write_text(json.dumps({"auths": {fake.host: {"auth": pair}}}))
        daemon.ctr("images", "pull", reference)
        daemon.ctr("images", "push", f"{fake.host}/a:2", reference)
        assert "2" in fake.manifests
        config.write_text(json.dumps({"credHelpers": {fake.host: "test"}}))
        helper(tmp_path, f"print('{{\"Username\":\"me\",\"Secret\":\"secret\"}}' if host == '{fake.host}' else '')")
        daemon.ctr("images", "push", f"{fake.host}/a:3", reference)
        assert "3" in fake.manifests
