"""Images of one namespace: records with their rules and events."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future

from msgspec.structs import replace

from daemon.kit import context
from daemon.metadata.store import Commit, Store, Txn
from daemon.metadata.tables import IMAGES
from daemon.scoped.leases import attach
from spec import digest as digests
from spec import edges, errors, masks, names
from spec.base import Event
from spec.events import ImageCreate, ImageDelete, ImageUpdate
from spec.filters import fields_of, matcher
from spec.names import check_labels
from spec.oci.image import Descriptor
from spec.ports import Publisher, Tracker, Untracked
from spec.records import Image, Labels, Timing

MUTABLE = ("labels", "target", "target.annotations")
MAX_TIMING = 512  # phases kept with an image: four a layer of the deepest overlay takes


class ScopedImages:
    """Reads are inline; writes return a Commit, which threads wait for and coroutines await."""

    def __init__(
        self, store: Store, publisher: Publisher, namespace: str, tracker: Tracker = Untracked()
    ) -> None:
        self._store = store
        self._publisher = publisher
        self._namespace = namespace
        self._tracker = tracker

    def get(self, name: str) -> Image:
        with self._store.view() as view:
            return IMAGES.get(view, self._namespace, name)

    def list(self, filters: Sequence[str] = ()) -> Iterator[Image]:
        matches = matcher(filters, _FIELDS)
        found = filter(matches, IMAGES.each(self._store, self._namespace))
        return (replace(image, timing=()) if image.timing else image for image in found)

    def create(self, image: Image, epoch_ns: int = 0) -> Commit[Image]:
        now = epoch_ns or time.time_ns()
        return self._create(replace(image, created_at_ns=now, updated_at_ns=now, timing=()))

    def _create(self, image: Image) -> Commit[Image]:
        _check(image)
        lease = context.lease() if names.GC_EXPIRE in image.labels else ""

        def change(txn: Txn) -> Image:
            made = IMAGES.create(txn, image, self._namespace, image.name)
            attach(txn, self._namespace, lease, edges.IMAGE, image.name)
            self._touch(made)
            return made

        return self._commit(change, "create", lambda made: ImageCreate(name=made.name, labels=made.labels))

    def update(self, image: Image, fields: Sequence[str] = (), epoch_ns: int = 0) -> Commit[Image]:
        return self._update(image, fields, MUTABLE, epoch_ns)

    def _update(self, image: Image, fields: Sequence[str], mutable: Sequence[str], epoch_ns: int = 0) -> Commit[Image]:
        fields = [_on_target(field) for field in fields]
        check_labels(image.labels)

        def change(txn: Txn) -> Image:
            merged = masks.merge(IMAGES.get(txn, self._namespace, image.name), image, fields, mutable)
            _check(merged)
            self._touch(merged)
            return IMAGES.put(
                txn, replace(merged, updated_at_ns=epoch_ns or time.time_ns()), self._namespace, image.name
            )

        return self._commit(change, "update", lambda made: ImageUpdate(name=made.name, labels=made.labels))

    def delete(self, name: str, target: Descriptor | None = None) -> Commit[Image]:
        def change(txn: Txn) -> Image:
            image = IMAGES.get(txn, self._namespace, name)
            if target is not None and target.digest != image.target.digest:
                raise errors.NotFound(f"image {name} in namespace {self._namespace} is not {target.digest}")
            return IMAGES.delete(txn, self._namespace, name)

        commit = self._commit(change, "delete", lambda gone: ImageDelete(name=gone.name))
        commit.add_done_callback(lambda done: self._tracker.removed())
        return commit

    def put_image(self, name: str, target: Descriptor, labels: Labels, timing: Sequence[Timing] = ()) -> None:
        """Create the image, or point the one there is at `target`; its other labels stay."""
        now = time.time_ns()
        image = Image(
            name=name, target=target, labels=labels, created_at_ns=now, updated_at_ns=now, timing=timing[:MAX_TIMING]
        )
        try:
            self._create(image).result()
        except errors.AlreadyExists:
            fields = ["target", "timing", *(f"labels.{key}" for key in labels)]
            self._update(image, fields, (*MUTABLE, "timing")).result()

    def _touch(self, image: Image) -> None:
        self._tracker.touch(edges.touched(edges.of_image(self._namespace, image, 0)))

    def _commit(self, change: Callable[[Txn], Image], verb: str, event: Callable[[Image], Event]) -> Commit[Image]:
        """Its event, made of what was committed, is published once that is durable."""

        def publish(done: Future[Image]) -> None:
            if done.exception() is None:
                self._publisher.publish(self._namespace, f"/images/{verb}", event(done.result()))

        commit = self._store.update(change)
        commit.add_done_callback(publish)
        return commit


def _check(image: Image) -> None:
    if not image.name:
        raise errors.InvalidArgument("image name is empty")
    doing = f"image {image.name}"
    check_labels(image.labels)
    digests.check(image.target.digest)
    if image.target.size <= 0:
        raise errors.InvalidArgument(f"{doing}: the target's size must be above 0, not {image.target.size}")
    if not image.target.media_type:
        raise errors.InvalidArgument(f"{doing}: the target's media type is empty")


def _on_target(field: str) -> str:
    """Annotations are an image's in the API and its target's in the record."""
    return f"target.{field}" if field.split(".", 1)[0] == "annotations" else field


_FIELDS = fields_of(
    {
        "name": lambda image: image.name,
        "target.digest": lambda image: image.target.digest,
        "target.mediatype": lambda image: image.target.media_type,
        "labels": lambda image: image.labels,
        "annotations": lambda image: image.target.annotations,
    }
)
