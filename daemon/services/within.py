"""Journeys within the image store, as streams: another name, another form, or snapshots of what is here."""

import os
from collections.abc import AsyncGenerator

from daemon.flows.converting import Convert
from daemon.flows.stored import Unpacking
from daemon.kit import context
from daemon.kit.cancel import Token
from daemon.kit.threads import Pool
from daemon.scoped.images import ScopedImages
from daemon.services.house import Tools, matchers, wanted
from daemon.services.journey import journey
from spec.api import transfer as api
from spec.oci.image import Descriptor
from spec.ports import ProgressSink
from spec.records import Image
from spec.types import Progress


def change(tools: Tools, source: api.ImageStore, destination: api.ImageStore) -> AsyncGenerator[Progress, None]:
    """What `destination` says of it."""
    namespace = context.namespace()
    images = tools.house.images(namespace)
    target = images.get(source.name).target
    named = destination.name != source.name or destination.conversion is not None or not destination.unpacks

    def work(sink: ProgressSink, token: Token) -> None:
        if destination.conversion is None and not destination.unpacks:
            _tag(images, target, destination, sink)
            return
        with tools.house.leases(namespace).passing():
            found = target
            if destination.conversion is not None:
                found = _converted(tools, namespace, source.name, target, destination, sink, token)
            if named:
                _tag(images, found, destination, sink)
            if destination.unpacks:
                targets = [tools.target(namespace, unpack) for unpack in destination.unpacks]
                content = tools.house.content(namespace)
                Unpacking(destination.name, found, content, targets, sink, token).run()

    return journey(tools.journeys, work)


def _converted(
    tools: Tools,
    namespace: str,
    name: str,
    target: Descriptor,
    destination: api.ImageStore,
    sink: ProgressSink,
    token: Token,
) -> Descriptor:
    assert destination.conversion is not None
    content = tools.house.content(namespace)
    with Pool("convert", len(os.sched_getaffinity(0))) as pool:
        return Convert(
            name=name,
            target=target,
            content=content,
            converter=tools.house.converter(content),
            matchers=matchers(destination),
            wanted=" or ".join(wanted(destination)),
            compression=destination.conversion.compression,
            oci=destination.conversion.oci,
            pool=pool.executor,
            sink=sink,
            cancel=token,
        ).run()


def _tag(images: ScopedImages, target: Descriptor, destination: api.ImageStore, sink: ProgressSink) -> None:
    """One more name. AlreadyExists, unless it is forced to point elsewhere."""
    if destination.force:
        images.put_image(destination.name, target, destination.labels)
    else:
        images.create(Image(name=destination.name, target=target, labels=destination.labels)).result()
    sink(Progress(event="saved", name=destination.name, descriptor=target.digest))
