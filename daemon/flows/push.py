"""Push: an image's content into a repository of a registry. Over ports only.

Blobs go side by side, then manifests, then the indexes that name them, the tag last: whoever sees the tag finds all of
the image. What the registry has already is not sent.
"""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

from daemon.flows import together
from daemon.flows.progress import Report
from daemon.flows.stored import document
from daemon.kit.cancel import Token
from spec import errors, names, platforms
from spec.oci import distribution, graph
from spec.oci.image import Descriptor
from spec.ports import ContentStore, ProgressSink, Pusher, Registries
from spec.records import ContentInfo
from spec.reference import Reference


@dataclass(frozen=True)
class Push:
    """One push of `target`, the image `name`, as `reference`.

    Of an index all goes, or with `matchers` the one manifest that the first of them to find something chooses; `wanted`
    names the platforms in errors. `pool` sends blobs. Layers that may not be redistributed go only with
    `non_distributable`. A push that fails closes its `registry`, so that nothing it began runs on.
    """

    name: str
    target: Descriptor
    reference: Reference
    registry: Registries
    content: ContentStore
    matchers: Sequence[platforms.Matcher]
    wanted: str
    pool: Executor
    sink: ProgressSink
    cancel: Token
    non_distributable: bool = False

    def run(self) -> Descriptor:
        """What the reference now names. Errors name it, and what was being done where."""
        with errors.during(f"pushing {self.name} to {self.reference}", str(self.reference)):
            return self._run()

    def _run(self) -> Descriptor:
        report = Report(self.sink, self.name)
        report.tell(f"Pushing to {self.reference}")
        target = self._chosen(self.target)
        pusher = self.registry.pusher(str(self.reference))
        found = list(graph.walk(target, self._below))
        report.tell("pushing content", target.digest)
        documents = [one for one in found if graph.opens(one.media_type)]
        self._blobs([one for one in found if not graph.opens(one.media_type)], pusher, report)
        # Parents come before their children in the walk, so backwards every child is there first.
        manifests = [one for one in reversed(documents) if graph.is_manifest(one.media_type)]
        indexes = [one for one in reversed(documents) if graph.is_index(one.media_type)]
        for one in (*manifests, *indexes):
            self.cancel.check()
            tag = self.reference.tag if one.digest == target.digest and not self.reference.digest else ""
            ref = f"{'index' if graph.is_index(one.media_type) else 'manifest'}-{one.digest}"
            new = pusher.manifest(one, document(self.content, one), tag)
            report.tell_part("complete" if new else "already exists", ref, one.size, one.size)
        report.tell("pushed content", target.digest)
        report.tell(f"Completed push to {self.reference}", target.digest)
        return target

    def _chosen(self, target: Descriptor) -> Descriptor:
        if not self.matchers or not graph.is_index(target.media_type):
            return target
        index = graph.index(target, document(self.content, target))
        for matcher in self.matchers:
            if best := graph.choose(index, matcher):
                return self._chosen(best[0])
        raise errors.NotFound(
            f"pushing {self.name}: it has nothing for {self.wanted};"
            f" it has {', '.join(graph.offered(index)) or 'nothing'}"
        )

    def _below(self, descriptor: Descriptor) -> Sequence[Descriptor]:
        """All that it names; for a manifest of another platform that is not here, a way out."""
        if not graph.opens(descriptor.media_type):
            return ()
        try:
            below = graph.children(descriptor, document(self.content, descriptor))
        except errors.NotFound as exc:
            raise errors.FailedPrecondition(
                f"pushing {self.name}: {descriptor.digest} is not here; pull all platforms, or push one of them"
            ) from exc
        return [one for one in below if self.non_distributable or graph.is_distributable(one.media_type)]

    def _blobs(self, blobs: Sequence[Descriptor], pusher: Pusher, report: Report) -> None:
        cancel = self.cancel.child()
        parts = [partial(self._blob, one, pusher, report, cancel) for one in blobs]
        together.run(self.pool, parts, cancel, self.registry.close, "push")

    def _blob(self, blob: Descriptor, pusher: Pusher, report: Report, cancel: Token) -> None:
        cancel.check()
        ref = f"{'config' if graph.is_config(blob.media_type) else 'layer'}-{blob.digest}"
        report.tell_part("waiting", ref, 0, blob.size)
        try:
            neighbours = self._sources(blob)
            reader = self.content.reader(blob.digest)
        except errors.NotFound:
            report.tell_part(self._absent(blob, pusher), ref, blob.size, blob.size)
            return
        with reader:
            how = pusher.blob(
                blob, reader, neighbours, lambda sent: report.tell_part("uploading", ref, sent, blob.size), cancel
            )
        value = distribution.sources(neighbours, self.reference.repository)
        label = self._label
        if value != neighbours and len(label) + len(value) <= names.MAX_LABEL:
            self.content.update(ContentInfo(digest=blob.digest, labels={label: value}), [f"labels.{label}"])
        report.tell_part(how, ref, blob.size, blob.size)

    def _absent(self, blob: Descriptor, pusher: Pusher) -> str:
        """One that is not here: the registry that the image is from has it."""
        how = pusher.borrow(blob, self._sources(self.target))
        if not how:
            raise errors.FailedPrecondition(
                f"pushing {self.name}: {blob.digest} is neither here nor at {self.reference.host};"
                " pull all platforms, or push one of them"
            )
        return how

    @property
    def _label(self) -> str:
        return f"{names.DISTRIBUTION_SOURCE}.{self.reference.host}"

    def _sources(self, descriptor: Descriptor) -> str:
        """The repositories there that had it. NotFound."""
        return self.content.info(descriptor.digest).labels.get(self._label, "")
