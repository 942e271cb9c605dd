"""The rules of namespaces, images and containers: what may be made, changed and removed."""

import asyncio
from types import SimpleNamespace

import msgspec
import pytest
from msgspec.structs import replace

from daemon.events.exchange import Exchange
from daemon.kit import context
from daemon.metadata.store import Store
from daemon.metadata.tables import CONTENT
from daemon.scoped.images import ScopedImages
from daemon.services.containers import Containers
from daemon.services.images import Images
from daemon.services.namespaces import Namespaces
from spec import errors
from spec.api import containers, images, namespaces
from spec.events import ContainerCreate, ContainerDelete, ContainerUpdate
from spec.oci.image import Descriptor
from spec.records import Container, ContentInfo, Image, Namespace, RuntimeRef

TARGET = Descriptor(media_type="a/b", digest="sha256:" + "1" * 64, size=1, annotations={"x": "1"})
ONE, TWO = msgspec.Raw(b"\x01"), msgspec.Raw(b"\x02")
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
    house = SimpleNamespace(images=lambda namespace: ScopedImages(store, Exchange(), namespace))
    return Images(house, None, None)


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
        (
            {"labels": {"a": "9", "b": "9", "c": "3"}},
            ["labels.a", "labels.c"],
            {"labels": {"a": "9", "b": "2", "c": "3"}},
        ),
        ({"labels": {"x.y/z": "3"}}, ["labels.x.y/z"], {"labels": {"a": "1", "b": "2", "x.y/z": "3"}}),
        ({"labels": {}}, ["labels"], {"labels": {}, "target": TARGET}),
        ({"target": OTHER, "labels": {}}, ["target"], {"target": OTHER, "labels": {"a": "1", "b": "2"}}),
        (
            {"target": OTHER, "labels": {"c": "3"}},
            ["target", "labels.c"],
            {"target": OTHER, "labels": {"a": "1", "b": "2", "c": "3"}},
        ),
        ({"target": OTHER, "labels": {}}, [], {"target": OTHER, "labels": {}}),
        (
            {"target": replace(OTHER, annotations={"x": "2"})},
            ["annotations.x"],
            {"target": replace(TARGET, annotations={"x": "2"})},
        ),
        (
            {"target": replace(OTHER, annotations={"y": "2"})},
            ["annotations"],
            {"target": replace(TARGET, annotations={"y": "2"})},
        ),
        ({"target": replace(OTHER, annotations={})}, ["annotations.x"], {"target": replace(TARGET, annotations={})}),
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
        ({"target": replace(OTHER, size=0)}, [], errors.InvalidArgument),
        ({}, ["name"], errors.InvalidArgument),
        ({}, ["created_at_ns"], errors.InvalidArgument),
        ({}, ["target.size"], errors.InvalidArgument),
        ({"labels": {"a": "1"}}, ["labels.a", "nonsense"], errors.InvalidArgument),
        ({"labels": {"a": "1"}}, ["labels."], errors.InvalidArgument),
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
        ({"labels": {}}, ["labels"], {"labels": {}}),
        ({"labels": {"a": "9"}, "image": "ignored"}, ["labels"], {"labels": {"a": "9"}, "image": ""}),
        ({"snapshot_key": "k"}, ["snapshot_key"], {"snapshot_key": "k", "snapshotter": "overlayfs"}),
        ({"snapshot_key": ""}, [], {"snapshot_key": "", "snapshotter": "overlayfs"}),
        ({"extensions": {"x": ONE}}, ["extensions"], {"extensions": {"x": ONE}}),
        ({"extensions": {"x": ONE, "y": ONE}}, ["extensions.y"], {"extensions": {"e.x/t": TWO, "y": ONE}}),
        ({"extensions": {"e.x/t": ONE}}, ["extensions.e.x/t"], {"extensions": {"e.x/t": ONE}}),
        ({"extensions": {}}, ["extensions.e.x/t"], {"extensions": {}}),
        ({"extensions": {}, "labels": {}}, [], {"extensions": {}, "labels": {}}),
        ({"runtime": RuntimeRef(name="ignored")}, ["image"], {"runtime": RuntimeRef(name="runc")}),
    ],
)
def test_updating_a_container(container_service, given, fields, expected):
    record = made_container(container_service, snapshotter="overlayfs", snapshot_key="c", extensions={"e.x/t": TWO})
    request = containers.UpdateRequest(container=replace(record, **given), fields=fields)
    after = done(container_service.update(request))
    assert {name: getattr(after, name) for name in expected} == expected
    assert after.created_at_ns == record.created_at_ns
    assert after.updated_at_ns > record.updated_at_ns
    assert container_service.get(containers.GetRequest(id="c")) == after


@pytest.mark.parametrize(
    ("given", "fields", "error"),
    [
        ({"id": "d"}, [], errors.NotFound),
        ({"id": "d"}, ["labels"], errors.NotFound),
        ({"runtime": RuntimeRef(name="other")}, [], errors.InvalidArgument),
        ({"runtime": RuntimeRef(name="")}, [], errors.InvalidArgument),
        ({"runtime": RuntimeRef(name="other")}, ["runtime"], errors.InvalidArgument),
        ({"snapshotter": "other"}, [], errors.InvalidArgument),
        ({"snapshotter": "", "snapshot_key": ""}, [], errors.InvalidArgument),
        ({"snapshotter": "other", "snapshot_key": "other"}, ["snapshotter", "snapshot_key"], errors.InvalidArgument),
        ({"spec": b""}, ["spec"], errors.InvalidArgument),
        ({"spec": b""}, [], errors.InvalidArgument),
        ({}, ["id"], errors.InvalidArgument),
        ({}, ["created_at_ns"], errors.InvalidArgument),
        ({"labels": {"k": "v" * 5000}}, ["labels.k"], errors.InvalidArgument),
        ({"extensions": {"": ONE}}, ["extensions"], errors.InvalidArgument),
    ],
)
def test_updates_of_a_container_that_are_refused(container_service, given, fields, error):
    record = made_container(container_service, snapshotter="overlayfs", snapshot_key="c")
    with pytest.raises(error):
        done(container_service.update(containers.UpdateRequest(container=replace(record, **given), fields=fields)))
    assert container_service.get(containers.GetRequest(id="c")) == record


@pytest.mark.parametrize(
    "fields",
    [
        {"runtime": RuntimeRef(name="")},
        {"spec": b""},
        {"snapshot_key": "k"},
        {"labels": {"k": "v" * 5000}},
        {"labels": {"": "v"}},
        {"extensions": {"": ONE}},
        {"id": ""},
        {"id": "../c"},
        {"id": "c" * 77},
    ],
)
def test_containers_that_cannot_be_made(container_service, fields):
    with pytest.raises(errors.InvalidArgument):
        made_container(container_service, **fields)
    assert not container_service.list(containers.ListRequest()).containers


def test_a_container_twice_and_gone(container_service):
    record = made_container(container_service)
    with pytest.raises(errors.AlreadyExists, match="container c in namespace ns"):
        made_container(container_service, image="other")
    assert container_service.get(containers.GetRequest(id="c")) == record
    done(container_service.delete(containers.DeleteRequest(id="c")))
    for call in (container_service.get, lambda request: done(container_service.delete(request))):
        with pytest.raises(errors.NotFound, match="container c in namespace ns"):
            call(containers.DeleteRequest(id="c"))


def test_listing_containers_by_filters(container_service):
    for id, image, labels in (("a", "x", {"k": "1"}), ("b", "y", {"k": "2"}), ("c", "x", {})):
        made_container(container_service, id=id, image=image, labels=labels)

    def found(*filters):
        return [row.id for row in container_service.list(containers.ListRequest(filters=filters)).containers]

    async def streamed():
        return [
            row.id
            async for block in container_service.list_stream(containers.ListRequest(filters=["image==x"]))
            for row in block.containers
        ]

    assert found() == ["a", "b", "c"]
    assert found("labels.k") == ["a", "b"]
    assert found("image==x,labels.k==1", "id==b") == ["a", "b"]
    assert found("runtime.name==runc") == ["a", "b", "c"]
    assert found("runtime.name==other") == []
    assert done(streamed()) == ["a", "c"]
    with pytest.raises(errors.InvalidArgument):
        found("id==")


def test_containers_say_what_happens_to_them(store):
    events = []

    class Recorder:
        def publish(self, namespace, topic, event):
            events.append((namespace, topic, event))

    service = Containers(store, Recorder())
    record = made_container(service, image="i")
    update = containers.UpdateRequest(container=replace(record, labels={"a": "9"}), fields=["labels.a"])
    done(service.update(update))
    with pytest.raises(errors.AlreadyExists):
        made_container(service)
    done(service.delete(containers.DeleteRequest(id="c")))
    assert events == [
        ("ns", "/containers/create", ContainerCreate(id="c", image="i", runtime=RuntimeRef(name="runc"))),
        ("ns", "/containers/update", ContainerUpdate(id="c", image="i", labels={"a": "9", "b": "2"})),
        ("ns", "/containers/delete", ContainerDelete(id="c")),
    ]


def test_namespaces(store):
    service = Namespaces(store, Exchange(), lambda name: [])
    for name in ("b", "a"):
        done(service.create(namespaces.CreateRequest(namespace=Namespace(name=name, labels={"k": name, "l": "1"}))))
    with pytest.raises(errors.AlreadyExists, match="namespace a"):
        done(service.create(namespaces.CreateRequest(namespace=Namespace(name="a"))))
    for name in ("", "a/b", "-", "*", "n" * 77):
        with pytest.raises(errors.InvalidArgument):
            done(service.create(namespaces.CreateRequest(namespace=Namespace(name=name))))
    given = Namespace(name="a", labels={"k": "9"})
    assert done(service.update(namespaces.UpdateRequest(namespace=given, fields=["labels.k"]))).labels == {
        "k": "9",
        "l": "1",
    }
    assert done(service.update(namespaces.UpdateRequest(namespace=given))) == given
    assert service.get(namespaces.GetRequest(name="a")) == given
    found = service.list(namespaces.ListRequest(filters=["labels.k==b"])).namespaces
    assert [row.name for row in found] == ["b"]
    assert [row.name for row in service.list(namespaces.ListRequest()).namespaces] == ["a", "b"]
    with pytest.raises(errors.NotFound):
        done(service.update(namespaces.UpdateRequest(namespace=Namespace(name="c"))))


@pytest.mark.parametrize("kind", ["images", "containers", "content"])
def test_each_kind_of_record_keeps_a_namespace(store, image_service, container_service, kind):
    service = Namespaces(store, Exchange(), lambda name: [])
    for name in ("ns", "ns1"):
        done(service.create(namespaces.CreateRequest(namespace=Namespace(name=name))))
    if kind == "images":
        done(image_service.create(images.CreateRequest(image=Image(name="i", target=TARGET))))
    elif kind == "containers":
        made_container(container_service)
    else:
        info = ContentInfo(digest=TARGET.digest, size=1)
        store.update(lambda txn: CONTENT.create(txn, info, "ns", info.digest)).result()
    with pytest.raises(errors.FailedPrecondition, match=f"ns: it still has {kind}$"):
        done(service.delete(namespaces.DeleteRequest(name="ns")))
    assert service.get(namespaces.GetRequest(name="ns")).name == "ns"
    done(service.delete(namespaces.DeleteRequest(name="ns1")))


@pytest.mark.parametrize(
    ("fields", "fits"),
    [
        ({"id": "c" * 76}, True),
        ({"id": "c" * 77}, False),
        ({"labels": {"k": "v" * 4095}}, True),
        ({"labels": {"k": "v" * 4096}}, False),
        ({"labels": {"k" * 4096: ""}}, True),
        ({"labels": {"k" * 4097: ""}}, False),
        ({"labels": {"k": "é" * 2047}}, True),
        ({"labels": {"k": "é" * 2048}}, False),
        ({"labels": {f"k{number}": "v" * 4000 for number in range(500)}}, True),
    ],
)
def test_names_and_labels_at_their_limits(container_service, fields, fits):
    if fits:
        record = made_container(container_service, **fields)
        assert container_service.get(containers.GetRequest(id=record.id)) == record
        assert container_service.list(containers.ListRequest()).containers == [record]
        done(container_service.delete(containers.DeleteRequest(id=record.id)))
    else:
        with pytest.raises(errors.InvalidArgument) as caught:
            made_container(container_service, **fields)
        assert len(caught.value.message) < 300
    assert not container_service.list(containers.ListRequest()).containers


@pytest.mark.parametrize("name", ["n", "n" * 5000, "a/b:c@d", "é" * 400, " ", "a\nb"])
def test_images_of_any_name(image_service, name):
    others = [name + tail for tail in ("", "1", "2")]
    for other in others:
        done(image_service.create(images.CreateRequest(image=Image(name=other, target=TARGET))))

    async def streamed():
        blocks = [block async for block in image_service.list_stream(images.ListRequest())]
        return [image.name for block in blocks for image in block.images]

    assert sorted(done(streamed())) == sorted(others)
    done(image_service.delete(images.DeleteRequest(name=name)))
    assert sorted(done(streamed())) == sorted(others[1:])


@pytest.mark.parametrize("name", ["", "a\0b"])
def test_images_of_no_name(image_service, name):
    with pytest.raises(errors.InvalidArgument):
        done(image_service.create(images.CreateRequest(image=Image(name=name, target=TARGET))))
