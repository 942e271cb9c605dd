"""Journeys from archives and to them, as streams."""

from collections.abc import AsyncGenerator
from dataclasses import replace

from daemon.flows.exporting import Export
from daemon.flows.importing import Import
from daemon.flows.pull import Pull
from daemon.kit import context
from daemon.kit.cancel import Token
from daemon.services.house import Tools, matchers, wanted
from daemon.services.journey import journey
from spec import errors
from spec.api import transfer as api
from spec.ports import ProgressSink
from spec.types import Progress


def bring(tools: Tools, source: api.Archive, destination: api.ImageStore, fd: int) -> AsyncGenerator[Progress, None]:
    """The images of the one in the descriptor `fd`."""
    namespace = context.namespace()

    def work(sink: ProgressSink, token: Token) -> None:
        with (
            tools.house.leases(namespace).passing(),
            tools.house.archive(fd, token, source.force_compress) as archive,
        ):

            def pull(digest: str, name: str) -> Pull:
                made = tools.pull(namespace, digest, name, destination, archive, sink, token, {})
                return replace(made, sparse=True)

            Import(
                archive=archive,
                content=tools.house.content(namespace),
                images=tools.house.images(namespace),
                pull=pull,
                sink=sink,
                name=destination.name,
                base_name=source.base_name,
                add_digest=source.add_digest,
                skip_named_digest=source.skip_named_digest,
                labels=destination.labels,
            ).run()

    return journey(tools.journeys, work)


def write(tools: Tools, source: api.ImageStore, destination: api.Archive, fd: int) -> AsyncGenerator[Progress, None]:
    """Images, to the descriptor `fd`."""
    namespace = context.namespace()
    images = tools.house.images(namespace)
    given = dict.fromkeys(filter(None, (source.name, *source.extra_references)))
    found = [(name, images.get(name).target) for name in given]
    if not found:
        raise errors.InvalidArgument("exporting: no image is named")

    def work(sink: ProgressSink, token: Token) -> None:
        with tools.house.leases(namespace).passing():
            Export(
                images=found,
                content=tools.house.content(namespace),
                matchers=matchers(destination),
                wanted=" or ".join(wanted(destination)),
                fd=fd,
                sink=sink,
                cancel=token,
                saved=not destination.skip_compatibility_manifest,
                non_distributable=not destination.skip_non_distributable,
            ).run()

    return journey(tools.journeys, work)
