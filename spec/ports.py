"""The seams of the house: what each island offers to whoever is handed it.

Islands never import each other; `daemon.assembly` hands them these. Every implementation, proxy and fake passes the one
conformance suite of its port in `tests/contract/`. All raise classes of `spec.errors`.

Colours: everything here is blocking and may be called from any thread, except `Runtime` and `Task`, whose coroutines
run on the daemon's loop.

Words: the `key` of a snapshot names an active one or a view, its `name` a committed one; `ref` names an ingest or an
image reference; `digest` is `alg:hex`.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol, TypeVar

from spec.base import Event
from spec.edges import Node, Resource
from spec.metrics import Figures
from spec.oci.image import Descriptor
from spec.records import (
    CheckpointOptions,
    ContentInfo,
    Exit,
    IngestStatus,
    Labels,
    Process,
    RuntimeInfo,
    RuntimeRef,
    SnapshotInfo,
    Timing,
)
from spec.types import Mount, Progress, Stdio, Usage

T = TypeVar("T")


class Cancel(Protocol):
    """A cancellation token, checked between chunks of work."""

    def check(self) -> None:
        """Raise Canceled or DeadlineExceeded when the work is no longer wanted."""


class Source(Protocol):
    """A stream of bytes. One that has `readinto(buffer) -> int` as well is read without a copy."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; empty at the end."""

    def close(self) -> None: ...


# Content: bytes by digest.


class BlobReader(Protocol):
    """One blob, open. A context manager; `read` advances, `pread` does not."""

    size: int

    def read(self, size: int = -1, /) -> bytes: ...

    def pread(self, size: int, offset: int, /) -> bytes: ...

    def fileno(self) -> int:
        """A descriptor of the blob's file, good for `pread` and `copy_file_range`; Unimplemented without one."""

    def close(self) -> None: ...

    def __enter__(self) -> "BlobReader": ...

    def __exit__(self, *exc: object) -> None: ...


class Tail(Protocol):
    """A look at what an ingest holds, while it grows and after it has become a blob."""

    def preadinto(self, buffer: memoryview, offset: int, /) -> int:
        """How many bytes from `offset` on are in `buffer` now, of those written; 0 where there are none yet. From any
        thread."""

    def close(self) -> None: ...


class BlobWriter(Protocol):
    """One ingest, open. Closing keeps what was written, and `writer` with the same ref resumes it."""

    def write(self, data: bytes | bytearray | memoryview, /) -> int: ...

    def status(self) -> IngestStatus: ...

    def digest(self) -> str:
        """Digest of what has been written so far."""

    def truncate(self) -> None:
        """Start again at offset 0."""

    def tail(self) -> Tail:
        """Its bytes for another to read meanwhile; it outlives the writer. Unimplemented where they cannot be read."""

    def commit(self, size: int = 0, expected: str = "", labels: Labels | None = None) -> str:
        """Verify, make the blob durable and visible, and return its digest.

        `size` 0 and `expected` "" are not checked. FailedPrecondition on a mismatch, and the ingest is kept;
        AlreadyExists when the blob is there, and the ingest is gone.
        """

    def close(self) -> None: ...

    def __enter__(self) -> "BlobWriter": ...

    def __exit__(self, *exc: object) -> None: ...


class ContentStore(Protocol):
    """Blobs and ingests. A digest that is malformed is InvalidArgument everywhere."""

    def info(self, digest: str) -> ContentInfo:
        """NotFound when it is not there."""

    def update(self, info: ContentInfo, fields: Sequence[str] = ()) -> ContentInfo:
        """Change labels; see `spec.masks`. A raw store that keeps no labels is Unimplemented."""

    def list(self, filters: Sequence[str] = ()) -> Iterator[ContentInfo]:
        """All that match one of the filters (`spec.filters`; fields digest, labels.*); every one with none."""

    def delete(self, digest: str) -> None:
        """NotFound when it is not there."""

    def reader(self, digest: str) -> BlobReader:
        """NotFound when it is not there."""

    def writer(self, ref: str, total: int = 0, expected: str = "") -> BlobWriter:
        """Open or resume the ingest `ref`.

        AlreadyExists when `expected` is given and stored; Unavailable when another writer has `ref` open. A `total`
        that differs from the one first announced starts the ingest again.
        """

    def status(self, ref: str) -> IngestStatus:
        """NotFound when there is no such ingest."""

    def statuses(self, filters: Sequence[str] = ()) -> Sequence[IngestStatus]:
        """Ingests that match (field ref)."""

    def abort(self, ref: str) -> None:
        """Drop the ingest and its bytes; NotFound when there is none."""


# Snapshots: trees by key.


class Snapshotter(Protocol):
    """Copy-on-write trees. Hands out mounts and never mounts.

    Life: `prepare(key, parent)` makes an active snapshot that can be written through its mounts; `commit(name, key)`
    turns it into a committed one that others can build on; `view` makes a read-only one; `remove` ends any of them that
    has no children. Keys and names share one space.
    """

    @property
    def capabilities(self) -> frozenset[str]:
        """Of "rebase" (see `commit`), "remap-ids" (mounts show owners through the maps that a snapshot's labels name)
        and "only-remap-ids" (nobody shall change owners one by one instead)."""

    def prepare(self, key: str, parent: str = "", labels: Labels | None = None) -> Sequence[Mount]:
        """AlreadyExists for `key`; NotFound for `parent`, InvalidArgument when it is not committed."""

    def view(self, key: str, parent: str = "", labels: Labels | None = None) -> Sequence[Mount]:
        """As `prepare`, read-only."""

    def mounts(self, key: str) -> Sequence[Mount]:
        """NotFound; FailedPrecondition when `key` is committed."""

    def commit(
        self, name: str, key: str, labels: Labels | None = None, usage: Usage | None = None, parent: str = ""
    ) -> None:
        """NotFound for `key`, FailedPrecondition when not active; AlreadyExists for `name`.

        It takes no longer for a larger tree: `usage`, when the caller counted it while writing, is kept; else the tree
        is walked when `usage` is first asked for. `parent` puts what was prepared
        without one on top of it (rebases it): NotFound, FailedPrecondition when it is not committed; InvalidArgument
        when `key` has another already; Unimplemented without the capability. The root directory takes the parent's
        owner and mode, unless it was given others than it was prepared with.
        """

    def remove(self, key: str) -> None:
        """NotFound; FailedPrecondition while it has children. Disk space may be given back later."""

    def stat(self, key: str) -> SnapshotInfo:
        """NotFound."""

    def update(self, info: SnapshotInfo, fields: Sequence[str] = ()) -> SnapshotInfo:
        """Change labels; see `spec.masks`."""

    def usage(self, key: str) -> Usage:
        """Of this snapshot without its parents."""

    def list(self, filters: Sequence[str] = ()) -> Iterator[SnapshotInfo]:
        """All that match (fields kind, name, parent, labels.*; kind is view, active or committed)."""

    def cleanup(self) -> None:
        """Give back disk space of what was removed; remove what belongs to no snapshot."""

    def close(self) -> None: ...


class KVTxn(Protocol):
    """One transaction of a KV; only good within the call that was handed it."""

    def get(self, key: bytes) -> bytes | None: ...

    def put(self, key: bytes, value: bytes) -> None: ...

    def delete(self, key: bytes) -> bool:
        """Whether it was there."""

    def items(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """In order of key. Writing while iterating is not allowed."""


class KV(Protocol):
    """An ordered map from bytes to bytes, where a snapshotter keeps its own truth."""

    def view(self) -> AbstractContextManager[KVTxn]:
        """A consistent read."""

    def update(self, change: Callable[[KVTxn], T]) -> T:
        """Run `change`; when it returns all of its writes are durable, when it raises none was made. It may be run
        more than once, so it must do nothing but read and write the transaction."""


# Diff: layers and trees.


class Applier(Protocol):
    """Unpacks layers into what mounts show, or straight into an overlay's upper directory.

    Mounts that are one overlay with an `upperdir` are not mounted: what the layer hides is written there in overlay's
    own form. With `lowerdir` the layers below are known. With `upperdir` alone the layer is unpacked apart from them,
    into a directory that must be empty, so that all layers of an image can be unpacked at once: what it leaves to those
    below is `implied`, and `settle` makes up for it. The lowest layer has nothing below, and so needs none of this.
    """

    def apply(self, layer: Descriptor, mounts: Sequence[Mount], cancel: Cancel | None = None) -> "Applied":
        """Apply the layer blob to what the mounts show.

        Unimplemented for a media type no processor takes; InvalidArgument for a hostile or malformed archive;
        DataLoss for a truncated one; ResourceExhausted for one beyond the bounds. FailedPrecondition, "needs the layers
        below", for one that cannot be unpacked apart from them: the caller empties the snapshot, and applies it on top
        of its parent.
        """

    def apply_stream(
        self, source: Source, layer: Descriptor, mounts: Sequence[Mount], cancel: Cancel | None = None
    ) -> "Applied":
        """As `apply`, of bytes from anywhere: they may still be arriving. Unimplemented, before any of them is read,
        by who takes blobs alone, too."""

    def settle(self, applied: "Applied", mounts: Sequence[Mount]) -> bool:
        """Give each implied directory the owner, mode, times and attributes of the one below, which `mounts` show.

        False when the layer means something else on top of these: it must be applied anew, as after "needs the layers
        below". True at once when nothing was implied.
        """

    def sync(self, mounts: Sequence[Mount]) -> None:
        """Make durable what was applied through the mounts, and perhaps all else on their filesystem (syncfs(2))."""


class Applied(Protocol):
    """What was applied: `descriptor` of the plain stream (its digest is the diff id), `usage` of what it made.

    `implied` are the directories, relative to the root, whose meaning depends on what is below: those that the layer
    has no entries of, and those that it hides something in.
    """

    descriptor: Descriptor
    usage: Usage
    implied: Sequence[bytes]


class Comparer(Protocol):
    def compare(
        self,
        lower: Sequence[Mount],
        upper: Sequence[Mount],
        media_type: str = "",
        ref: str = "",
        labels: Labels | None = None,
        source_date_epoch_s: int | None = None,
        cancel: Cancel | None = None,
    ) -> Descriptor:
        """Write what `upper` has other than `lower` as a layer blob; all of it when `lower` is empty.

        `media_type` is an OCI layer's, "" for gzip: Unimplemented for others. `ref` is the ingest to write to, from its
        start, "" for one of its own that is gone when it fails. The blob gets `labels`, and its diff id as one more; if
        it is there already, that is fine. No time in it is later than `source_date_epoch_s`, in seconds.

        FailedPrecondition for a tree that no layer can hold; Aborted when it changes while it is read.
        """


class LayerConverter(Protocol):
    """Layers in other compressions: gzip, zstd, "" for none."""

    def compression(self, layer: Descriptor) -> str:
        """By its first bytes: for one whose media type does not say."""

    def convert(self, layer: Descriptor, wanted: str, diff_id: str, cancel: Cancel) -> Descriptor:
        """Digest and size of the blob that it becomes, which is labelled with its diff id; it may be there already.

        FailedPrecondition when it is not `diff_id`; NotFound when it is not here.
        """


class Differ(Applier, Comparer, Protocol):
    """Both directions."""


class StreamProcessor(Protocol):
    """One step from a layer's bytes towards a plain tar: takes media types `accepts`, gives `returns`."""

    @property
    def accepts(self) -> Sequence[str]: ...

    @property
    def returns(self) -> str: ...

    def open(self, source: Source, media_type: str, cancel: Cancel | None = None) -> Source:
        """`source` as `returns`, to be closed when it is no longer read; `source` itself stays the caller's."""


# Distribution.


class Fetcher(Protocol):
    def fetch(self, descriptor: Descriptor, offset: int = 0) -> Source:
        """The blob's bytes from `offset` on; not verified."""

    def sender(self, digest: str) -> str:
        """The host that what came of it last is from; "" when none is."""


class Resolver(Protocol):
    def resolve(self, ref: str) -> Descriptor:
        """NotFound; Unauthenticated; Unavailable when no host answers."""

    def fetcher(self, ref: str) -> Fetcher: ...

    def close(self) -> None: ...


class ImageArchive(Resolver, Protocol):
    """Images in one file or directory, by digest. A context manager."""

    @property
    def index(self) -> Descriptor:
        """All of them as one."""

    def images(self) -> Sequence[tuple[str, Descriptor]]:
        """What the archive calls each (a whole name, a tag, or nothing), and its target."""

    def __enter__(self) -> "ImageArchive": ...

    def __exit__(self, *exc: object) -> None: ...


class Pusher(Protocol):
    """One repository of a registry."""

    def blob(
        self,
        descriptor: Descriptor,
        reader: BlobReader,
        neighbours: str = "",
        told: Callable[[int], None] = ...,
        cancel: Cancel | None = None,
    ) -> str:
        """Have a blob there; what it took: "already exists", "mounted" (from one of the repositories `neighbours`,
        between commas) or "complete". `told` hears how many bytes were sent. FailedPrecondition when `reader` has
        another size."""

    def borrow(self, descriptor: Descriptor, neighbours: str = "") -> str:
        """Have a blob there that is not here: "already exists" or "mounted" as `blob` says, "" when neither can be."""

    def manifest(self, descriptor: Descriptor, body: bytes, tag: str = "") -> bool:
        """Have a manifest or an index there, by its digest or as `tag`: whether it was not so yet. All that it names
        must be there."""


class Registries(Resolver, Protocol):
    """A Resolver that can be pushed to, and asked what refers to what."""

    def referrers(self, ref: str, digest: str, artifact_types: Sequence[str] = ()) -> Sequence[Descriptor]:
        """Manifests in the repository of `ref` whose subject is `digest`, of these types (none: all). None at all is no
        error, nor whether there is such a manifest."""

    def pusher(self, ref: str) -> Pusher: ...

    def watch(self, told: Callable[[str], None]) -> None:
        """From now on `told` hears what goes over HTTP, as far as that was asked for; from any thread."""


class ImageVerifier(Protocol):
    def verify(self, name: str, target: Descriptor, cancel: Cancel | None = None) -> None:
        """PermissionDenied, with the reason, when the image may not be used; FailedPrecondition without a verdict."""


class ImageStore(Protocol):
    """Records of images in one namespace; what a flow needs of it."""

    def put_image(self, name: str, target: Descriptor, labels: Labels, timing: Sequence[Timing] = ()) -> None:
        """Create it, or point it at `target`. `timing` is how that came here."""


ProgressSink = Callable[[Progress], None]


# Execution.


class Measured(Protocol):
    """What has figures of its own; `runtime` is the name of what runs it."""

    @property
    def namespace(self) -> str: ...

    @property
    def id(self) -> str: ...

    @property
    def runtime(self) -> str: ...

    def cgroups(self) -> dict[str, str]:
        """The directories of its cgroups by controller, that of version 2 as "unified"; none that the daemon is in too.
        Reads files; from any thread."""


class Task(Measured, Protocol):
    """A container's running half: its init process and those exec'd into it."""

    @property
    def bundle(self) -> str: ...

    def process(self, exec_id: str = "") -> Process:
        """Status of one process, from memory: never waits. NotFound."""

    def timing(self) -> Sequence[Timing]:
        """The phases of its creation and its start."""

    async def start(self, exec_id: str = "") -> int:
        """Start what was created; its pid. FailedPrecondition when it was started already."""

    async def kill(self, signal: int, exec_id: str = "", all_processes: bool = False) -> None:
        """NotFound when the process is gone; FailedPrecondition when it was never started."""

    async def exec(self, exec_id: str, spec: bytes, stdio: Stdio, fds: Sequence[int] = ()) -> None:
        """Add a process (OCI `process` as JSON) that `start` will start. AlreadyExists. Steals `fds`."""

    async def wait(self, exec_id: str = "") -> Exit:
        """When the process has ended. NotFound."""

    async def pids(self) -> dict[int, str]:
        """Host pids of all its processes, in order, with the exec id of those that were exec'd by us (else empty)."""

    async def pause(self) -> None: ...

    async def resume(self) -> None: ...

    async def update(self, resources: bytes) -> None:
        """Other limits (OCI `linux.resources` as JSON). FailedPrecondition when it is not running."""

    async def checkpoint(self, options: CheckpointOptions) -> None:
        """Write its processes' state to the directory `options.image_path`. FailedPrecondition when it is not running;
        Unknown, with CRIU's words, when that fails."""

    async def close_io(self, exec_id: str = "") -> None:
        """End stdin, where that is a FIFO that is held open for its writers: the process sees the end when the last of
        them has gone. Nothing where there is none."""

    async def resize(self, exec_id: str, width: int, height: int) -> None: ...

    async def console(self, exec_id: str = "") -> int:
        """A duplicate of the pty master; FailedPrecondition without a terminal. The caller owns it."""

    async def delete_process(self, exec_id: str) -> Exit:
        """Forget an exec'd process that is not running."""


class Checkpoint(NamedTuple):
    """The state of a container's processes: a tar of CRIU's images, by its digest, and a descriptor to read it from."""

    digest: str
    fd: int


class Runtime(Protocol):
    """Makes tasks, finds them again after a restart, and ends them."""

    async def create(
        self,
        namespace: str,
        id: str,
        spec: bytes,
        rootfs: Sequence[Mount],
        stdio: Stdio,
        runtime: RuntimeRef,
        fds: Sequence[int] = (),
        checkpoint: Checkpoint | None = None,
    ) -> Task:
        """A task whose init process waits to be started, or to be restored from a `checkpoint`: then it has no pid
        before. AlreadyExists. Steals descriptors; leaves nothing when it fails."""

    def get(self, namespace: str, id: str) -> Task:
        """NotFound."""

    def tasks(self, namespace: str = "") -> list[Task]:
        """Those of one namespace, or all."""

    async def delete(self, namespace: str, id: str) -> Exit:
        """End a task that is not running: FailedPrecondition when it is. NotFound."""

    async def info(self, namespace: str, runtime: RuntimeRef) -> RuntimeInfo:
        """What the runtime tells of itself, and what is known against it. NotFound; why it does not tell."""


class Meters(Protocol):
    """Figures of containers, by their cgroups."""

    def figures(self, key: Hashable, directories: Callable[[], Mapping[str, str]]) -> Figures:
        """Of the container `key`, now. `directories` says where its cgroups are (`Task.cgroups`); it is asked when that
        is not known. NotFound when there is none; OSError when they have just gone."""

    def keep(self, keys: Iterable[Hashable]) -> None:
        """Let go of all others."""


# Around them.


class Publisher(Protocol):
    def publish(self, namespace: str, topic: str, event: Event) -> None:
        """Never blocks. From any thread."""


class Tracker(Protocol):
    """Told by whoever writes records, so that collection spares what they count on. From any thread; never blocks."""

    def touch(self, nodes: Iterable[Node]) -> None:
        """A write that is about to be made, or is being made, refers to `nodes`."""

    def removed(self) -> None:
        """A record is gone: there may be something to collect."""


class Untracked:
    """A Tracker where nothing is collected."""

    def touch(self, nodes: Iterable[Node]) -> None: ...

    def removed(self) -> None: ...


class Collectible(Protocol):
    """Resources of some kinds, as garbage collection sees them. Blocking."""

    kinds: frozenset[str]

    def resources(self) -> Iterator[Resource]:
        """All there are, with what they keep and who keeps them. Need not be of one instant."""

    def order(self, dead: Iterable[Resource]) -> Sequence[Node]:
        """Those of `dead` that are of these kinds, in an order in which they can be removed."""

    def remove(self, nodes: Sequence[Node], still_dead: Callable[[Sequence[Node]], Sequence[Node]]) -> Sequence[Node]:
        """Remove those of `nodes` that `still_dead` confirms at the last moment; those that went."""

    def clean(self, removed: bool) -> None:
        """Give back space, if anything was `removed` since the last time, by collection or by hand."""
