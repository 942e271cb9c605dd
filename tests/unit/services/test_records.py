"""The rules of namespaces, images and containers: what may be made, changed and removed."""

import asyncio

import pytest
from msgspec.structs import replace

from daemon.events.exchange import Exchange
from daemon.kit import context
from daemon.metadata.store import Store
from daemon.scoped.images import ScopedImages
from daemon.services.containers import Containers
from daemon.services.images import Images
from daemon.services.namespaces import Namespaces
from spec import errors
from spec.api import containers, images, namespaces
from spec.oci.image import Descriptor
from spec.records import Container, Image, Namespace, RuntimeRef

TARGET = Descriptor(media_type="a/b", digest="sha256:" + "1" * 64, size=1, annotations={"x": "1"})
OTHER = Descriptor(media_type="a/b", digest="sha256:" + "2" * 64, size=2)


@pytest.fixture
def store(tmp_path):
    store = Store(str(tmp_path))
    yield store
    store.close()


@pytest.fixture(autouse=True)
def namespace():
    with context.using(namespace="ns"):
        yield


def done(work):
    async def main():
        return await work

    return asyncio.run(main())


@pytest.fixture
def image_service(store):
    return Images(lambda namespace: ScopedImages(store, Exchange(), namespace))


@pytest.fixture
def container_service(store):
    return Containers(store, Exchange())


def made_container(service, **fields):
    record = Container(id="c", runtime=RuntimeRef(name="runc"), spec=b"{}", labels={"a": "1", "b": "2"})
    return done(service.create(containers.CreateRequest(container=replace(record, **fields))))


def test_a_namespace_with_something_in_it_stays(store, image_service):
    held = []
    service = Namespaces(store, Exchange(), lambda name: held)
    done(service.create(namespaces.CreateRequest(namespace=Namespace(name="ns"))))
    done(image_service.create(images.CreateRequest(image=Image(name="i", target=TARGET))))
    held.append("snapshots (overlayfs)")
    with pytest.raises(errors.FailedPrecondition, match=r"ns: it still has images, snapshots \(overlayfs\)"):
        done(service.delete(namespaces.DeleteRequest(name="ns")))
    done(image_service.delete(images.DeleteRequest(name="i")))
    held.clear()
    done(service.delete(namespaces.DeleteRequest(name="ns")))
    with pytest.raises(errors.NotFound, match="namespace ns"):
        done(service.delete(namespaces.DeleteRequest(name="ns")))


def test_namespaces_are_worlds_apart(image_service):
    done(image_service.create(images.CreateRequest(image=Image(name="i", target=TARGET))))
    with context.using(namespace="other"):
        with pytest.raises(errors.NotFound):
            image_service.get(images.GetRequest(name="i"))
        assert not image_service.list(images.ListRequest()).images


@pytest.mark.parametrize(
    ("given", "fields", "expected"),
    [
        ({"labels": {"a": "9"}}, ["labels.a"], {"labels": {"a": "9", "b": "2"}}),
        ({"labels": {"a": ""}}, ["labels.a"], {"labels": {"b": "2"}}),
        ({"labels": {"c": "3"}}, ["labels"], {"labels": {"c": "3"}}),
        ({"target": OTHER}, ["target"], {"target": OTHER}),
        ({"target": OTHER, "labels": {}}, [], {"target": OTHER, "labels": {}}),
        (
            {"target": replace(OTHER, annotations={"x": "2"})},
            ["annotations.x"],
            {"target": replace(TARGET, annotations={"x": "2"})},
        ),
    ],
)
def test_updating_an_image(image_service, given, fields, expected):
    image = Image(name="i", target=TARGET, labels={"a": "1", "b": "2"})
    before = done(image_service.create(images.CreateRequest(image=image)))
    after = done(image_service.update(images.UpdateRequest(image=replace(image, **given), fields=fields)))
    assert {name: getattr(after, name) for name in expected} == expected
    assert after.created_at_ns == before.created_at_ns
    assert after.updated_at_ns >= before.updated_at_ns
    assert image_service.get(images.GetRequest(name="i")) == after


@pytest.mark.parametrize(
    ("given", "fields", "error"),
    [
        ({"name": "j"}, [], errors.NotFound),
        ({"target": replace(OTHER, size=0)}, ["target"], errors.InvalidArgument),
        ({"target": replace(OTHER, media_type="")}, ["target"], errors.InvalidArgument),
        ({"target": replace(OTHER, digest="x")}, ["target"], errors.InvalidArgument),
        ({}, ["name"], errors.InvalidArgument),
        ({}, ["created_at_ns"], errors.InvalidArgument),
        ({"labels": {"k": "v" * 5000}}, ["labels"], errors.InvalidArgument),
    ],
)
def test_updates_of_an_image_that_are_refused(image_service, given, fields, error):
    image = Image(name="i", target=TARGET)
    before = done(image_service.create(images.CreateRequest(image=image)))
    with pytest.raises(error):
        done(image_service.update(images.UpdateRequest(image=replace(image, **given), fields=fields)))
    assert image_service.get(images.GetRequest(name="i")) == before


def test_deleting_an_image_that_has_moved_on(image_service):
    done(image_service.create(images.CreateRequest(image=Image(name="i", target=TARGET))))
    with pytest.raises(errors.NotFound, match=OTHER.digest):
        done(image_service.delete(images.DeleteRequest(name="i", target=OTHER)))
    done(image_service.delete(images.DeleteRequest(name="i", target=TARGET)))


def test_listing_images_by_filters(image_service):
    for name, labels in (("a", {"k": "1"}), ("b", {"k": "2"}), ("c", {})):
        done(image_service.create(images.CreateRequest(image=Image(name=name, target=TARGET, labels=labels))))

    def found(*filters):
        return [image.name for image in image_service.list(images.ListRequest(filters=filters)).images]

    assert found() == ["a", "b", "c"]
    assert found("labels.k") == ["a", "b"]
    assert found("labels.k==2", "name==c") == ["b", "c"]
    assert found(f"target.digest=={TARGET.digest},name!=a") == ["b", "c"]
    assert found("annotations.x==1") == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("given", "fields", "expected"),
    [
        ({"spec": b'{"a":1}'}, ["spec"], {"spec": b'{"a":1}', "labels": {"a": "1", "b": "2"}}),
        ({"image": "new"}, ["image"], {"image": "new"}),
        ({"labels": {"a": "", "c": "3"}}, ["labels.a", "labels.c"], {"labels": {"b": "2", "c": "3"}}),
        ({"labels": {"c": "3"}, "image": "new"}, [], {"labels": {"c": "3"}, "image": "new", "spec": b"{}"}),
    ],
)
def test_updating_a_container(container_service, given, fields, expected):
    record = made_container(container_service)
    request = containers.UpdateRequest(container=replace(record, **given), fields=fields)
    after = done(container_service.update(request))
    assert {name: getattr(after, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("given", "fields", "error"),
    [
        ({"id": "d"}, [], errors.NotFound),
        ({"runtime": RuntimeRef(name="other")}, [], errors.InvalidArgument),
        ({"runtime": RuntimeRef(name="")}, [], errors.InvalidArgument),
        ({"runtime": RuntimeRef(name="other")}, ["runtime"], errors.InvalidArgument),
        ({"snapshotter": "other"}, [], errors.InvalidArgument),
        ({"spec": b""}, ["spec"], errors.InvalidArgument),
        ({}, ["id"], errors.InvalidArgument),
    ],
)
def test_updates_of_a_container_that_are_refused(container_service, given, fields, error):
    record = made_container(container_service, snapshotter="overlayfs", snapshot_key="c")
    with pytest.raises(error):
        done(container_service.update(containers.UpdateRequest(container=replace(record, **given), fields=fields)))
    assert container_service.get(containers.GetRequest(id="c")) == record


@pytest.mark.parametrize(
    "fields",
    [{"runtime": RuntimeRef(name="")}, {"spec": b""}, {"snapshot_key": "k"}, {"labels": {"k": "v" * 5000}}, {"id": ""}],
)
def test_containers_that_cannot_be_made(container_service, fields):
    with pytest.raises(errors.InvalidArgument):
        made_container(container_service, **fields)
    assert not container_service.list(containers.ListRequest()).containers
