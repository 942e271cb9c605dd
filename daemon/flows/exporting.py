"""Export: images as one tar, an OCI layout with docker's manifest.json beside it. Over ports only.

The same images give the same bytes, whatever the order of their blobs and whenever it is: members are in order of name,
and bear no time and no owner. What is missing is known before a byte is written; a blob is hashed as it goes.
"""

import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from daemon.flows.outlet import Outlet
from daemon.flows.progress import Report
from daemon.flows.stored import document
from daemon.kit.cancel import Token
from spec import digest as digests
from spec import errors, platforms
from spec.base import to_json
from spec.oci import graph, layout
from spec.oci.image import OCI_INDEX, Descriptor, Index
from spec.ports import ContentStore, ProgressSink

CHUNK = 1 << 20
FILE_MODE, FOLDER_MODE = 0o444, 0o755


@dataclass(frozen=True)
class Export:
    """One archive of `images`, pairs of a name and its target, to `fd`, which stays the caller's.

    An index goes whole, and of its manifests those that `matchers` choose, each one's best (none: all); `wanted` names
    the platforms in errors. `saved` adds manifest.json, which docker reads; without `non_distributable` layers that may
    not be redistributed are left out.

    NotFound for what is not here, or has nothing for a platform; DataLoss for a blob that is not what its digest says,
    which has been written by then.
    """

    images: Sequence[tuple[str, Descriptor]]
    content: ContentStore
    matchers: Sequence[platforms.Matcher]
    wanted: str
    fd: int
    sink: ProgressSink
    cancel: Token
    saved: bool = True
    non_distributable: bool = True

    def run(self) -> None:
        outlet = Outlet(self.fd, f"exporting {self.images[0][0]}", self.cancel)
        documents, blobs = self._plan()
        for name in sorted({*documents, *blobs, *_folders([*documents, *blobs])}):
            if name in documents:
                _write(outlet, name, documents[name])
            elif name in blobs:
                self._copy(outlet, name, *blobs[name])
            else:
                outlet.write(_header(name, 0, tarfile.DIRTYPE, FOLDER_MODE))
        outlet.write(bytes(2 * tarfile.BLOCKSIZE))
        for name, target in self.images:
            Report(self.sink, name).tell("Completed export", target.digest)

    def _plan(self) -> tuple[dict[str, bytes], dict[str, tuple[Descriptor, Report]]]:
        """Documents and blobs, by their names in the archive; of each blob, whom it is told of."""
        blobs: dict[str, tuple[Descriptor, Report]] = {}
        docker: dict[str, tuple[Descriptor, list[str]]] = {}
        for name, target in self.images:
            report = Report(self.sink, name)
            report.tell("Exporting", target.digest)
            found = list(graph.walk(target, partial(self._below, name)))
            for one in found:
                self.cancel.check()
                self._check(name, one)
                blobs.setdefault(layout.blob(one.digest), (one, report))
            if main := self._main(target, found):
                docker.setdefault(main.digest, (main, []))[1].append(name)
        entries = [layout.naming(target, name) for name, target in self.images]
        index = Index(schema_version=2, media_type=OCI_INDEX, manifests=entries)
        mark = layout.Layout(image_layout_version=layout.VERSION)
        documents = {layout.MARK: to_json(mark), layout.INDEX: to_json(index)}
        saved = [entry for main, called in docker.values() if (entry := self._saved(main, called)) is not None]
        if self.saved and saved:
            documents[layout.SAVED] = to_json(saved)
        return documents, blobs

    def _below(self, name: str, descriptor: Descriptor) -> Sequence[Descriptor]:
        if graph.is_index(descriptor.media_type):
            return self._chosen(name, descriptor)
        if not graph.is_manifest(descriptor.media_type):
            return ()
        below = graph.children(descriptor, self._document(name, descriptor))
        return [one for one in below if self.non_distributable or graph.is_distributable(one.media_type)]

    def _chosen(self, name: str, descriptor: Descriptor) -> Sequence[Descriptor]:
        index = graph.index(descriptor, self._document(name, descriptor))
        if not self.matchers:
            return index.manifests
        return list(graph.select(index, self.matchers, self.wanted, f"exporting {name}").values())

    def _main(self, target: Descriptor, found: Sequence[Descriptor]) -> Descriptor | None:
        """The manifest that is the image for docker, which knows one an image: the best for the platforms, or the
        host."""
        here = {one.digest for one in found}
        matchers = self.matchers or [platforms.only(platforms.default())]
        one: Descriptor | None = target
        while one is not None and graph.is_index(one.media_type):
            index = graph.index(one, document(self.content, one))
            ranked = [*graph.choose(index, matchers[0]), *graph.choose(index, platforms.Every())]
            one = next((child for child in ranked if child.digest in here), None)
        return one if one is not None and graph.is_manifest(one.media_type) else None

    def _saved(self, manifest: Descriptor, called: Sequence[str]) -> layout.Saved | None:
        """None for what is no image."""
        body = graph.manifest(manifest, document(self.content, manifest))
        if not graph.is_config(body.config.media_type):
            return None
        return layout.Saved(
            config=layout.blob(body.config.digest),
            repo_tags=layout.repo_tags(called) or None,
            layers=[layout.blob(layer.digest) for layer in body.layers],
        )

    def _document(self, name: str, descriptor: Descriptor) -> bytes:
        self._check(name, descriptor)
        return document(self.content, descriptor)

    def _check(self, name: str, descriptor: Descriptor) -> None:
        try:
            size = self.content.info(descriptor.digest).size
        except errors.NotFound as exc:
            raise errors.NotFound(
                f"exporting {name}: {descriptor.digest} is not here; pull all platforms, or export one of them"
            ) from exc
        if size != descriptor.size:
            raise errors.DataLoss(f"exporting {name}: {descriptor.digest} has {size} bytes, not {descriptor.size}")

    def _copy(self, outlet: Outlet, name: str, blob: Descriptor, report: Report) -> None:
        algorithm, value = digests.split(blob.digest)
        running = digests.hasher(algorithm)
        written = 0
        outlet.write(_header(name, blob.size))
        with self.content.reader(blob.digest) as reader:
            while data := reader.read(min(CHUNK, blob.size - written)):
                running.update(data)
                outlet.write(data)
                written += len(data)
                report.tell_part("exporting", blob.digest, written, blob.size)
        if written != blob.size or running.hexdigest() != value:
            raise errors.DataLoss(f"exporting {blob.digest}: its bytes have another digest")
        outlet.write(_padding(written))
        report.tell_part("complete", blob.digest, blob.size, blob.size)


def _folders(names: Iterable[str]) -> set[str]:
    """All directories that the names lie in, each with a slash at its end."""
    return {name[: at + 1] for name in names for at, letter in enumerate(name) if letter == "/"}


def _write(outlet: Outlet, name: str, body: bytes) -> None:
    outlet.write(_header(name, len(body)) + body + _padding(len(body)))


def _header(name: str, size: int, kind: bytes = tarfile.REGTYPE, mode: int = FILE_MODE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.mode = size, kind, mode
    return info.tobuf(tarfile.PAX_FORMAT)


def _padding(size: int) -> bytes:
    return bytes(-size % tarfile.BLOCKSIZE)
