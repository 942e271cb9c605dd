"""Pushes to a registry that cuts, forgets, refuses and moves."""

import json
from contextlib import closing

import pytest

from daemon.content.local import LocalContent
from daemon.images import pusher as pushers
from daemon.images import transport
from daemon.images.hosts import Host
from daemon.images.resolver import RegistryResolver
from daemon.kit.cancel import Token
from spec import errors
from spec.oci.image import OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST, Descriptor
from tests import tricks
from tests.answers import Reply
from tests.fake import digest_of

BLOB = bytes(range(256)) * 4096  # 1 MiB
DIGEST = digest_of(BLOB)
LAYER = Descriptor(media_type=OCI_LAYER_GZIP, digest=DIGEST, size=len(BLOB))
CONFIG = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest_of(b"{}"), "size": 2}
BODY = json.dumps({"schemaVersion": 2, "config": CONFIG, "layers": []}).encode()
UPLOADS = "/v2/a/blobs/uploads/"


@pytest.fixture
def to(tmp_path):
    """Pushes a blob to a server: how it went."""
    content = LocalContent(str(tmp_path / "content"), False)
    with content.writer("x") as writer:
        writer.write(BLOB)
        writer.commit(len(BLOB), DIGEST)
    resolvers = []

    def push(server, descriptor=LAYER, neighbours="", cancel=None, **options):
        resolvers.append(RegistryResolver(plain_http=True, **options))
        told = []
        with content.reader(DIGEST) as reader:
            pusher = resolvers[-1].pusher(f"{server.host}/a:1")
            how = pusher.blob(descriptor, reader, neighbours, told.append, cancel)
        assert told in ([], sorted(told)) or how == "complete"
        return how

    yield push
    for resolver in resolvers:
        resolver.close()


def manifest(server, descriptor, body, tag=""):
    resolver = RegistryResolver(plain_http=True)
    try:
        return resolver.pusher(f"{server.host}/a:1").manifest(descriptor, body, tag)
    finally:
        resolver.close()


def methods(server):
    return [(request[0], request[1].rpartition("/")[2]) for request in server.requests]


def test_a_blob_goes_in_one_piece_once(fake, to):
    assert to(fake) == "complete"
    assert fake.blobs[DIGEST] == BLOB
    assert [method for method, _ in methods(fake)] == ["HEAD", "POST", "PUT"]
    assert to(fake) == "already exists"
    assert [method for method, _ in methods(fake)] == ["HEAD", "POST", "PUT", "HEAD"]


@pytest.mark.parametrize("cuts", [[0], [300_000], [len(BLOB)], [100_000, 0, 200_000, 0, 0, 300_000]])
def test_a_broken_upload_goes_on_where_it_broke(fake, to, cuts, monkeypatch):
    monkeypatch.setattr(pushers.RegistryPusher, "rest", lambda *_: None)
    fake.cuts = list(cuts)
    assert to(fake) == "complete"
    assert fake.blobs[DIGEST] == BLOB
    assert not fake.uploads


def test_an_upload_that_the_registry_forgot_begins_again(fake, to):
    fake.cuts, fake.forgetful = [300_000], True
    assert to(fake) == "complete"
    assert fake.blobs[DIGEST] == BLOB
    assert [method for method, _ in methods(fake)].count("POST") == 2


def test_an_upload_that_never_gets_on_ends(fake, to, monkeypatch):
    monkeypatch.setattr(pushers.RegistryPusher, "rest", lambda *_: None)
    fake.cuts = [0] * 100
    with pytest.raises(errors.Unavailable, match=DIGEST):
        to(fake)
    assert len(fake.cuts) == 100 - 1 - pushers.RESUMES


def test_chunks_where_all_at_once_is_too_much(fake, to, monkeypatch):
    monkeypatch.setattr(pushers, "SMALLEST", 1000)
    fake.largest = 300_000
    assert to(fake) == "complete"
    assert fake.blobs[DIGEST] == BLOB
    assert [method for method, _ in methods(fake)].count("PATCH") >= 4


def test_a_registry_that_takes_nothing_at_all_is_given_up(fake, to):
    fake.largest = 1
    with pytest.raises(errors.Unknown, match="413"):
        to(fake)


def test_a_blob_that_a_neighbour_has_is_mounted(fake, to):
    fake.mounts = {("team/x", DIGEST)}
    assert to(fake, neighbours="other,team/x") == "mounted"
    assert [method for method, _ in methods(fake)] == ["HEAD", "POST"]


def test_a_mount_that_is_not_granted_becomes_an_upload(fake, to):
    assert to(fake, neighbours="other") == "complete"
    assert [method for method, _ in methods(fake)] == ["HEAD", "POST", "PUT"]


@pytest.mark.parametrize("status", [401, 403, 404, 405])
def test_a_mount_that_is_refused_becomes_an_upload(own, to, status):
    own.replies[UPLOADS] = [Reply(status), Reply(202, headers={"Location": "/up"})]
    own.replies["/up"] = [Reply(201)]
    assert to(own, neighbours="other") == "complete"
    assert "from=other" in own.requests[1].path
    assert own.requests[2].path == UPLOADS


def test_a_mount_that_no_token_is_given_for_becomes_an_upload(own, to):
    """Whoever may push here may not read there."""
    challenge = {"WWW-Authenticate": f'Bearer realm="{own.url}/token",service="s"'}
    token = Reply(200, json.dumps({"token": "good"}).encode())
    own.replies[f"/v2/a/blobs/{DIGEST}"] = [Reply(401, headers=challenge)]
    own.replies[UPLOADS] = [Reply(401, headers=challenge), Reply(202, headers={"Location": "/up"})]
    own.replies["/token"] = [token, Reply(403), token]
    own.replies["/up"] = [Reply(201)]
    assert to(own, neighbours="other") == "complete"
    asked = [request.path for request in own.requests if request.path.startswith("/token")]
    assert ["other" in path for path in asked] == [False, True]
    assert own.requests[-1].headers["Authorization"] == "Bearer good"


def test_a_location_elsewhere_gets_no_credentials(own, other, to):
    """oras-go GHSA-jxpm-75mh-9fp7."""
    challenge = {"WWW-Authenticate": "Basic realm=x"}
    own.replies[f"/v2/a/blobs/{DIGEST}"] = [Reply(401, headers=challenge)]
    own.replies[UPLOADS] = [Reply(202, headers={"Location": f"{other.url}/up?a=b"})]
    other.replies["/up"] = [Reply(201)]
    assert to(own, username="me", secret="secret", headers={"X-Own": "s"}) == "complete"
    assert own.requests[-1].headers["Authorization"].startswith("Basic ")
    assert own.requests[-1].headers["X-Own"] == "s"
    (request,) = other.requests
    assert not {"Authorization", "X-Own"} & set(request.headers)
    assert request.body == BLOB
    assert request.path.startswith("/up?a=b&digest=sha256%3A")


@pytest.mark.parametrize(
    ("location", "error"), [("file:///etc/passwd", errors.InvalidArgument), ("", errors.DataLoss)]
)
def test_a_location_that_is_none(own, to, location, error):
    own.replies[UPLOADS] = [Reply(202, headers={"Location": location} if location else {})]
    with pytest.raises(error):
        to(own)


def test_a_redirected_upload_is_not_sent_elsewhere(own, other, to):
    own.replies[UPLOADS] = [Reply(202, headers={"Location": "/up"})]
    own.replies["/up"] = [Reply(307, headers={"Location": f"{other.url}/up"})]
    with pytest.raises(errors.PermissionDenied):
        to(own)
    assert not other.requests


def test_a_digest_that_the_registry_disputes(own, to):
    own.replies[UPLOADS] = [Reply(202, headers={"Location": "/up"})]
    own.replies["/up"] = [Reply(201, headers={"Docker-Content-Digest": digest_of(b"x")})]
    with pytest.raises(errors.DataLoss, match="took it for"):
        to(own)


def test_what_the_registry_says_of_a_refusal(own, to):
    body = b'{"errors":[{"code":"DENIED","message":"your quota"}]}'
    own.replies[f"/v2/a/blobs/{DIGEST}"] = [Reply(403), Reply(403, body)]
    with pytest.raises(errors.PermissionDenied, match="DENIED: your quota"):
        to(own)
    assert [request.method for request in own.requests] == ["HEAD", "GET"]


def test_a_blob_of_another_size_is_not_begun(fake, to):
    with pytest.raises(errors.FailedPrecondition, match="bytes here"):
        to(fake, Descriptor(media_type=OCI_LAYER_GZIP, digest=DIGEST, size=5))
    assert not fake.requests


def test_a_push_that_is_cancelled(fake, to):
    token = Token()
    token.cancel("enough")
    with pytest.raises(errors.Canceled):
        to(fake, cancel=token)
    assert DIGEST not in fake.blobs


def test_a_manifest_by_digest_and_by_tag(fake):
    fake.blob(b"{}")
    target = Descriptor(media_type=OCI_MANIFEST, digest=digest_of(BODY), size=len(BODY))
    assert manifest(fake, target, BODY)
    assert fake.manifests[target.digest] == (OCI_MANIFEST, BODY)
    assert not manifest(fake, target, BODY)
    assert manifest(fake, target, BODY, "1")
    assert fake.manifests["1"] == (OCI_MANIFEST, BODY)
    assert not manifest(fake, target, BODY, "1")
    fake.image("1", {"a": b"b"})
    assert manifest(fake, target, BODY, "1"), "a tag that names another image is moved"


def test_an_index_whose_manifests_are_missing(fake):
    body = json.dumps({"manifests": [{"digest": DIGEST, "mediaType": OCI_MANIFEST, "size": 3}]}).encode()
    with pytest.raises(errors.FailedPrecondition, match="may lack"):
        manifest(fake, Descriptor(media_type=OCI_INDEX, digest=digest_of(body), size=len(body)), body)


def test_only_a_host_that_takes_pushes_is_asked(fake, tmp_path):
    (tmp_path / "_default").mkdir()
    (tmp_path / "_default/hosts.toml").write_text(
        'capabilities = ["pull"]\n[host."http://127.0.0.1:1"]\ncapabilities = ["pull"]'
    )
    resolver = RegistryResolver(hosts_dir=str(tmp_path))
    with pytest.raises(errors.FailedPrecondition, match="takes it"):
        resolver.pusher("a.example/b:1")
    resolver.close()


def test_a_registry_that_says_no_digest(own):
    """It need not."""
    own.replies["/v2/a/manifests/1"] = [Reply(404), Reply(201)]
    target = Descriptor(media_type=OCI_MANIFEST, digest=digest_of(BODY), size=len(BODY))
    assert manifest(own, target, BODY, "1")
    assert own.requests[1].body == BODY


def test_whoever_may_not_push_hears_why(own):
    """By one GET, also of a mirror that is told which registry is meant."""
    said = Reply(403, b'{"errors":[{"code":"DENIED","message":"read only"}]}')
    own.replies[f"/v2/a/blobs/{DIGEST}"] = [Reply(403), said]
    hosts = [Host(base=f"{own.url}/v2", mirror=True)]
    with (
        closing(RegistryResolver(lookup=lambda *_: hosts)) as resolver,
        pytest.raises(errors.PermissionDenied, match="DENIED: read only"),
    ):
        resolver.pusher("registry.example/a:1").borrow(LAYER)
    assert [(request.method, request.path) for request in own.requests] == [
        (method, f"/v2/a/blobs/{DIGEST}?ns=registry.example") for method in ("HEAD", "GET")
    ]


def test_whoever_may_not_push_hears_so_when_the_reason_does_not_come(fake, to, monkeypatch):
    monkeypatch.setattr(transport, "doubled", lambda *_: 0.0)
    fake.blob(BLOB)
    fake.tricks[DIGEST] = [tricks.status(403), *[tricks.hangs_up] * 9]
    with pytest.raises(errors.PermissionDenied, match="status 403"):
        to(fake)
