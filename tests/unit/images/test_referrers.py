"""What refers to what, from registries that know of it and from such as have a tag for it."""

import json

import pytest

from daemon.images.resolver import RegistryResolver
from spec import errors
from spec.oci.image import Descriptor
from tests import tricks
from tests.fake import INDEX, MANIFEST, Fake, digest_of

SBOM, SIGNATURE = "application/spdx+json", "application/vnd.example.signature"
SUBJECT = digest_of(b"subject")


def artifact(number, kind=SBOM):
    return {"mediaType": MANIFEST, "digest": digest_of(b"%d" % number), "size": 10, "artifactType": kind}


MADE = [artifact(number, SIGNATURE if number % 5 == 0 else SBOM) for number in range(25)]


@pytest.fixture
def resolver():
    made = RegistryResolver(plain_http=True)
    yield made
    made.close()


def asked(resolver, fake, *types, digest=SUBJECT):
    return [one.digest for one in resolver.referrers(f"{fake.host}/a:1", digest, types)]


@pytest.mark.parametrize("page", [100, 25, 10, 1])
@pytest.mark.parametrize("filters", [True, False])
def test_by_the_api(fake, resolver, page, filters):
    fake.referrers, fake.page, fake.filters = {SUBJECT: MADE}, page, filters
    assert asked(resolver, fake) == [one["digest"] for one in MADE]
    assert asked(resolver, fake, SIGNATURE) == [one["digest"] for one in MADE[::5]]
    assert asked(resolver, fake, SIGNATURE, SBOM) == [one["digest"] for one in MADE]
    assert asked(resolver, fake, digest=digest_of(b"other")) == []


def test_by_the_tag(fake, resolver):
    fake.manifest(SUBJECT.replace(":", "-"), {"schemaVersion": 2, "mediaType": INDEX, "manifests": MADE * 2}, INDEX)
    assert asked(resolver, fake) == [one["digest"] for one in MADE]
    assert asked(resolver, fake, SIGNATURE) == [one["digest"] for one in MADE[::5]]
    assert asked(resolver, fake, digest=digest_of(b"other")) == []


def test_with_tokens(fake, resolver):
    fake.tokens, fake.referrers = (), {SUBJECT: MADE}
    assert len(asked(resolver, fake)) == len(MADE)


def endless(handler, data, start):
    headers = {"Content-Type": INDEX, "Link": f"<{handler.path}>; rel=next"}
    handler._send(200, json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": []}).encode(), headers)


def of_no_length(handler, data, start):
    """In chunks."""
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    for at in range(0, len(data), 100):
        piece = data[at : at + 100]
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
    handler.wfile.write(b"0\r\n\r\n")


def test_an_answer_of_no_length(fake, resolver):
    tag = SUBJECT.replace(":", "-")
    fake.manifest(tag, {"schemaVersion": 2, "mediaType": INDEX, "manifests": MADE}, INDEX)
    fake.tricks[tag] = [of_no_length]
    assert asked(resolver, fake) == [one["digest"] for one in MADE]


def failing(handler, data, start):
    handler._send(403, b'{"errors":[{"code":"DENIED","message":"not for you"}]}')


@pytest.mark.parametrize(
    ("document", "error", "says"),
    [
        ({"manifests": [], "padding": "x" * (4 << 20)}, errors.InvalidArgument, "more than 4194304 bytes"),
        ({"manifests": [{**MADE[0], "digest": "sha256:../../etc"}]}, errors.InvalidArgument, "etc"),
        ({"mediaType": MANIFEST, "layers": []}, errors.InvalidArgument, "manifest"),
    ],
)
def test_answers_that_are_wrong(fake, resolver, document, error, says):
    fake.manifest(SUBJECT.replace(":", "-"), {"schemaVersion": 2, **document}, INDEX)
    with pytest.raises(error, match=says) as raised:
        asked(resolver, fake)
    assert raised.value.message.startswith(f"asking for referrers of {SUBJECT}")


@pytest.mark.parametrize(
    ("trick", "error", "says"),
    [(endless, errors.ResourceExhausted, "64 pages"), (failing, errors.PermissionDenied, "not for you")],
)
def test_who_never_ends_or_forbids(fake, resolver, trick, error, says):
    tag = SUBJECT.replace(":", "-")
    fake.manifest(tag, {"schemaVersion": 2, "manifests": []}, INDEX)
    fake.tricks[tag] = [trick] * 100
    with pytest.raises(error, match=says):
        asked(resolver, fake)


def test_a_page_elsewhere_gets_no_token(fake, resolver):
    """As with uploads: what is known of one host is not told another."""
    with Fake() as other:
        other.referrers = {SUBJECT: MADE[10:]}
        fake.tokens = ()
        tag = SUBJECT.replace(":", "-")

        def elsewhere(handler, data, start):
            where = f"<http://{other.host}/v2/a/referrers/{SUBJECT}>; rel=\"next\""
            body = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": MADE[:10]}).encode()
            handler._send(200, body, {"Content-Type": INDEX, "Link": where})

        fake.manifest(tag, {}, INDEX)
        fake.tricks[tag] = [elsewhere]
        assert len(asked(resolver, fake)) == len(MADE)
        assert [header for _, _, header in other.requests] == [""]


def test_what_is_no_digest(fake, resolver):
    with pytest.raises(errors.InvalidArgument, match="sha256:1"):
        asked(resolver, fake, digest="sha256:1")


TAG = SUBJECT.replace(":", "-")
EMPTY = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest_of(b"{}"), "size": 2}


def pushed(fake, resolver, number=0):
    """An artifact about the subject; its descriptor."""
    fake.blob(b"{}")
    about = {"mediaType": MANIFEST, "digest": SUBJECT, "size": 7}
    document = {"schemaVersion": 2, "mediaType": MANIFEST, "artifactType": SBOM, "config": EMPTY, "layers": [],
                "subject": about, "annotations": {"n": str(number)}}  # fmt: skip
    body = json.dumps(document).encode()
    target = Descriptor(media_type=MANIFEST, digest=digest_of(body), size=len(body))
    resolver.pusher(f"{fake.host}/a:1").manifest(target, body, "1")
    return {"mediaType": MANIFEST, "digest": target.digest, "size": target.size}


def test_a_registry_that_lists_referrers_has_no_tag(fake, resolver):
    fake.referrers = {}
    for _ in range(2):
        artifact = pushed(fake, resolver)
        assert fake.referrers == {SUBJECT: [artifact]}
        assert TAG not in fake.manifests


def test_what_was_pushed_without_the_tag_is_added_by_the_next(fake, resolver):
    """Whoever pushed it knew of no tag, or did not come that far."""
    artifact = pushed(fake, resolver)
    del fake.manifests[TAG]
    assert pushed(fake, resolver) == artifact
    assert asked(resolver, fake) == [artifact["digest"]]


def meanwhile(number):
    """Its answer is old when it comes."""

    def trick(handler, data, start):
        handler._send(200, data, {"Content-Type": INDEX, "ETag": f'"{digest_of(data)}"'})
        document = json.loads(data)
        document["manifests"].append(artifact(number))
        handler.registry.manifests[TAG] = (INDEX, json.dumps(document).encode())

    return trick


def test_what_another_adds_meanwhile_stays(fake, resolver):
    fake.manifest(TAG, {"schemaVersion": 2, "mediaType": INDEX, "manifests": MADE[:1]}, INDEX)
    for number in range(200):
        fake.manifests[artifact(number)["digest"]] = (MANIFEST, b"%d" % number)
    fake.tricks[TAG] = [meanwhile(7), meanwhile(8)]
    mine = pushed(fake, resolver)
    wanted = [MADE[0]["digest"], artifact(7)["digest"], artifact(8)["digest"], mine["digest"]]
    assert asked(resolver, fake) == wanted
    fake.tricks[TAG] = [meanwhile(number) for number in range(100, 200)]
    with pytest.raises(errors.Aborted, match=f"pushing.*adding it to the referrers of {SUBJECT}"):
        pushed(fake, resolver, 1)


@pytest.mark.parametrize(
    ("document", "error"),
    [
        ({"schemaVersion": 2, "mediaType": MANIFEST, "config": EMPTY, "layers": []}, errors.InvalidArgument),
        (b"<html>", errors.InvalidArgument),
        ({"schemaVersion": 2, "manifests": [], "annotations": {"x": "y" * (4 << 20)}}, errors.InvalidArgument),
        ({"schemaVersion": 2, "manifests": [], "annotations": {"x": "y" * ((4 << 20) - 100)}},
         errors.ResourceExhausted),
    ],
    ids=["a manifest", "a page", "too long", "full"],
)  # fmt: skip
def test_a_tag_that_is_something_else_is_left_alone(fake, resolver, document, error):
    fake.manifest(TAG, document, INDEX)
    before = fake.manifests[TAG]
    with pytest.raises(error, match=f"referrers of {SUBJECT}"):
        pushed(fake, resolver)
    assert fake.manifests[TAG] == before


@pytest.mark.parametrize("status", [401, 403, 500])
def test_a_tag_that_may_not_be_seen(fake, resolver, status):
    fake.manifest(TAG, {}, INDEX)
    fake.tricks[TAG] = [tricks.status(status)] * 9
    with pytest.raises(errors.Error, match=f"at {fake.host}: adding it to the referrers of {SUBJECT}"):
        pushed(fake, resolver)
