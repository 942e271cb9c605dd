"""Import: an archive's images, each by a pull from the archive. Over ports only."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from daemon.flows.progress import Report
from daemon.flows.pull import Pull
from daemon.flows.stored import has, keep
from daemon.kit import tracing
from spec import errors
from spec.oci import graph
from spec.oci.image import Descriptor
from spec.ports import ContentStore, ImageArchive, ImageStore, ProgressSink
from spec.records import Labels


@dataclass(frozen=True)
class Import:
    """Bring in what `archive` has. `pull(digest, name)` makes the pull of one image.

    `name` is one more name: of its only image, or of the index of all, which bears `labels`. `base_name` completes
    names that are but a tag, and leaves out images that have another whole name; "" is import-DATE. An image without a
    name is named by its digest; with `add_digest` each is, or with `skip_named_digest` still only those.

    InvalidArgument when there is none; NotFound when `base_name` leaves none.
    """

    archive: ImageArchive
    content: ContentStore
    images: ImageStore
    pull: Callable[[str, str], Pull]
    sink: ProgressSink
    name: str = ""
    base_name: str = ""
    add_digest: bool = False
    skip_named_digest: bool = False
    labels: Labels | None = None

    def run(self) -> None:
        found = self.archive.images()
        if not found:
            raise errors.InvalidArgument("importing: the archive has no image")
        chosen = [(name, target) for called, target in found for name in self._names(called, target)]
        only = len({target.digest for _, target in found}) == 1
        if self.name and only:
            chosen.append((self.name, found[0][1]))
        if not chosen:
            raise errors.NotFound(f"importing: the archive has no image of {self.base_name}")
        for name, target in {(name, target.digest): (name, target) for name, target in chosen}.values():
            self._bring(name, target)
        if self.name and not only:
            self._keep()

    def _bring(self, name: str, target: Descriptor) -> None:
        report = Report(self.sink, name)
        report.tell("Importing", target.digest)
        with tracing.timeline(), tracing.span("import", reference=name):
            self.pull(target.digest, name).bring(target, report)
        report.tell("Completed import", target.digest)

    def _keep(self) -> None:
        """The index itself, as an image: of what came of it."""
        index = self.archive.index
        report = Report(self.sink, self.name)
        report.tell("Importing", index.digest)
        body = _whole(self.archive, index)
        children = [child for child in graph.index(index, body).manifests if has(self.content, child)]
        keep(self.content, index, body, graph.child_labels(index, children))
        self.images.put_image(self.name, index, self.labels or {})
        report.tell("Completed import", index.digest)

    def _names(self, called: str, target: Descriptor) -> Sequence[str]:
        base = self.base_name or datetime.now(UTC).strftime("import-%Y-%m-%d")
        by_digest = f"{base}@{target.digest}"
        if not called:
            return [by_digest]
        if any(sign in called for sign in "/:@"):
            if self.base_name and not _is_of(called, self.base_name):
                return []
        else:
            called = f"{base}:{called}"
        return [called, by_digest] if self.add_digest and not self.skip_named_digest else [called]


def _is_of(name: str, base: str) -> bool:
    """Whether it is `base`, or that with a tag, a digest or a path behind it."""
    return name.startswith(base) and name[len(base) :][:1] in ("", "/", ":", "@")


def _whole(archive: ImageArchive, descriptor: Descriptor) -> bytes:
    source = archive.fetcher(descriptor.digest).fetch(descriptor)
    try:
        return source.read(descriptor.size)
    finally:
        source.close()
