"""Transfers within the image store: one more name."""

import asyncio
import contextlib
import os
import threading
import time

import pytest

from daemon.events.exchange import Exchange
from daemon.flows.crew import Crew
from daemon.flows.exporting import Export
from daemon.kit import context
from daemon.kit.threads import Pool
from daemon.metadata.store import Store
from daemon.scoped.images import ScopedImages
from daemon.services.transfer import Transfer
from spec import errors
from spec.api.transfer import Archive, ImageStore, Registry, TransferRequest
from spec.oci.image import Descriptor
from spec.records import Image
from spec.types import Progress

ONE = Descriptor(media_type="a/b", digest="sha256:" + "1" * 64, size=1)
TWO = Descriptor(media_type="a/b", digest="sha256:" + "2" * 64, size=2)


class House:
    def __init__(self, store):
        self._store = store

    def images(self, namespace):
        return ScopedImages(self._store, Exchange(), namespace)

    def content(self, namespace):
        return None

    def leases(self, namespace):
        return self

    def passing(self):
        return contextlib.nullcontext()


@pytest.fixture
def images(tmp_path):
    store = Store(str(tmp_path), sync=False)
    made = ScopedImages(store, Exchange(), "ns")
    for name, target in (("one", ONE), ("two", TWO)):
        made.create(Image(name=name, target=target)).result()
    yield made
    store.close()


def transfer(images, source, destination, fds=()):
    async def main():
        service = Transfer(House(images._store), pool, pool, pool, Crew(pool.executor, 1))
        request = TransferRequest(source=source, destination=destination)
        return [progress async for progress in service.transfer(request, fds)]

    with context.using(namespace="ns"), Pool("journeys", 1) as pool:
        return asyncio.run(main())


def test_a_new_name(images):
    (told,) = transfer(images, ImageStore(name="one"), ImageStore(name="three", labels={"a": "b"}))
    assert (told.event, told.name, told.descriptor) == ("saved", "three", ONE.digest)
    assert images.get("three").target == ONE
    assert images.get("three").labels == {"a": "b"}


def test_a_name_that_is_taken_stays_unless_forced(images):
    with pytest.raises(errors.AlreadyExists):
        transfer(images, ImageStore(name="one"), ImageStore(name="two"))
    assert images.get("two").target == TWO
    transfer(images, ImageStore(name="one"), ImageStore(name="two", force=True))
    assert images.get("two").target == ONE


def test_a_source_that_is_not_there(images):
    with pytest.raises(errors.NotFound, match="nosuch"):
        transfer(images, ImageStore(name="nosuch"), ImageStore(name="three"))


def test_who_drops_a_transfer_has_ended_it(images, monkeypatch):
    """Nothing of the flow runs on once its stream is closed, and the descriptor is."""
    begun, ended = threading.Event(), []

    def run(flow):
        flow.sink(Progress(event="begun"))
        begun.set()
        while not flow.cancel.cancelled:
            time.sleep(0.001)
        ended.append(True)

    monkeypatch.setattr(Export, "run", run)
    read, write = os.pipe()

    async def main():
        service = Transfer(House(images._store), pool, pool, pool, Crew(pool.executor, 1))
        stream = service.transfer(TransferRequest(source=ImageStore(name="one"), destination=Archive()), [write])
        assert (await anext(stream)).event == "begun"
        await stream.aclose()
        assert ended == [True]

    with context.using(namespace="ns"), Pool("journeys", 1) as pool:
        asyncio.run(main())
    assert os.read(read, 1) == b""
    os.close(read)


def test_descriptors_are_counted(images):
    read, write = os.pipe()
    os.close(read)
    with pytest.raises(errors.InvalidArgument, match="tag: no descriptor"):
        transfer(images, ImageStore(name="one"), ImageStore(name="three"), [write])
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(write)
    with pytest.raises(errors.InvalidArgument, match="export: one descriptor"):
        transfer(images, ImageStore(name="one"), Archive())


def test_a_journey_that_is_not_offered(images):
    with pytest.raises(errors.Unimplemented, match="Registry to Registry"):
        transfer(images, Registry(reference="example.org/b:1"), Registry(reference="example.org/a:1"))
