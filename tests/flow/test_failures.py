"""Every failure of a pull or push is of the right class and says in which phase, of which reference, at which host it
was; and of what failed nothing was made."""

import gzip
import json
import os
import socket
import threading
from contextlib import closing, contextmanager

import pytest

from daemon.images.hosts import Host
from spec import digest as digests
from spec import errors
from tests import tricks
from tests.fake import MANIFEST, Fake, digest_of
from tests.registry import Registry, certificate, free_port, make_image

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("impatient")]

FILES = {"bin/a": os.urandom(300_000)}
MANY = 99


@pytest.fixture
def fake(fake):
    fake.image("1", FILES)
    return fake


def layer_of(fake):
    return json.loads(fake.manifests["1"][1])["layers"][0]["digest"]


def nothing_made(house):
    """No image, no snapshot, no blob that is not what its name says, no ingest that holds nothing or is held."""
    assert not house.made()
    for info in house.content.list():
        with house.content.reader(info.digest) as reader:
            assert digests.of(reader.read()) == info.digest
    for status in house.content.statuses():
        assert status.offset
        house.content.writer(status.ref).close()
    return True


def said(raised, kind, *words):
    assert type(raised.value).code == kind.code
    for word in words:
        assert word in raised.value.message, raised.value.message
    assert raised.value.message.count(words[0]) == 1, f"the phase is said once: {raised.value.message}"


def digest_header(digest):
    return tricks.status(200, Docker_Content_Digest=digest, Content_Type=MANIFEST)


def manifest_of(size):
    def trick(handler, data, start):
        headers = {"Content-Type": MANIFEST, "Docker-Content-Digest": digest_of(data), "Content-Length": str(size)}
        handler.send_response(200)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.close_connection = True

    return trick


RESOLVE = {
    "vanishes": (tricks.hangs_up, errors.Unavailable),
    "stalls": (tricks.says_nothing, errors.Unavailable),
    "not found": (tricks.status(404), errors.NotFound),
    "forbidden": (tricks.status(403), errors.PermissionDenied),
    "busy": (tricks.status(503), errors.Unavailable),
    "too many requests": (tricks.status(429), errors.Unavailable),
    "401 without a challenge": (tricks.status(401), errors.Unauthenticated),
    "401 for ever": (tricks.challenges, errors.Unauthenticated),
    "redirects for ever": (tricks.redirects, errors.Unavailable),
    "redirects to no http address": (tricks.elsewhere("file:///etc/passwd"), errors.InvalidArgument),
    "a digest that is none": (digest_header("sha256:../../etc/passwd"), errors.InvalidArgument),
    "a gigabyte, it says": (manifest_of(1 << 30), errors.InvalidArgument),
    "a gigabyte": (tricks.endless, errors.InvalidArgument),
    "a lie about its length": (manifest_of(1 << 20), errors.DataLoss),
}  # fmt: skip


@pytest.mark.parametrize("case", RESOLVE)
def test_resolving(house, fake, case):
    trick, kind = RESOLVE[case]
    fake.tricks["1"] = [trick] * MANY
    fake.sent = 0
    phase = "fetching" if case == "a lie about its length" else "resolving"
    with pytest.raises(errors.Error) as raised:
        house.pull(f"{fake.host}/a:1")
    said(raised, kind, phase, f"{fake.host}/a:1", f"at {fake.host}")
    assert fake.sent < 64 << 20
    assert nothing_made(house)


@pytest.mark.parametrize("case", [case for case in RESOLVE if "length" not in case and "digest" not in case])
def test_resolving_by_digest(house, fake, case):
    trick, kind = RESOLVE[case]
    digest = digest_of(fake.manifests["1"][1])
    fake.tricks[digest] = [trick] * MANY
    fake.sent = 0
    with pytest.raises(errors.Error) as raised:
        house.pull(f"{fake.host}/a@{digest}")
    said(raised, kind, "resolving", f"{fake.host}/a@{digest}", f"at {fake.host}")
    assert fake.sent < 64 << 20
    assert nothing_made(house)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, errors.Unknown), (404, errors.NotFound), (500, errors.Unavailable), (502, errors.Unavailable),
     (504, errors.Unavailable), (418, errors.Unknown)],
)  # fmt: skip
def test_a_manifest_is_not_looked_for_among_blobs(house, fake, status, kind):
    digest = digest_of(fake.manifests["1"][1])
    fake.tricks[digest] = [tricks.status(status)] * MANY
    with pytest.raises(errors.Error, match=f"status {status}") as raised:
        house.pull(f"{fake.host}/a:1")
    said(raised, kind, "fetching", digest, f"at {fake.host}")
    assert not [path for _, path, _ in fake.requests if "/blobs/" in path]


def test_a_page_in_the_place_of_a_manifest(house, fake):
    fake.tricks["1"] = [tricks.page] * MANY
    with pytest.raises(errors.InvalidArgument, match=f"{fake.host}/a:1.*text/html"):
        house.pull(f"{fake.host}/a:1")
    assert nothing_made(house)


TOKEN = {
    "refused": (tricks.status(401), errors.Unauthenticated),
    "denied": (tricks.status(403), errors.Unauthenticated),
    "broken": (tricks.status(500), errors.Unavailable),
    "vanishes": (tricks.hangs_up, errors.Unavailable),
    "stalls": (tricks.says_nothing, errors.Unavailable),
    "a page": (tricks.page, errors.DataLoss),
    "nothing": (tricks.status(200), errors.DataLoss),
    "redirects for ever": (tricks.redirects, errors.Unavailable),
}


@pytest.mark.parametrize("case", TOKEN)
def test_asking_for_a_token(house, case):
    trick, kind = TOKEN[case]
    with Fake(tokens=()) as fake:
        fake.image("1", FILES)
        fake.tricks["token"] = [trick] * MANY
        with pytest.raises(errors.Error) as raised:
            house.pull(f"{fake.host}/a:1")
        said(raised, kind, "asking for a token", "resolving", f"{fake.host}/a:1", f"at {fake.host}")
        assert nothing_made(house)


FETCH = {
    "vanishes": (tricks.hangs_up, errors.Unavailable),
    "goes on elsewhere": (tricks.resets(4096), errors.DataLoss),
    "stalls": (tricks.says_nothing, errors.Unavailable),
    "vanishes in the middle": (tricks.resets(0), errors.Unavailable),
    "trickles": (tricks.trickles, errors.Unavailable),
    "not found": (tricks.status(404), errors.NotFound),
    "broken": (tricks.status(500), errors.Unavailable),
    "too long": (tricks.another_length(100), errors.FailedPrecondition),
    "too short": (tricks.another_length(-100), errors.DataLoss),
    "a bomb": (tricks.encoded, errors.DataLoss),
    "a page": (tricks.page, errors.DataLoss),
    "redirects for ever": (tricks.redirects, errors.Unavailable),
}


@pytest.mark.parametrize("case", FETCH)
def test_fetching(house, fake, case):
    trick, kind = FETCH[case]
    fake.tricks[layer_of(fake)] = [trick] + [tricks.another_range if case == "goes on elsewhere" else trick] * MANY
    with pytest.raises(errors.Error) as raised:
        house.pull(f"{fake.host}/a:1")
    said(raised, kind, "fetching", layer_of(fake), f"of {fake.host}/a:1", f"at {fake.host}")
    assert nothing_made(house)


@pytest.mark.parametrize("name", ["layer", "manifest"])
def test_verifying(house, fake, name):
    digest = layer_of(fake) if name == "layer" else digest_of(fake.manifests["1"][1])
    fake.tricks[digest] = [tricks.other_bytes] * MANY
    with pytest.raises(errors.FailedPrecondition) as raised:
        house.pull(f"{fake.host}/a:1")
    said(raised, errors.FailedPrecondition, "verifying", digest, f"of {fake.host}/a:1", f"from {fake.host}")
    assert nothing_made(house)


def test_verifying_what_a_mirror_sent(house, fake):
    """It is the mirror that lied."""
    hosts = [Host(base=f"http://{fake.host}/v2", mirror=True), Host(base="https://registry.invalid/v2")]
    fake.tricks[layer_of(fake)] = [tricks.other_bytes]
    with pytest.raises(errors.FailedPrecondition) as raised:
        house.pull("registry.invalid/a:1", lookup=lambda *_: hosts)
    said(raised, errors.FailedPrecondition, "verifying", "of registry.invalid/a:1", f"from {fake.host}")
    assert nothing_made(house)


@pytest.mark.parametrize("spoil", ["truncated", "diff id"])
def test_unpacking(house, fake, spoil):
    document = json.loads(fake.manifests["1"][1])
    blob = fake.blobs[layer_of(fake)]
    data = blob[:-20] if spoil == "truncated" else gzip.compress(gzip.decompress(blob) + bytes(10240))
    document["layers"][0] |= {"digest": fake.blob(data), "size": len(data)}
    fake.manifest("1", document)
    with pytest.raises(errors.Error) as raised:
        house.pull(f"{fake.host}/a:1")
    kind = errors.DataLoss if spoil == "truncated" else errors.InvalidArgument
    said(raised, kind, "unpacking", digest_of(data), f"of {fake.host}/a:1")
    assert nothing_made(house)


DOCUMENTS = {
    "neither": (b'{"some":"thing"}', "application/json"),
    "no JSON": (b"<html>", MANIFEST),
    "a list": (b"[]", MANIFEST),
    "nothing": (b"", MANIFEST),
    "both": (b'{"manifests":[],"layers":[]}', MANIFEST),
}


@pytest.mark.parametrize("case", DOCUMENTS)
def test_a_lie_about_the_type(house, fake, case):
    fake.manifest("1", *DOCUMENTS[case])
    with pytest.raises(errors.InvalidArgument, match=f"pulling {fake.host}/a:1"):
        house.pull(f"{fake.host}/a:1")
    assert nothing_made(house)


def test_a_host_that_refuses(house):
    host = f"127.0.0.1:{free_port()}"
    with pytest.raises(errors.Error) as raised:
        house.pull(f"{host}/a:1")
    said(raised, errors.Unavailable, "resolving", f"{host}/a:1", f"at {host}", "refused")


def test_a_name_of_no_host(house):
    with pytest.raises(errors.Error) as raised:
        house.pull("registry.invalid/a:1")
    said(raised, errors.Unavailable, "resolving", "registry.invalid/a:1", "at registry.invalid", "resolve")


def test_a_host_that_is_gone_meanwhile(house):
    with Fake() as fake:
        fake.image("1", FILES)
        digest = digest_of(fake.manifests["1"][1])
        fake.tricks["1"] = [gone]
        with pytest.raises(errors.Error) as raised:
            house.pull(f"{fake.host}/a:1")
        said(raised, errors.Unavailable, "fetching", digest, f"of {fake.host}/a:1", f"at {fake.host}")
        assert nothing_made(house)


def gone(handler, data, start):
    """Its answer to HEAD is its last."""
    handler.close_connection = True
    handler.registry._server.socket.close()
    handler._send(200, data, {"Content-Type": MANIFEST, "Docker-Content-Digest": digest_of(data)})


def test_an_authority_that_is_another(house, tmp_path):
    with Registry(tmp_path / "registry", tls=True) as registry:
        make_image(tmp_path, registry, "a:1", base=False)
        (tmp_path / "other").mkdir()
        other = certificate(tmp_path / "other").ca.read_text()
        with pytest.raises(errors.Error) as raised:
            house.pull(f"{registry.host}/a:1", authorities=other)
        said(raised, errors.Unavailable, "resolving", f"{registry.host}/a:1", f"at {registry.host}", "certificate")
        assert nothing_made(house)


@contextmanager
def deaf():
    """A port where nobody speaks TLS, or anything."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peers = []

        def accept():
            with closing(listener):
                while True:
                    try:
                        peers.append(listener.accept()[0])
                    except OSError:
                        return

        thread = threading.Thread(target=accept, name="deaf")
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        for peer in peers:
            peer.close()


def test_a_host_that_is_deaf(house):
    with deaf() as host, pytest.raises(errors.Error) as raised:
        house.pull(f"{host}/a:1")
    said(raised, errors.Unavailable, "resolving", f"{host}/a:1", f"at {host}")


PUSH = {
    "no upload": ("POST", tricks.status(403), errors.PermissionDenied),
    "broken": ("POST", tricks.status(500), errors.Unavailable),
    "vanishes": ("POST", tricks.hangs_up, errors.Unavailable),
    "stalls": ("POST", tricks.says_nothing, errors.Unavailable),
    "nowhere": ("POST", tricks.status(202), errors.DataLoss),
    "elsewhere": ("POST", tricks.status(202, Location="file:///etc/passwd"), errors.InvalidArgument),
    "denies": ("PUT", tricks.status(401), errors.Unauthenticated),
    "disputes": ("PUT", tricks.status(400), errors.Unknown),
    "redirects": ("PUT", tricks.redirects, errors.Unavailable),
    "may not look": ("HEAD", tricks.status(500), errors.Unavailable),
}


@pytest.mark.parametrize("case", PUSH)
def test_pushing(house, fake, case):
    method, trick, kind = PUSH[case]
    house.pull(f"{fake.host}/a:1")
    with Fake() as other:
        other.tricks[method] = [trick] * MANY
        with pytest.raises(errors.Error) as raised:
            house.push(f"{fake.host}/a:1", f"{other.host}/b:2")
        said(raised, kind, "pushing", f"to {other.host}/b:2", f"at {other.host}")
        assert not other.manifests


def test_pushing_where_nobody_is(house, fake):
    house.pull(f"{fake.host}/a:1")
    host = f"127.0.0.1:{free_port()}"
    with pytest.raises(errors.Error) as raised:
        house.push(f"{fake.host}/a:1", f"{host}/b:2")
    said(raised, errors.Unavailable, "pushing", f"to {host}/b:2", f"at {host}", "refused")
