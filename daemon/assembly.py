"""How holdd is put together. Reads from top to bottom as the story of the system, and is the one place that knows
everyone."""

import logging
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from msgspec.structs import asdict, replace

from daemon import builtin
from daemon.config import Config, changed, reloadable
from daemon.config import StreamProcessor as Processor
from daemon.content.room import Room
from daemon.diff.bounds import Bounds
from daemon.diff.chain import Chain
from daemon.figures import Internals, Telling
from daemon.flows.crew import Crew
from daemon.gc.collector import Collected, Collector
from daemon.gc.scheduler import Scheduler, Thresholds
from daemon.images.breaker import Breakers
from daemon.images.keeper import Keeper
from daemon.images.ranges import Ranges
from daemon.kit import atomic, tracing
from daemon.kit.keylock import KeyLock
from daemon.kit.threads import Pool, hop
from daemon.metadata.kv import BucketKV
from daemon.metadata.migrate import migrate
from daemon.metadata.tables import GLOBAL, NAMESPACES
from daemon.metrics import process
from daemon.notices import Notices
from daemon.plugins import Plugins
from daemon.restart.api import API
from daemon.restart.monitor import Monitor
from daemon.runtime.nursery import Nursery
from daemon.runtime.oci import RuntimeConfig
from daemon.runtime.tasks import Tasks
from daemon.scoped.content import ScopedContent
from daemon.scoped.garbage import IngestGarbage, RecordGarbage, SnapshotGarbage
from daemon.scoped.images import ScopedImages
from daemon.scoped.leases import Holds, ScopedLeases
from daemon.scoped.snapshots import ScopedSnapshots
from daemon.services.introspection import about_runtimes
from daemon.settings import dotted
from spec import errors, names, otel
from spec.api.service import Service
from spec.api.transfer import Registry
from spec.oci.image import OCI_LAYER_GZIP, Descriptor
from spec.ports import (
    Applier,
    Cancel,
    ContentStore,
    Differ,
    ImageArchive,
    ImageVerifier,
    LayerConverter,
    Registries,
    Snapshotter,
    StreamProcessor,
)
from spec.protocol import SERVICES
from spec.records import LeaseResource
from spec.restart import Delays
from spec.version import REVISION, VERSION

log = logging.getLogger(__name__)

TABLES = {service.__name__.lower(): service for service in SERVICES}


class System:
    """All components, made and joined; nothing has been recovered and no socket is open yet. The directories of the
    configuration are there."""

    runtime: Tasks
    services: Sequence[tuple[type[Service], object]]

    def __init__(self, config: Config, nursery: Nursery) -> None:
        self.config = config
        self._nursery = nursery
        self._pools: list[Pool] = []
        self._keeper: Keeper[Any] = Keeper()
        self._proxied = builtin.proxied({name: plugin.type for name, plugin in config.proxy_plugins.items()})
        rows = (*builtin.ROWS, *self._proxied)
        self._plugins = Plugins(rows, config.disabled_plugins, config.required_plugins)
        try:
            self._assemble()
        except BaseException:
            self.close()
            raise

    def _assemble(self) -> None:
        config = self.config
        # Who is told what took how long, if the environment names somebody.
        self.tracing = self._traced(otel.settings(os.environ))

        # Records and edges.
        self._store = self._plugins.one(
            builtin.METADATA,
            "lmdb",
            lambda cls: cls(self._root("metadata"), map_size=config.metadata.map_size, sync=config.metadata.sync),
        )
        migrate(self._store)

        # What happens is kept for a while, on disk if that has room, and told to whoever listens.
        os.makedirs(self._root("events"), mode=0o700, exist_ok=True)
        path = self._root("events", "ring")
        rings = self._plugins.every(builtin.RING, lambda row, cls: cls(path, config.events.ring_size))
        self._events = self._plugins.one(builtin.EVENT, "exchange", lambda cls: cls(rings.get("local")))

        # Bytes by digest, and trees by key.
        self._content = self._content_store()
        self._snapshotters = self._plugins.every(builtin.SNAPSHOTTER, self._snapshotter)

        # Layers and registries: what is imported when the first image is pulled.
        self._take_up()
        self._differs = [self._asked(id) for id in config.diff.differs]
        self._resolver = self._plugins.later(builtin.RESOLVER, "registry")
        self._breakers = Breakers()
        self._ranges = self._parts(config.registry.max_concurrent_ranges, config.registry.concurrent_layer_fetch_buffer)
        self._verifiers = self._plugins.every(
            builtin.VERIFIER, lambda row, cls: cls(**asdict(config.image_verifier))
        )
        self._archive = self._plugins.later(builtin.RESOLVER, "archive")

        # Running processes.
        self.runtime = self._plugins.one(
            builtin.RUNTIME,
            "tasks",
            lambda cls: cls(
                config.state,
                self._nursery,
                _runtimes(config),
                self._events,
                default_runtime=config.default_runtime,
                cgroup_parent=config.cgroup_parent,
                recent=self._events.recent,
            ),
        )

        # What they use of the host.
        self._meters = self._plugins.one(builtin.METRICS, "cgroups", lambda cls: cls())

        # Garbage: what keeps what, and when to look. Whoever writes records tells the collector.
        self._blobs = KeyLock()
        self._holds = Holds()
        self._collector = Collector(
            [
                RecordGarbage(self._store, self._content, self._blobs, self._holds, self._events),
                *(SnapshotGarbage(name, raw, self._events) for name, raw in self._snapshotters.items()),
                IngestGarbage(self._content),
            ],
            settle=self._store.settle,
        )
        self._gc_pool = self._pool("gc", 1)
        self.scheduler = self._plugins.one(builtin.GC, "scheduler", self._make_scheduler)
        self._collector.mutated = self.scheduler.notify

        # The API over all of them, what keeps containers running by it, and what there is to tell about it all.
        self.services = self._services()
        self.restarting = self._restarting()
        self.metrics = self._telling() if config.metrics.address else None
        self._plugins.check()

    def _traced(self, asked: otel.Settings | None) -> bool:
        if asked is None:
            return False
        exporter = self._plugins.one(builtin.METRICS, "otlp", lambda cls: cls(asked))
        tracing.install(tracing.Tracer(export=exporter.export, samples=exporter.samples))
        return True

    def _restarting(self) -> Monitor | None:
        """The restart monitor, unless it is disabled, or a service that it needs."""

        def make(row: builtin.Row, cls: type[Monitor]) -> Monitor:
            made = {table.__name__.lower(): service for table, service in self.services}
            if missing := {"namespaces", "containers", "tasks"} - made.keys():
                raise errors.Unimplemented(f"it needs service {', '.join(sorted(missing))}")
            api = API(made["namespaces"], made["containers"], made["tasks"], self._events.subscribe)  # type: ignore[arg-type]
            return cls(api, _delays(self.config))

        monitor: Monitor | None = self._plugins.every(builtin.RESTART, make).get("monitor")
        if monitor is not None:
            self._counted.append(monitor)
        return monitor

    def _telling(self) -> Telling:
        """What the metrics endpoint tells; made where there is one."""
        config = self.config.metrics
        containers = self._plugins.one(
            builtin.METRICS, "containers", lambda cls: cls(self._meters, self.runtime.tasks, config.groups)
        )
        calls = self._plugins.one(builtin.METRICS, "calls", lambda cls: cls(config.histogram))
        counted = [calls.families, *(found for part in self._counted if (found := getattr(part, "families", None)))]
        internals = Internals([*counted, process.families], self.runtime.tasks, self._pools)
        return Telling(containers, internals, calls, self._pool("scrape", 1))

    def reload(self, config: Config) -> list[str]:
        """Take up what of a new configuration can be without a restart; the keys that have to wait for one."""
        new = changed(self.config, config)
        kept = self.config
        self.config = replace(
            kept,
            log_level=config.log_level,
            log_format=config.log_format,
            default_snapshotter=config.default_snapshotter,
            gc=config.gc,
            restart=config.restart,
            registry=replace(kept.registry, hosts_dir=config.registry.hosts_dir),
            diff=replace(kept.diff, layers=config.diff.layers),
            stream_processors=config.stream_processors,
        )
        self._take_up()
        self.scheduler.thresholds = _thresholds(config)
        if self.restarting is not None:
            self.restarting.delays = _delays(config)
        return [dotted(path) for path in new if not reloadable(path)]

    def _take_up(self) -> None:
        config = self.config
        self._programs = _programs(config.stream_processors)
        self._bounds = Bounds(**asdict(config.diff.layers))

    def _asked(self, id: str) -> "Callable[[ContentStore, Sequence[StreamProcessor], Mapping[str, bytes]], Differ]":
        """What makes a differ, for each use."""
        if id in (row.id for row in self._proxied if row.type == builtin.DIFFER):
            plugin = self.config.proxy_plugins[id]
            proxy = self._plugins.one(builtin.DIFFER, id, lambda cls: cls(id, plugin, self.config.diff.sync_fs))
            return lambda content, programs, payloads: proxy.paid(payloads)
        found = self._plugins.later(builtin.DIFFER, id)
        return lambda content, programs, payloads: found()(content, programs, self._bounds)

    def _content_store(self) -> ContentStore:
        """The one in another process, if the configuration has one, instead of ours."""
        config = self.config
        others = [row.id for row in self._proxied if row.type == builtin.CONTENT]
        if len(others) > 1:
            raise errors.InvalidArgument(f"proxy_plugins: there is one content store, not {' and '.join(others)}")
        made: ContentStore
        if others:
            made = self._plugins.one(
                builtin.CONTENT, others[0], lambda cls: cls(others[0], config.proxy_plugins[others[0]])
            )
        else:
            made = self._plugins.one(
                builtin.CONTENT,
                "local",
                lambda cls: cls(self._root("content"), sync=config.content.sync, failed=self._disk_failed),
            )
        return made

    def _disk_failed(self, exc: OSError) -> None:
        """It told whoever synced first (fsync(2)): on the same disk it may fail records without a word."""
        if os.stat(self._root("content")).st_dev == os.stat(self._root("metadata")).st_dev:
            self._store.fail(str(exc))

    def _snapshotter(self, row: builtin.Row, cls: Any) -> Any:
        """One of the table, with the options that its section of the configuration has, or one in another process."""
        if row in self._proxied:
            return cls(row.id, self.config.proxy_plugins[row.id])
        options = asdict(getattr(self.config.snapshotter, row.id))
        root = options.pop("root_path") or self._root("snapshots", row.id)
        return cls(root, BucketKV(self._store, "snapshots", row.id), **options)

    def _services(self) -> Sequence[tuple[type[Service], object]]:
        io = self._pool("io", 16)
        journeys = self._pool("transfer", 8)
        downloads = self.config.registry.max_concurrent_downloads
        measuring = self._pool("metrics", 2)
        arguments: dict[str, tuple[Any, ...]] = {
            "version": (VERSION, REVISION),
            "namespaces": (self._store, self._events, self._snapshots_of),
            "images": (self, journeys, self._pool("hash", os.cpu_count() or 1)),
            "containers": (self._store, self._events, self._collector),
            "leases": (self.leases, self.collected, self.holders),
            "content": (self.content, self._content, io),
            "snapshots": (self.snapshotter, io),
            "tasks": (self._store, self.runtime, self.snapshotter, self._meters, measuring, self.content),
            "diff": (self.differ, self._pool("diff", 4), self.config.diff.sync_fs),
            "events": (self._events,),
            "introspection": (
                self._uuid(),
                self._plugins.infos,
                self,
                Notices(lambda: self.runtime.warnings).all,
                {(builtin.RUNTIME, "tasks"): about_runtimes(self.runtime, self)},
            ),
            "transfer": (
                self,
                journeys,
                self._pool("download", downloads),
                self._pool("upload", self.config.registry.max_concurrent_uploads),
                self._crew(downloads),
                self.config.diff.sync_fs,
            ),
        }
        made = self._plugins.every(builtin.SERVICE, lambda row, cls: cls(*arguments[row.id]))
        self._counted = [self._store, self._events, self.scheduler, *made.values()]
        return [(TABLES[id], service) for id, service in made.items()]

    # Components as one namespace sees them.

    def content(self, namespace: str) -> ContentStore:
        return ScopedContent(
            self._content,
            self._store,
            self._events,
            namespace,
            self._collector,
            self.leases(namespace).keep,
            self._blobs,
            self.config.metadata.content_sharing_policy == "isolated",
        )

    def images(self, namespace: str) -> ScopedImages:
        return ScopedImages(self._store, self._events, namespace, self._collector)

    def leases(self, namespace: str) -> ScopedLeases:
        return ScopedLeases(self._store, self._collector, self._holds, namespace)

    def snapshotter(self, namespace: str, name: str) -> Snapshotter:
        name = name or self.default_snapshotter(namespace)
        raw = self._snapshotters.get(name)
        if raw is None:
            raise errors.InvalidArgument(f"snapshotter {name} is unknown; there are {', '.join(self._snapshotters)}")
        return ScopedSnapshots(raw, name, self._events, namespace, self._collector, self.leases(namespace).keep)

    def applier(self, content: ContentStore) -> Applier:
        return self._differ(content, {})

    def differ(self, namespace: str, payloads: Mapping[str, bytes]) -> Differ:
        """With what is for stream processors, by their ids."""
        return self._differ(self.content(namespace), payloads)

    def _differ(self, content: ContentStore, payloads: Mapping[str, bytes]) -> Differ:
        programs = self._programs
        if programs and payloads:
            from daemon.diff.programs import paid

            programs = paid(programs, payloads)
        return Chain([made(content, programs, payloads) for made in self._differs])

    def converter(self, content: ContentStore) -> LayerConverter:
        from daemon.diff.converter import Converter

        return Converter(content, self._bounds)

    def resolver(self, source: Registry) -> Registries:
        """For one image, with the caller's credentials."""
        made: Registries = self._resolver()(
            source.hosts_dir or self.config.registry.hosts_dir,
            source.plain_http,
            source.skip_verify,
            source.username,
            source.secret,
            authorities=source.authorities,
            certificate=source.certificate,
            key=source.key,
            headers=source.headers,
            breakers=self._breakers,
            ranges=self._ranges,
            keeper=self._keeper,
            http_dump=source.http_dump,
            http_trace=source.http_trace,
        )
        return made

    def room(self, blobs: Sequence[Descriptor], doing: str) -> None:
        """Whether they fit in here; a content store in another process knows that itself."""
        if not any(row.type == builtin.CONTENT for row in self._proxied):
            Room(self._content, self._root("content")).check(blobs, doing)

    def verifiers(self) -> Sequence[ImageVerifier]:
        return list(self._verifiers.values())

    async def collected(self) -> Collected:
        """What a garbage collection did, begun now."""
        done: Collected = await self.scheduler.now()
        return done

    async def holders(self, namespace: str, type: str, id: str) -> Sequence[Sequence[LeaseResource]]:
        """Why a resource stays: a way from each root that keeps it."""
        ways = await hop(self._gc_pool, self._collector.holders, (type, namespace, id))
        return [[LeaseResource(id=id, type=kind) for kind, _, id in way] for way in ways]

    def archive(self, fd: int, cancel: Cancel, compress: bool) -> ImageArchive:
        """With `compress` docker's layers are stored as gzip."""
        from daemon.diff import compression, processors

        opened = partial(processors.opened, media_type=OCI_LAYER_GZIP, bounds=self._bounds)
        compressor = partial(compression.compressor, OCI_LAYER_GZIP) if compress else None
        made: ImageArchive = self._archive()(fd, self.config.root, cancel, opened, compressor)
        return made

    def default_snapshotter(self, namespace: str) -> str:
        return self._labelled(namespace, names.DEFAULT_SNAPSHOTTER) or self.config.default_snapshotter

    def default_runtime(self, namespace: str) -> str:
        return self._labelled(namespace, names.DEFAULT_RUNTIME) or self.config.default_runtime

    def _labelled(self, namespace: str, label: str) -> str:
        if not namespace:
            return ""
        with self._store.view() as view:
            row = NAMESPACES.find(view, GLOBAL, namespace)
        return row.labels.get(label, "") if row is not None else ""

    def _snapshots_of(self, namespace: str) -> Sequence[str]:
        """Which snapshotters hold snapshots of a namespace, as text."""
        return [f"snapshots ({name})" for name in self._snapshotters if any(self.snapshotter(namespace, name).list())]

    def tidy(self) -> None:
        """Finish what an earlier daemon left half removed, and try out what this host can. Blocking; beside everything
        else. What is in other processes is theirs to tidy."""
        others = {row.id for row in self._proxied if row.type == builtin.SNAPSHOTTER}
        for name, snapshotter in self._snapshotters.items():
            if name in others:
                continue
            try:
                snapshotter.cleanup()
            except (errors.Error, OSError) as exc:
                log.warning("tidying snapshotter %s: %s", name, exc)
            getattr(snapshotter, "capabilities", None)

    def close(self) -> None:
        """Close all components, last made first. Shims and what they run live on."""
        for pool in self._pools:
            pool.close()
        self._keeper.close()
        tracing.install(None)
        self._plugins.close()

    def _make_scheduler(self, cls: type[Scheduler]) -> Scheduler:
        return cls(lambda: hop(self._gc_pool, self._collector.collect), _thresholds(self.config))

    def _pool(self, name: str, size: int) -> Pool:
        pool = Pool(name, size)
        self._pools.append(pool)
        return pool

    def _parts(self, most: int, size: int) -> Ranges | None:
        return Ranges(self._pool("range", most).executor, most, size) if most and size else None

    def _crew(self, downloads: int) -> Crew:
        """Layers wait for their bytes beside those that are unpacked, so there are threads for both."""
        size = self.config.transfer.max_concurrent_unpacks or len(os.sched_getaffinity(0))
        return Crew(self._pool("unpack", size + downloads).executor, size)

    def _root(self, *parts: str) -> str:
        return os.path.join(self.config.root, *parts)

    def _uuid(self) -> str:
        """The root directory's identity, made once."""
        path = self._root("uuid")
        try:
            with open(path) as file:
                return file.read().strip()
        except FileNotFoundError:
            identity = str(uuid.uuid4())
            atomic.write(path, identity.encode())
            return identity


def make_directories(config: Config) -> None:
    """root and state, with containerd's modes whatever the umask."""
    for path, mode in ((config.root, 0o700), (config.state, 0o711)):
        try:
            os.makedirs(path, exist_ok=True)
            os.chmod(path, mode)
        except OSError as exc:
            raise errors.from_os(exc, f"making {path}") from exc


def _programs(entries: Mapping[str, Processor]) -> Sequence[StreamProcessor]:
    """Few have any: what runs them is imported with the first."""
    if not entries:
        return ()
    from daemon.diff.programs import Program

    return [Program(id, **asdict(entry)) for id, entry in entries.items()]


def _thresholds(config: Config) -> Thresholds:
    given = config.gc
    return Thresholds(
        pause=given.pause_threshold,
        deletions=given.deletion_threshold,
        mutations=given.mutation_threshold,
        delay_s=given.schedule_delay_s,
        startup_delay_s=given.startup_delay_s,
    )


def _delays(config: Config) -> Delays:
    given = config.restart
    return Delays(first=given.delay_s, longest=given.max_delay_s, reset=given.reset_s, grace=given.grace_s)


def _runtimes(config: Config) -> Mapping[str, RuntimeConfig]:
    return {name: RuntimeConfig(**asdict(entry)) for name, entry in config.runtimes.items()}
