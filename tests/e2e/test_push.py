"""Pushing to registries that are real, and to one that wants tokens; credentials as Docker's tools leave them."""

import base64
import json
import subprocess
import sys

import pytest

from spec import errors, names
from spec.api import content, images, transfer
from tests.fake import INDEX, Fake, digest_of
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


def indexed(fake, *platforms):
    """An image of several platforms; its layers by platform."""
    descriptors, layers = [], {}
    for arch in platforms:
        made = fake.image(arch, {"bin/a": arch.encode() * 1000}, ("linux", arch))
        descriptors.append(made | {"platform": {"os": "linux", "architecture": arch}})
        layers[arch] = json.loads(fake.manifests[arch][1])["layers"][0]["digest"]
    fake.manifest("1", {"schemaVersion": 2, "mediaType": INDEX, "manifests": descriptors}, INDEX)
    return layers


def stored(daemon):
    with daemon.client() as client:
        return {info.digest for block in client.content.list(content.ListRequest()) for info in block.info}


def test_an_index_of_which_one_platform_is_here(daemon, tmp_path):
    """With the others' metadata it goes to any repository of the registry it is from, and nowhere else."""
    with Fake() as fake, Registry(tmp_path / "one") as one, Registry(tmp_path / "two") as two:
        layers = indexed(fake, "amd64", "arm64")
        name = f"{one.host}/a:1"
        pull(daemon, f"{fake.host}/a:1", all_platforms=True)
        push(daemon, f"{fake.host}/a:1", name)
        daemon.ctr("images", "rm", "--sync", f"{fake.host}/a:1")
        assert not stored(daemon)
        daemon.ctr("images", "pull", "--quiet", "--platform", "linux/amd64", name)
        assert layers["amd64"] in stored(daemon)
        assert layers["arm64"] not in stored(daemon)
        daemon.ctr("images", "push", "--quiet", f"{one.host}/b/c:2", name)
        assert inspected(one, "b/c:2") == fake.manifests["1"][1]
        argv = ["skopeo", "--insecure-policy", "copy", "--all", "--src-tls-verify=false"]
        argv += [f"docker://{one.host}/b/c:2", f"oci:{tmp_path / 'layout'}"]
        subprocess.run(argv, check=True, capture_output=True)  # every blob is in that repository
        failed = daemon.ctr("images", "push", "--quiet", f"{two.host}/a:1", name, check=False)
        assert failed.returncode
        assert f"{layers['arm64']} is neither here nor at {two.host}; pull all platforms" in failed.stderr


def test_metadata_that_the_registry_lacks_or_that_is_senseless_is_passed_over(daemon):
    with Fake() as fake:
        indexed(fake, "amd64", "arm64", "s390x")
        config = json.loads(fake.manifests["s390x"][1])["config"]["digest"]
        pinned = {arch: digest_of(fake.manifests[arch][1]) for arch in ("arm64", "s390x")}
        del fake.manifests[pinned["arm64"]]
        del fake.blobs[config]
        daemon.ctr("images", "pull", "--quiet", "--platform", "linux/amd64", f"{fake.host}/a:1")
        assert pinned["s390x"] in stored(daemon)
        assert not {pinned["arm64"], config} & stored(daemon)


def test_how_much_metadata(daemon):
    with Fake() as fake:
        layers = indexed(fake, "amd64", "arm64")
        arm = digest_of(fake.manifests["arm64"][1])
        amd = digest_of(fake.manifests["amd64"][1])
        name = f"{fake.host}/a:1"
        chosen = ("--quiet", "--platform", "linux/amd64", name)
        daemon.ctr("content", "fetch", "--metadata-only", *chosen)
        assert amd in stored(daemon)
        assert not {arm, *layers.values()} & stored(daemon)
        daemon.ctr("content", "fetch", "--skip-metadata", *chosen)
        assert layers["amd64"] in stored(daemon)
        assert not {arm, layers["arm64"]} & stored(daemon)
        daemon.ctr("content", "fetch", *chosen)
        assert arm in stored(daemon)
        assert layers["arm64"] not in stored(daemon)
        assert "disagree" not in daemon.ctr("images", "check", "--verify").stdout
        with pytest.raises(errors.InvalidArgument, match="without its layers"):
            pull(daemon, name, metadata_only=True, unpacks=[transfer.Unpack()])


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
