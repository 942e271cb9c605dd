"""Manifests and configs of an index's other platforms, without their layers: with them it can be pushed again to where
the layers are. Over ports only."""

from collections.abc import Sequence
from functools import partial

from daemon.flows import together
from daemon.flows.fetch import Fetch
from spec import errors
from spec.oci import graph
from spec.oci.image import Descriptor
from spec.ports import Resolver

LIMIT = 256  # documents of one image; what is beyond them is left out


def bring(target: Descriptor, fetch: Fetch, resolver: Resolver) -> None:
    """Have what there is of them. A registry need not have every platform that an index names, and what cannot be
    understood is of no use to this host either: both are passed over. Any other failure closes `resolver`."""
    seen = {target.digest}
    wave = [target]
    while wave:
        below = {child.digest: child for parent in wave for child in _documents(parent, fetch)}
        fresh = [child for child in below.values() if child.digest not in seen][: LIMIT - len(seen)]
        seen.update(child.digest for child in fresh)
        parts = [partial(_bring, child, fetch) for child in fresh]
        came = together.run(fetch.pool, parts, fetch.cancel, resolver.close, "pull")
        wave = [child for child, is_here in zip(fresh, came, strict=True) if is_here and graph.opens(child.media_type)]


def _documents(parent: Descriptor, fetch: Fetch) -> Sequence[Descriptor]:
    """What is small of what it points at: all that an index does, or a manifest's config."""
    try:
        below = graph.children(parent, fetch.document(parent))
    except errors.InvalidArgument:
        return ()
    if graph.is_index(parent.media_type):
        return [child for child in below if graph.opens(child.media_type)]
    fetch.label(parent, graph.child_labels(parent, below))
    return [child for child in below[:1] if graph.is_config(child.media_type)]


def _bring(descriptor: Descriptor, fetch: Fetch) -> bool:
    if descriptor.size > graph.MAX_DOCUMENT:
        return False
    try:
        fetch.blob(descriptor)
    except errors.NotFound:
        return False
    return True
