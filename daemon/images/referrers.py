"""What refers to a manifest by its `subject` (OCI distribution spec v1.1, listing referrers): signatures, SBOMs and the
like. A registry that has no such API has a tag for it instead (referrers tag schema)."""

import itertools
import re
from collections.abc import Iterator, Sequence
from urllib.parse import urljoin

from daemon.images import transport
from daemon.images.session import Session
from spec import digest as digests
from spec import errors
from spec.oci import distribution, graph
from spec.oci.image import OCI_INDEX, Descriptor
from spec.reference import Reference

MAX_PAGES = 64
WITHOUT = frozenset({404, 405})  # of the API
ACCEPT = {"Accept": OCI_INDEX}
_NEXT = re.compile(r'<([^<>\s]{1,4096})>\s*;[^,]*\brel="?next"?', re.ASCII)


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
        path = distribution.manifest_path(ref.repository, distribution.referrers_tag(digest))
        answer, url = session.request("GET", path, scope, ACCEPT), session.url(path)
        if answer.status == 404:
            transport.body_of(answer, 1)
            return
    for page in itertools.count(1):
        if answer.status != 200:
            raise transport.status_error(answer, "GET", url)
        more = _NEXT.search(answer.headers.get("Link", ""))
        body = transport.body_of(answer, distribution.MAX_MANIFEST + 1)
        if len(body) > distribution.MAX_MANIFEST:
            raise errors.InvalidArgument(f"more than {distribution.MAX_MANIFEST} bytes came at once")
        found = graph.index(Descriptor(media_type=OCI_INDEX, digest=digests.of(body), size=len(body)), body)
        yield [one for one in found.manifests if not artifact_types or one.artifact_type in artifact_types]
        if more is None:
            return
        if page == MAX_PAGES:
            raise errors.ResourceExhausted(f"they are more than {MAX_PAGES} pages")
        url = urljoin(url, more[1])
        answer = session.send("GET", url, scope, ACCEPT, None)
