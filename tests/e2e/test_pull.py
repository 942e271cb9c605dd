"""Pulling from registries that are real, and from one that lies and breaks."""

import contextlib
import json
import os
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from spec import errors, names
from spec.api import content, images, snapshots, transfer
from spec.records import Kind
from tests.daemon import Daemon
from tests.fake import INDEX, MANIFEST, Fake, digest_of, layer
from tests.registry import Registry, make_image

FILES = {"bin/a": os.urandom(300_000), "etc/b": b"b"}


def pull(daemon, reference, namespace="default", platforms=(), **source):
    request = transfer.TransferRequest(
        source=transfer.Registry(reference=reference, **source),
        destination=transfer.ImageStore(name=reference, platforms=platforms, unpacks=[transfer.Unpack()]),
    )
    with daemon.client(namespace) as client:
        return list(client.transfer.transfer(request))


def snapshots_of(daemon):
    with daemon.client() as client:
        blocks = client.snapshots.list(snapshots.ListRequest(snapshotter="overlayfs"))
        return [info for block in blocks for info in block.info]


def nothing_made(daemon):
    """No image, no snapshot, and no ingest that cannot be resumed."""
    with daemon.client() as client:
        assert not client.images.list(images.ListRequest()).images
    assert not snapshots_of(daemon)
    assert daemon.answers()


@pytest.fixture
def fake():
    with Fake() as fake:
        yield fake


def test_over_https_with_an_authority_of_its_own_and_a_password(daemon, tmp_path):
    with Registry(tmp_path / "registry", tls=True, auth=("me", "secret")) as registry:
        make_image(tmp_path, registry, "team/app:1")
        reference = f"{registry.host}/team/app:1"
        hosts = tmp_path / "hosts" / registry.host
        hosts.mkdir(parents=True)
        (hosts / "hosts.toml").write_text(f'[host."https://{registry.host}"]\nca = "{registry.ca}"\n')
        with pytest.raises(errors.Unauthenticated):
            pull(daemon, reference, skip_verify=True)
        with pytest.raises(errors.Unauthenticated):
            pull(daemon, reference, skip_verify=True, username="me", secret="wrong")
        pull(daemon, reference, skip_verify=True, username="me", secret="secret")
        done = daemon.ctr("run", "--rm", reference, "c", "cat", "/etc/motd")
        assert done.stdout == "hello from team/app:1\n"


def test_a_certificate_that_nobody_vouches_for_is_refused(daemon, tmp_path):
    with Registry(tmp_path / "registry", tls=True) as registry:
        make_image(tmp_path, registry, "team/app:1")
        hosts = tmp_path / "hosts" / registry.host
        hosts.mkdir(parents=True)
        (hosts / "hosts.toml").write_text(f'server = "https://{registry.host}"\n')
        with pytest.raises(errors.Unavailable, match="certificate"):
            pull(daemon, f"{registry.host}/team/app:1", hosts_dir=str(tmp_path / "hosts"))
        (hosts / "hosts.toml").write_text(f'server = "https://{registry.host}"\nca = "{registry.ca}"\n')
        pull(daemon, f"{registry.host}/team/app:1", hosts_dir=str(tmp_path / "hosts"))


def test_a_second_pull_costs_one_resolve(daemon, tmp_path):
    with Registry(tmp_path / "registry") as registry:
        make_image(tmp_path, registry, "team/app:1")
        reference = f"{registry.host}/team/app:1"
        pull(daemon, reference)
        before = len(registry.requests())
        pull(daemon, reference)
        assert registry.requests()[before:] == [("HEAD", "/v2/team/app/manifests/1")]


def test_a_token_server(daemon):
    for tokens in ((), ("me", "secret")):
        with Fake(tokens=tokens) as fake:
            fake.image("1", FILES)
            pull(daemon, f"{fake.host}/a:1", username="me" if tokens else "", secret="secret" if tokens else "")
    with Fake(tokens=("me", "secret")) as fake:
        fake.image("1", FILES)
        with pytest.raises(errors.Unauthenticated):
            pull(daemon, f"{fake.host}/a:1")


def test_a_second_pull_asks_for_no_token(daemon):
    """Nor does it connect anew; with other credentials it does."""
    with Fake(tokens=("me", "secret")) as fake:
        fake.image("1", FILES)
        reference = f"{fake.host}/a:1"
        mine = {"plain_http": True, "username": "me", "secret": "secret"}
        pull(daemon, reference, **mine)
        before, connections = len(fake.requests), len(fake._server.connections)
        pull(daemon, reference, **mine)
        assert [request[:2] for request in fake.requests[before:]] == [("HEAD", "/v2/a/manifests/1")]
        assert len(fake._server.connections) == connections
        with pytest.raises(errors.Unauthenticated):
            pull(daemon, reference)


def test_labels_of_snapshots(daemon, fake):
    """Besides those that each has; what is there already keeps its own."""
    fake.image("1", FILES)
    argv = ("images", "pull", "--quiet", f"{fake.host}/a:1", "--snapshotter-label")
    daemon.ctr(*argv, "a=b", "--snapshotter-label", f"{names.DIFF_ID}=mine")
    (info,) = snapshots_of(daemon)
    assert info.labels["a"] == "b"
    assert info.labels[names.DIFF_ID].startswith("sha256:")
    daemon.ctr(*argv, "c=d")
    assert [info.labels for info in snapshots_of(daemon)] == [info.labels]
    failed = daemon.ctr(*argv, f"k={'v' * 5000}", check=False)
    assert failed.returncode == 0, "nothing was made"


def test_so_many_layers_at_once(daemon):
    """`--max-concurrent-downloads`; without it two meet."""
    with Fake() as fake:
        fake.image("1", FILES)
        document = json.loads(fake.manifests["1"][1])
        config = json.loads(fake.blobs[document["config"]["digest"]])
        made = [layer({f"bin/{number}": os.urandom(1000)}) for number in range(6)]
        config["rootfs"]["diff_ids"] = [diff_id for _, diff_id in made]
        body = json.dumps(config).encode()
        document["config"] |= {"digest": fake.blob(body), "size": len(body)}
        kind = document["layers"][0]["mediaType"]
        document["layers"] = [{"mediaType": kind, "digest": fake.blob(data), "size": len(data)} for data, _ in made]
        fake.manifest("1", document)
        sending, most, send, meeting = [], [], fake.send, threading.Barrier(2)

        def counted(out, data):
            sending.append(data)
            most.append(len(sending))
            send(out, data)
            time.sleep(0.01)
            sending.remove(data)

        def meets(out, data):
            if data != body:
                meeting.wait(30)
            send(out, data)

        fake.send = counted
        daemon.ctr("images", "pull", "--quiet", "--max-concurrent-downloads", "1", f"{fake.host}/a:1")
        assert max(most) == 1
        daemon.ctr("images", "rm", "--sync", f"{fake.host}/a:1")
        fake.send = meets
        daemon.ctr("images", "pull", "--quiet", f"{fake.host}/a:1")
        assert not meeting.broken


def test_credentials_stay_with_their_registry(daemon, fake):
    """A mirror is asked without them."""
    with Fake() as mirror:
        mirror.image("1", FILES)
        fake.image("1", FILES)
        directory = daemon.directory / "hosts" / fake.host
        directory.mkdir(parents=True)
        (directory / "hosts.toml").write_text(f'server = "http://{fake.host}"\n[host."http://{mirror.host}"]\n')
        hosts_dir = str(daemon.directory / "hosts")
        pull(daemon, f"{fake.host}/a:1", hosts_dir=hosts_dir, username="me", secret="secret")
        assert mirror.requests
        assert not fake.requests
        assert {authorization for _, _, authorization in mirror.requests} == {""}


def test_an_index_by_platform(daemon, fake):
    amd = fake.image("amd", {"bin/a": b"amd"}) | {"platform": {"os": "linux", "architecture": "amd64"}}
    arm = fake.image("arm", {"bin/a": b"arm"}, ("linux", "arm64")) | {
        "platform": {"os": "linux", "architecture": "arm64"}
    }
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [arm, amd]}
    fake.manifest("1", index, INDEX)
    pull(daemon, f"{fake.host}/a:1")
    with daemon.client() as client:
        client.content.info(content.InfoRequest(digest=amd["digest"]))
        with pytest.raises(errors.NotFound):
            client.content.info(content.InfoRequest(digest=arm["digest"]))
    with pytest.raises(errors.NotFound, match=r"linux/s390x.*linux/arm64, linux/amd64"):
        pull(daemon, f"{fake.host}/a:1", platforms=["linux/s390x"])


def test_a_digest_pins_the_bytes(daemon, fake):
    good = fake.image("1", FILES)
    other = fake.image("2", {"bin/other": b"x"})
    pull(daemon, f"{fake.host}/a@{good['digest']}")
    fake.manifests[other["digest"]] = fake.manifests[good["digest"]]
    with pytest.raises(errors.FailedPrecondition, match=other["digest"]):
        pull(daemon, f"{fake.host}/a@{other['digest']}")


def test_an_image_verifier(tmp_path, fake):
    """Before anything comes; of what is pulled, by whatever name, and of no other bytes."""
    programs = tmp_path / "verifiers"
    programs.mkdir()
    program = programs / "pinned"
    good = fake.image("1", FILES)["digest"]
    fake.image("2", {"bin/other": b"x"})
    program.write_text(f"#!/bin/sh\\n[ \"$4\" = {good} ] || {{ echo not ours; exit 1; }}\\n".replace("\\n", "\n"))
    program.chmod(0o755)
    config = f'[image_verifier]\nbin_dir = "{programs}"\n'
    (tmp_path / "daemon").mkdir()
    with Daemon(tmp_path / "daemon", config) as daemon:
        pull(daemon, f"{fake.host}/a:1")
        fake.requests.clear()
        failed = daemon.ctr("images", "pull", "--quiet", f"{fake.host}/a:2", check=False)
        assert "image verifier pinned" in failed.stderr
        assert "not ours" in failed.stderr
        assert {method for method, _, _ in fake.requests} == {"HEAD"}
        with daemon.client() as client:
            assert [image.name for image in client.images.list(images.ListRequest()).images] == [f"{fake.host}/a:1"]


def test_an_image_that_does_not_fit(daemon, fake):
    """It is said before any of it comes."""
    fake.image("1", FILES)
    document = json.loads(fake.manifests["1"][1])
    layer = document["layers"][0]
    layer["size"] = 1 << 49
    fake.manifest("2", document)
    with pytest.raises(errors.ResourceExhausted, match=rf"{fake.host}/a:2: it needs 562,949,953.4 MB.*MB free"):
        pull(daemon, f"{fake.host}/a:2")
    assert layer["digest"] not in " ".join(path for _, path, _ in fake.requests)
    nothing_made(daemon)


def test_an_image_that_is_not_there(daemon, fake):
    with pytest.raises(errors.NotFound, match=f"{fake.host}/a:nosuch"):
        pull(daemon, f"{fake.host}/a:nosuch")
    nothing_made(daemon)


def test_a_registry_that_is_not_there(daemon):
    with pytest.raises(errors.Unavailable, match=r"127\.0\.0\.1:1"):
        pull(daemon, "127.0.0.1:1/a:1")
    nothing_made(daemon)


def test_a_layer_of_another_digest(daemon, fake):
    fake.image("1", FILES)
    digest = json.loads(fake.manifests["1"][1])["layers"][0]["digest"]
    fake.blobs[digest] = bytes(len(fake.blobs[digest]))
    with pytest.raises(errors.FailedPrecondition, match=digest):
        pull(daemon, f"{fake.host}/a:1")
    nothing_made(daemon)


def test_a_layer_that_is_too_short_for_its_descriptor(daemon, fake):
    fake.image("1", FILES)
    digest = json.loads(fake.manifests["1"][1])["layers"][0]["digest"]
    fake.blobs[digest] = fake.blobs[digest][:1000]
    with pytest.raises(errors.DataLoss, match=digest):
        pull(daemon, f"{fake.host}/a:1")
    nothing_made(daemon)


def test_a_truncated_archive_in_a_layer_of_the_right_digest(daemon, fake):
    fake.image("1", FILES)
    document = json.loads(fake.manifests["1"][1])
    cut = fake.blobs[document["layers"][0]["digest"]][:-2000]
    document["layers"][0] |= {"digest": fake.blob(cut), "size": len(cut)}
    fake.manifest("1", document)
    with pytest.raises(errors.DataLoss, match=digest_of(cut)):
        pull(daemon, f"{fake.host}/a:1")
    nothing_made(daemon)


def test_a_layer_of_another_diff_id(daemon, fake):
    fake.image("1", FILES)
    fake.image("2", {"bin/other": b"x"})
    document = json.loads(fake.manifests["1"][1]) | {"layers": json.loads(fake.manifests["2"][1])["layers"]}
    fake.manifest("1", document)
    with pytest.raises(errors.InvalidArgument, match="diff id"):
        pull(daemon, f"{fake.host}/a:1")
    nothing_made(daemon)


def test_neither_manifest_nor_index(daemon, fake):
    fake.manifest("1", b'{"some": "thing"}', "application/json")
    with pytest.raises(errors.InvalidArgument, match="neither a manifest nor an index"):
        pull(daemon, f"{fake.host}/a:1")
    fake.manifest("2", b"<html>", MANIFEST)
    with pytest.raises(errors.InvalidArgument, match="reading"):
        pull(daemon, f"{fake.host}/a:2")
    document = json.loads(fake.manifests.get("1", ("", b"{}"))[1]) | {"manifests": [], "layers": []}
    fake.manifest("3", document, MANIFEST)
    with pytest.raises(errors.InvalidArgument):
        pull(daemon, f"{fake.host}/a:3")
    nothing_made(daemon)


def test_a_media_type_that_is_not_supported(daemon, fake):
    fake.image("1", FILES, layer_type="application/vnd.example.squashfs")
    with pytest.raises(errors.Unimplemented, match=r"application/vnd\.example\.squashfs"):
        pull(daemon, f"{fake.host}/a:1")
    nothing_made(daemon)


def test_an_image_of_another_platform(daemon, fake):
    fake.image("1", FILES, ("linux", "s390x"))
    with pytest.raises(errors.NotFound, match="linux/s390x"):
        pull(daemon, f"{fake.host}/a:1")
    nothing_made(daemon)


def test_a_connection_that_breaks_is_taken_up_again(daemon, fake):
    fake.image("1", FILES)
    digest = json.loads(fake.manifests["1"][1])["layers"][0]["digest"]
    fake.breaks[digest] = 100_000
    pull(daemon, f"{fake.host}/a:1")
    assert [path for _, path, _ in fake.requests].count(f"/v2/a/blobs/{digest}") == 2


def test_kill_minus_nine_during_a_pull_then_the_pull_succeeds(daemon, fake):
    fake.image("1", FILES)
    digest = json.loads(fake.manifests["1"][1])["layers"][0]["digest"]
    fake.held.add(digest)
    fake.gate.clear()
    reference = f"{fake.host}/a:1"
    failures = []

    def attempt():
        try:
            pull(daemon, reference)
        except errors.Unavailable as exc:
            failures.append(exc)

    thread = threading.Thread(target=attempt, name="pulling")
    thread.start()
    assert fake.reached.wait(30)
    daemon.kill()
    thread.join(30)
    assert len(failures) == 1
    fake.gate.set()
    fake.held.clear()
    daemon.start()
    with daemon.client() as client:
        assert not client.images.list(images.ListRequest()).images
    assert not [info for info in snapshots_of(daemon) if info.kind == Kind.COMMITTED]  # its lease may keep others
    pull(daemon, reference)
    with daemon.client() as client:
        assert client.images.get(images.GetRequest(name=reference)).target.digest == digest_of(fake.manifests["1"][1])


def ingests(daemon):
    with daemon.client() as client:
        return client.content.list_statuses(content.ListStatusesRequest()).statuses


def interrupted(daemon, fake, reference):
    """A part of a layer is here, and its daemon was killed; the layer's digest and how much there is."""
    fake.image("1", {"big": os.urandom(3_000_000)})
    digest = json.loads(fake.manifests["1"][1])["layers"][0]["digest"]
    came = 1 << 20  # of the half that is sent: less than so much more waits to be written together
    fake.held.add(digest)
    fake.gate.clear()

    def attempt():
        with contextlib.suppress(errors.Unavailable):
            pull(daemon, reference)

    thread = threading.Thread(target=attempt, name="pulling")
    thread.start()
    deadline = time.monotonic() + 60
    while [status.offset for status in ingests(daemon) if status.expected == digest] != [came]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    daemon.kill()
    thread.join(30)
    fake.held.clear()
    fake.gate.set()
    return digest, came


def test_what_came_before_kill_minus_nine_is_not_fetched_again(daemon, fake):
    reference = f"{fake.host}/a:1"
    digest, came = interrupted(daemon, fake, reference)
    daemon.start()
    pull(daemon, reference)
    assert fake.ranges == [(digest, came, len(fake.blobs[digest]))]


def test_what_a_crash_of_the_host_spoilt_is_not_taken(daemon, fake):
    """A file may have its length again, and not its bytes."""
    reference = f"{fake.host}/a:1"
    digest, came = interrupted(daemon, fake, reference)
    (data,) = [path for path in daemon.root.glob("content/ingest/*/data") if path.stat().st_size == came]
    with data.open("r+b") as file:
        file.seek(came - 4096)
        file.write(bytes(4096))
    daemon.start()
    before = len(fake.requests)
    pull(daemon, reference)
    assert [path for _, path, _ in fake.requests[before:]].count(f"/v2/a/blobs/{digest}") == 2, "the rest, then all"
    assert not ingests(daemon)


def test_what_many_want_at_once_is_sent_once(daemon, fake):
    fake.image("1", FILES)
    with ThreadPoolExecutor(50) as clients:
        list(clients.map(lambda _: pull(daemon, f"{fake.host}/a:1"), range(50)))
    blobs = [path for _, path, _ in fake.requests if "/blobs/" in path]
    assert sorted(blobs) == sorted(f"/v2/a/blobs/{digest}" for digest in fake.blobs)


def test_two_who_want_the_same_layer_have_it_sent_once(daemon, fake):
    for tag in ("1", "2"):
        fake.image(tag, FILES)
    digest = json.loads(fake.manifests["1"][1])["layers"][0]["digest"]
    threads = [threading.Thread(target=pull, args=(daemon, f"{fake.host}/a:{tag}")) for tag in ("1", "2")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [path for _, path, _ in fake.requests].count(f"/v2/a/blobs/{digest}") == 1
    with daemon.client() as client:
        assert len(client.images.list(images.ListRequest()).images) == 2


def until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_caller_who_gives_up_ends_the_pull(daemon, fake):
    fake.image("1", FILES)
    digest = json.loads(fake.manifests["1"][1])["layers"][0]["digest"]
    fake.held.add(digest)
    fake.gate.clear()
    request = transfer.TransferRequest(
        source=transfer.Registry(reference=f"{fake.host}/a:1"),
        destination=transfer.ImageStore(name="x", unpacks=[transfer.Unpack()]),
    )
    with daemon.client() as client:
        stream = client.transfer.transfer(request)
        assert next(stream)
        assert fake.reached.wait(30)
        until(lambda: snapshots_of(daemon))
        stream.close()
    until(lambda: not snapshots_of(daemon))  # while the rest is held back, lest it come before we are heard
    fake.gate.set()
    fake.held.clear()
    nothing_made(daemon)
    pull(daemon, f"{fake.host}/a:1")


def test_images_that_skopeo_copied(daemon, tmp_path):
    """From one registry to another, as Docker's own formats."""
    with Registry(tmp_path / "one") as one, Registry(tmp_path / "two") as two:
        make_image(tmp_path, one, "team/app:1")
        argv = ["skopeo", "--insecure-policy", "copy", "--quiet", "--format", "v2s2", "--src-tls-verify=false"]
        argv += ["--dest-tls-verify=false", f"docker://{one.host}/team/app:1", f"docker://{two.host}/copy:1"]
        subprocess.run(argv, check=True, capture_output=True)
        pull(daemon, f"{two.host}/copy:1")
        with daemon.client() as client:
            target = client.images.get(images.GetRequest(name=f"{two.host}/copy:1")).target
            assert target.media_type == "application/vnd.docker.distribution.manifest.v2+json"
        assert daemon.ctr("run", "--rm", f"{two.host}/copy:1", "c", "echo", "hi").stdout == "hi\n"
