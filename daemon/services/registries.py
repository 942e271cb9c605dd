"""Journeys from registries and to them, as streams."""

from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from functools import partial

from daemon.flows.push import Push
from daemon.flows.raw import Raw
from daemon.kit import context
from daemon.kit.cancel import Token
from daemon.kit.threads import Pool, hop
from daemon.services.house import Tools
from daemon.services.journey import journey
from spec import errors, names, platforms, reference
from spec.api import transfer as api
from spec.ports import ProgressSink
from spec.types import Progress


async def pull(tools: Tools, source: api.Registry, destination: api.ImageStore) -> AsyncGenerator[Progress, None]:
    """An image, and the snapshots that are asked for."""
    namespace = context.namespace()
    if destination.unpacks and destination.metadata_only:
        raise errors.InvalidArgument(f"pulling {source.reference}: without its layers nothing can be unpacked")
    resolver = await hop(tools.journeys, tools.house.resolver, source)

    def work(sink: ProgressSink, token: Token) -> None:
        with ExitStack() as stack:
            stack.callback(resolver.close)
            resolver.watch(partial(_tell, sink))
            parsed = reference.parse(source.reference)
            origin = {f"{names.DISTRIBUTION_SOURCE}.{parsed.host}": parsed.repository}
            name = destination.name or source.reference
            stack.enter_context(tools.house.leases(namespace).passing())
            downloads = stack.enter_context(_bounded(tools.downloads, source.concurrency))
            pull = tools.pull(namespace, str(parsed), name, destination, resolver, sink, token, origin)
            replace(pull, verifiers=tools.house.verifiers(), pool=downloads.executor).run()

    # Closing the resolver wakes whoever waits for a registry.
    return journey(tools.journeys, work, resolver.close)


async def push(tools: Tools, source: api.ImageStore, destination: api.Registry) -> AsyncGenerator[Progress, None]:
    """An image, or what `source.target` says."""
    namespace = context.namespace()
    target = source.target or tools.house.images(namespace).get(source.name).target
    registry = await hop(tools.journeys, tools.house.resolver, destination)

    def work(sink: ProgressSink, token: Token) -> None:
        with ExitStack() as stack:
            stack.callback(registry.close)
            registry.watch(partial(_tell, sink))
            stack.enter_context(tools.house.leases(namespace).passing())
            uploads = stack.enter_context(_bounded(tools.uploads, destination.concurrency))
            Push(
                name=source.name or target.digest,
                target=target,
                reference=reference.parse(destination.reference),
                registry=registry,
                content=tools.house.content(namespace),
                matchers=[platforms.only(platforms.parse(text)) for text in source.platforms],
                wanted=" or ".join(source.platforms),
                pool=uploads.executor,
                sink=sink,
                cancel=token,
                non_distributable=source.non_distributable,
            ).run()

    return journey(tools.journeys, work, registry.close)


async def fetch(
    tools: Tools, source: api.Registry, destination: api.Raw, fd: int
) -> AsyncGenerator[Progress, None]:
    """One object, to the descriptor `fd`."""
    ref = str(reference.parse(source.reference))
    resolver = await hop(tools.journeys, tools.house.resolver, source)

    def work(sink: ProgressSink, token: Token) -> None:
        resolver.watch(partial(_tell, sink))
        try:
            Raw(ref, resolver, fd, token, destination.digest, destination.media_type).run()
        finally:
            resolver.close()

    return journey(tools.journeys, work, resolver.close)


def _bounded(pool: Pool, size: int) -> AbstractContextManager[Pool]:
    """`pool`, or a smaller one of `size` threads (0: as many as there are)."""
    return Pool(pool.name, size) if 0 < size < pool.size else nullcontext(pool)


def _tell(sink: ProgressSink, text: str) -> None:
    """What goes over HTTP."""
    sink(Progress(event=api.HTTP, name=text))
