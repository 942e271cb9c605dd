"""ctr's --http-dump and --http-trace: on standard error, and without secrets."""

import json

import pytest

from tests.fake import Fake, digest_of

FLAGS = ("--plain-http", "--http-dump", "--http-trace", "--user", "me:s3cret")


@pytest.fixture
def fake():
    with Fake(tokens=("me", "s3cret")) as fake:
        fake.image("1", {"bin/a": b"a"})
        yield fake


def test_of_what_asks_a_registry(daemon, fake):
    reference = f"{fake.host}/a:1"
    layer = json.loads(fake.manifests["1"][1])["layers"][0]["digest"]
    manifest = fake.manifests["1"][1]
    for argv, line in (
        (("images", "pull", reference), "> HEAD http://{}/v2/a/manifests/1"),
        (("images", "pull", "--json", reference), "> HEAD http://{}/v2/a/manifests/1"),
        (("images", "pull", "--quiet", reference), "> HEAD http://{}/v2/a/manifests/1"),
        (("images", "push", f"{fake.host}/b:2", reference), "> PUT http://{}/v2/b/manifests/2"),
        (("content", "fetch", reference), "> HEAD http://{}/v2/a/manifests/1"),
        (("content", "fetch-object", reference), f"> GET http://{{}}/v2/a/manifests/{digest_of(manifest)}"),
        (("content", "fetch-blob", reference, digest_of(manifest)), f"> GET http://{{}}/v2/a/blobs/{digest_of(manifest)}"),
        (("images", "referrers", "--json", reference), f"> GET http://{{}}/v2/a/referrers/{digest_of(manifest)}"),
    ):
        done = daemon.ctr(*argv[:2], *FLAGS, *argv[2:])
        assert line.format(fake.host) in done.stderr.splitlines(), argv
        assert "* the answer began after" in done.stderr
        assert "> Authorization: Bearer REDACTED" in done.stderr.splitlines()
        assert not {"s3cret", "Bearer good", "czNjcmV0"} & set(done.stderr.split())
        assert "Authorization" not in done.stdout
        if "--json" in argv and "pull" in argv:
            assert {json.loads(line)["event"] for line in done.stdout.splitlines()}
        if argv[1].startswith("fetch-"):
            assert done.stdout.encode() == manifest
    assert layer in fake.blobs


def test_unasked(daemon, fake):
    done = daemon.ctr("images", "pull", "--plain-http", "--user", "me:s3cret", f"{fake.host}/a:1")
    assert done.stderr == ""
