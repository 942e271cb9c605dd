"""What refers to a manifest by its `subject` (OCI distribution spec v1.1, listing referrers): signatures, SBOMs and the
like. A registry that has no such API has a tag for it instead (referrers tag schema), which whoever pushes looks after
(pushing manifests with subject)."""

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urljoin

import msgspec
from msgspec.structs import replace

from daemon.images import transport
from daemon.images.pools import Answer
from daemon.images.session import Session
from daemon.kit.keylock import KeyLock
from spec import digest as digests
from spec import errors
from spec.oci import distribution, graph
from spec.oci.image import OCI_INDEX, Descriptor, Index, Manifest
from spec.reference import Reference

MAX_PAGES = 64
WITHOUT = frozenset({404, 405})  # of the API
ACCEPT = {"Accept": OCI_INDEX}
ATTEMPTS = 5  # at a tag that others change, too
_NEXT = re.compile(r'<([^<>\s]{1,4096})>\s*;[^,]*\brel="?next"?', re.ASCII)
_turns = KeyLock()


def referrers(
    session: Session, ref: Reference, digest: str, artifact_types: Sequence[str]
) -> Iterator[Sequence[Descriptor]]:
    """Those of `artifact_types` (none: all), a page at a time; nothing when there are none."""
    path = distribution.referrers_path(ref.repository, digest, artifact_types)
    scope = distribution.pull_scope(ref.repository)
    url = session.url(path)
    answer = session.request("GET", path, scope, ACCEPT)
    if answer.status in WITHOUT:
        transport.body_of(answer, 1)
        path = _tag_path(ref, digest)
        answer, url = session.request("GET", path, scope, ACCEPT), session.url(path)
        if answer.status == 404:
            transport.body_of(answer, 1)
            return
    for page in itertools.count(1):
        if answer.status != 200:
            raise transport.status_error(answer, "GET", url)
        more = _NEXT.search(answer.headers.get("Link", ""))
        found = _index(_whole(answer))
        yield [one for one in found.manifests if not artifact_types or one.artifact_type in artifact_types]
        if more is None:
            return
        if page == MAX_PAGES:
            raise errors.ResourceExhausted(f"they are more than {MAX_PAGES} pages")
        url = urljoin(url, more[1])
        answer = session.send("GET", url, scope, ACCEPT, None)


def subject_of(descriptor: Descriptor, body: bytes) -> tuple[Descriptor, Descriptor] | None:
    """What a manifest or index refers to, and itself as a list of referrers has it; None when it refers to nothing."""
    if graph.is_index(descriptor.media_type):
        document: Index | Manifest = graph.index(descriptor, body)
    else:
        document = graph.manifest(descriptor, body)
    if document.subject is None:
        return None
    kind = document.artifact_type
    if not kind and isinstance(document, Manifest):
        kind = document.config.media_type
    own = Descriptor(media_type=descriptor.media_type, digest=descriptor.digest, size=descriptor.size)
    return document.subject, replace(own, artifact_type=kind, annotations=document.annotations)


def is_listed(session: Session, ref: Reference, digest: str) -> bool:
    """Whether the registry lists referrers itself."""
    path = distribution.referrers_path(ref.repository, digest)
    answer = session.request("GET", path, distribution.push_scope(ref.repository), ACCEPT)
    if answer.status not in WITHOUT and answer.status != 200:
        raise transport.status_error(answer, "GET", session.url(path))
    transport.drop(answer)
    return answer.status == 200


def enlist(session: Session, ref: Reference, subject: Descriptor, artifact: Descriptor) -> None:
    """Have `artifact` among what refers to `subject` in the tag that stands for a list of it. What else that lists
    stays as it is; InvalidArgument when it is no index.

    One of us at a time; others are told by the ETag, where the registry heeds it (RFC 9110, 13.1.1).
    """
    path = _tag_path(ref, subject.digest)
    with _turns.held(f"{session.host.name}/{path}"), errors.during(f"adding it to the referrers of {subject.digest}"):
        for _ in range(ATTEMPTS):
            if _added(session, ref, path, artifact):
                return
        raise errors.Aborted("others change them all the time")


def _added(session: Session, ref: Reference, path: str, artifact: Descriptor) -> bool:
    """Whether it is there now, and not somebody else's in the meantime."""
    scope = distribution.push_scope(ref.repository)
    answer = session.request("GET", path, scope, ACCEPT)
    if answer.status not in (200, 404):
        raise transport.status_error(answer, "GET", session.url(path))
    mark = answer.headers.get("ETag", "")
    body = _whole(answer)
    listed: dict[str, Any] = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
    if answer.status == 200:
        if artifact.digest in {one.digest for one in _index(body).manifests}:
            return True
        listed |= json.loads(body)
    listed["manifests"] = [*(listed["manifests"] or ()), msgspec.to_builtins(artifact)]
    changed = json.dumps(listed, ensure_ascii=False, separators=(",", ":")).encode()
    if len(changed) > distribution.MAX_MANIFEST:
        raise errors.ResourceExhausted(f"they are more than {distribution.MAX_MANIFEST} bytes")
    headers = {"Content-Type": OCI_INDEX, "Content-Length": str(len(changed))}
    if answer.status == 200 and mark.startswith('"'):
        headers["If-Match"] = mark
    answer = session.request("PUT", path, scope, headers, changed)
    if answer.status not in (200, 201, 202, 204, 412):
        raise transport.status_error(answer, "PUT", session.url(path))
    transport.body_of(answer, transport.SMALL)
    return answer.status != 412


def _tag_path(ref: Reference, digest: str) -> str:
    return distribution.manifest_path(ref.repository, distribution.referrers_tag(digest))


def _whole(answer: Answer) -> bytes:
    body = transport.body_of(answer, distribution.MAX_MANIFEST + 1)
    if len(body) > distribution.MAX_MANIFEST:
        raise errors.InvalidArgument(f"more than {distribution.MAX_MANIFEST} bytes came at once")
    return body


def _index(body: bytes) -> Index:
    return graph.index(Descriptor(media_type=OCI_INDEX, digest=digests.of(body), size=len(body)), body)
